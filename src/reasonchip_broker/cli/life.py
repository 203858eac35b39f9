"""Options for the whole life of a job: how often it is tried, for how long, and what outlives whom."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from reasonchip_broker.cli.command import SECONDS_MAX, Seconds
from reasonchip_broker.client import Options
from reasonchip_broker.limits import ATTEMPTS_MAX, PRIORITIES, PRIORITY_DEFAULT

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

POLICIES = ("continue", "cancel")


class DisconnectPolicy(click.ParamType[str | float]):
    """What becomes of a job whose client is gone: a word, or seconds."""

    name = "policy"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | float:
        """The policy as the client library takes it. Fails for what is none."""
        if value in POLICIES:
            return str(value)
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds <= SECONDS_MAX:
            self.fail(f"{value!r} is none of continue, cancel, and a number of seconds.", param, ctx)
        return seconds


class Moment(click.ParamType["float | datetime"]):
    """When a job may start: a number of seconds from now, or a time that has a zone."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | datetime:
        """The moment as the client library takes it. Fails for what is none, and for a time that means another moment elsewhere."""
        try:
            return float(value)
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            example = "a number of seconds from now, nor a time like 2026-12-01T08:00+01:00"
            self.fail(f"{value!r} is neither {example}.", param, ctx)
        if moment.utcoffset() is None:
            here = moment.astimezone().isoformat(timespec="minutes")
            self.fail(f"{value!r} has no time zone: here it would be {here}.", param, ctx)
        return moment


class Label(click.ParamType[tuple[str, str]]):
    """A worker's label: its name and its value."""

    name = "label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The label as a pair. Fails for what is none."""
        if isinstance(value, tuple):
            return value
        name, _, said = str(value).partition("=")
        if not name or not said:
            self.fail(f"a label is NAME=VALUE, like gpu=h200, not {value!r}.", param, ctx)
        return name, said


_OPTIONS = (
    click.option(
        "--require",
        type=Label(),
        multiple=True,
        metavar="NAME=VALUE",
        help="Only on workers that have this label. May be repeated.",
    ),
    click.option(
        "--prefer",
        type=Label(),
        multiple=True,
        metavar="NAME=VALUE",
        help="Rather on workers that have this label. May be repeated.",
    ),
    click.option("--only-served", is_flag=True, help="Don't wait for a worker to come: refuse the job if none serves it."),
    click.option(
        "--not-before",
        type=Moment(),
        metavar="WHEN",
        help="Start it so many seconds from now, or at a time with its zone, like 2026-12-01T08:00+01:00, and not before.",
    ),
    click.option(
        "--priority",
        type=click.IntRange(0, PRIORITIES - 1),
        default=PRIORITY_DEFAULT,
        show_default=True,
        metavar="0-9",
        help="Among jobs that wait for the same workers, the highest goes first.",
    ),
    click.option(
        "--fairness-key",
        default="",
        metavar="NAME",
        help="Take turns with the jobs of that name, instead of this client's own.",
    ),
    click.option(
        "--affinity-key",
        default="",
        metavar="NAME",
        help="Rather on the worker that had the last job of that name.",
    ),
    click.option("--timeout", type=Seconds(), metavar="SECONDS", help="End the job if it is not over by then, wherever it is."),
    click.option(
        "--queue-limit",
        type=Seconds(),
        metavar="SECONDS",
        help="End it if it waits for a slot for longer than that.",
    ),
    click.option(
        "--run-limit",
        type=Seconds(),
        metavar="SECONDS",
        help="End it if an attempt runs for longer, unless its handler asks for more.",
    ),
    click.option(
        "--attempts",
        type=click.IntRange(1, ATTEMPTS_MAX),
        default=1,
        show_default=True,
        metavar="N",
        help="Try it so often, when its worker is lost. It may then run more than once.",
    ),
    click.option(
        "--backoff",
        type=Seconds(zero=True),
        metavar="SECONDS",
        help="Before the second attempt; twice as long before each further one. [default: 0.5]",
    ),
    click.option(
        "--retry-on",
        multiple=True,
        metavar="NAME",
        help="Also when its handler raises this exception; * is any. May be repeated.",
    ),
    click.option(
        "--on-disconnect",
        type=DisconnectPolicy(),
        default="continue",
        show_default=True,
        metavar="POLICY",
        help="If this client is gone: continue, cancel, or cancel after so many seconds unless somebody attaches.",
    ),
    click.option(
        "--retention",
        type=Seconds(zero=True),
        metavar="SECONDS",
        help="How long its outcome can be fetched if nobody was there. [default: as the broker has it]",
    ),
    click.option("--batch", type=click.UUID, metavar="UUID", help="The batch that it is a part of, for `cancel --batch`."),
    click.option("--parent", type=click.UUID, metavar="COOKIE", help="The running job that it is a part of, and ends with."),
    click.option("--loose", is_flag=True, help="With --parent: go on when that one is cancelled or fails."),
)

_NAMES = {
    "timeout": "deadline_s",
    "queue_limit": "queue_limit_s",
    "run_limit": "run_limit_s",
    "backoff": "backoff_s",
    "retention": "retention_s",
}


def life_options(function: Decorated) -> Decorated:
    """All of these options."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def options_of(said: dict[str, Any], *, detach: bool) -> Options:
    """The client's options for what was said on the command line. Raises click.UsageError for what makes no sense together."""
    if said["attempts"] == 1 and (said["retry_on"] or said["backoff"] is not None):
        option = "--retry-on" if said["retry_on"] else "--backoff"
        raise click.UsageError(f"{option} is for jobs that may be tried again: say --attempts 2, or more.")
    if said["loose"] and said["parent"] is None:
        raise click.UsageError("--loose is for a job that outlives its parent: say which one that is with --parent.")
    if detach and said["on_disconnect"] in ("cancel", 0.0):
        raise click.UsageError("--detach leaves the job alone, and --on-disconnect cancel would cancel it for that.")
    wanted = {_NAMES.get(name, name): value for name, value in said.items() if value is not None}
    wanted |= {name: dict(said[name]) or None for name in ("require", "prefer")}
    try:
        return Options(**wanted, detach=detach)
    except (TypeError, ValueError) as error:
        raise click.UsageError(f"{error}.") from error
