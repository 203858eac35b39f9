"""`reasonchip-broker worker`."""

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType

import click

from reasonchip_broker.cli import logs
from reasonchip_broker.cli.command import Command
from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.cli.life import Label
from reasonchip_broker.cli.settings import LOG_FORMATS, LOG_LEVELS
from reasonchip_broker.limits import SESSION_GRACE_S_MAX, WORKER_CAPACITY_MAX
from reasonchip_broker.worker import Worker


@click.command(
    "worker",
    cls=Command,
    examples=[
        ("reasonchip-broker worker jobs:worker", "the Worker named `worker` in jobs.py, or of the package jobs"),
        (
            "reasonchip-broker worker jobs --broker tcp://localhost:51510 --capacity 8",
            "the only Worker there; eight jobs at a time",
        ),
        (
            "reasonchip-broker worker jobs --name gpu-1 --session-grace 20",
            "a lost connection costs no job, if it is back in 20 s",
        ),
        ("reasonchip-broker worker jobs --processes", "each handler in a process of its own, which may crash or be killed"),
    ],
)
@click.argument("target", metavar="MODULE[:OBJECT]")
@click.option(
    "--broker",
    metavar="URL",
    envvar="REASONCHIP_WORKER_URL",
    show_envvar=True,
    help="Where the broker listens for workers. [default: as the module says]",
)
@click.option(
    "--capacity",
    type=click.IntRange(1, WORKER_CAPACITY_MAX),
    metavar="N",
    help="How many jobs may run at a time. [default: as the module says]",
)
@click.option(
    "--name",
    metavar="NAME",
    help="What to call this worker, in logs, in `status` and for `drain`. One worker a name: the newest stays. "
    "[default: as the module says]",
)
@click.option(
    "--session-grace",
    "session_grace_s",
    type=click.FloatRange(0, SESSION_GRACE_S_MAX),
    metavar="SECONDS",
    help="If the connection is lost, how long the broker waits for this worker before its jobs are lost. "
    "[default: as the module says]",
)
@click.option(
    "--label",
    "labels",
    type=Label(),
    multiple=True,
    metavar="NAME=VALUE",
    help="What jobs may require of a worker, like gpu=h200. May be repeated. [default: as the module says]",
)
@click.option("--processes", is_flag=True, help="Run every handler in a process of its own.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True, help="Log from this level on.")
@click.option(
    "--log-format", type=click.Choice(LOG_FORMATS), default="auto", help="auto: console on a terminal, JSON elsewhere."
)
def command(
    target: str,
    broker: str | None,
    capacity: int | None,
    name: str | None,
    session_grace_s: float | None,
    labels: tuple[tuple[str, str], ...],
    processes: bool,
    log_level: str,
    log_format: str,
) -> Exit:
    """Run a worker that is defined in a Python module.

    The module is looked for in this directory first; what is looked for in it is a `reasonchip_broker.worker.Worker`. It connects, and
    connects again whenever the connection ends, until SIGTERM or Ctrl-C: then it takes no more jobs and finishes those that run. A
    second signal stops those as well.
    """
    # Before the module is imported, so that what it logs meanwhile is seen too.
    logs.configure(log_level, log_format)
    worker = _load(target)
    try:
        worker.configure(
            url=broker,
            capacity=capacity,
            name=name,
            session_grace_s=session_grace_s,
            labels=dict(labels) or None,
            executor="process" if processes else None,
        )
        worker.run()
    except (TypeError, ValueError) as error:
        raise click.UsageError(f"{target} can't be run: {error}.") from error
    return Exit.OK


def _load(target: str) -> Worker:
    """The worker of `MODULE:OBJECT`, `MODULE` or `FILE.py:OBJECT`. Raises click.UsageError."""
    name, _, attribute = target.partition(":")
    folder = os.getcwd()
    if name.endswith(".py"):
        folder, name = str(Path(name).resolve().parent), Path(name).stem
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise click.UsageError(f"{name} can't be imported: {error}.") from error
        raise click.UsageError(f"There is no module {name!r} in {folder}, or anywhere else where Python looks.") from error
    except Exception as error:
        raise click.UsageError(f"{name} can't be imported: {type(error).__name__}: {error} ({_place(error)}).") from error
    return _worker_in(module, attribute)


def _place(error: Exception) -> str:
    """Where it was raised, in the user's own words: file and line."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def _worker_in(module: ModuleType, attribute: str) -> Worker:
    workers = {name: value for name, value in vars(module).items() if isinstance(value, Worker)}
    if not attribute:
        if len({id(worker) for worker in workers.values()}) == 1:
            return next(iter(workers.values()))
        advice = f"name one of {', '.join(workers)}" if workers else "make one: worker = Worker()"
        raise click.UsageError(f"There is not exactly one Worker in {module.__name__}; {advice}.")
    value = getattr(module, attribute, None)
    if isinstance(value, Worker):
        return value
    there = "is nothing" if value is None else f"is a {type(value).__name__}"
    advice = f"there is {', '.join(workers)}" if workers else "there is no Worker in that module"
    raise click.UsageError(f"{module.__name__}:{attribute} {there}, and must be a Worker; {advice}.")
