"""What commands share: examples in their help, and options that mean the same everywhere."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

SECONDS_MAX = 0xFFFFFFFF / 1000
"""About 49 days: times travel as milliseconds in 32 bits."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Command(click.Command):
    """A command whose help ends with examples: pairs of a command line and what it does."""

    def __init__(self, *arguments: Any, examples: list[tuple[str, str]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples."""
        with formatter.section("Examples"):
            # Not wrapped: each line is to be copied whole.
            indent = " " * formatter.current_indent
            for line, purpose in self.examples:
                formatter.write(f"{indent}# {purpose}\n{indent}{line}\n")


class Seconds(click.ParamType[float]):
    """A time in seconds; over 0, or also 0. No longer than the wire can say."""

    name = "seconds"

    def __init__(self, *, zero: bool = False) -> None:
        self.zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Fails for what is none, and for one out of its range."""
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not (0 < seconds <= SECONDS_MAX or (self.zero and seconds == 0)):
            least = "from" if self.zero else "over"
            self.fail(f"{value!r} is no number of seconds {least} 0 and up to {SECONDS_MAX:.0f}.", param, ctx)
        return seconds


def json_option(function: Decorated) -> Decorated:
    """`--json`: what goes to stdout is one JSON value."""
    return click.option("--json", "as_json", is_flag=True, help="Print one line of JSON instead of text.")(function)


def broker_option(function: Decorated) -> Decorated:
    """`--broker`: where a client connects."""
    return click.option(
        "--broker",
        metavar="URL",
        default="tcp://localhost",
        show_default=True,
        envvar="REASONCHIP_CLIENT_URL",
        show_envvar=True,
        help="Where the broker listens for clients.",
    )(function)
