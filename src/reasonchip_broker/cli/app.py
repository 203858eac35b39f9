"""The commands, loaded when they are asked for, and what happens to their errors."""

import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from reasonchip_broker.cli.exits import Exit, Fault, code_of
from reasonchip_broker.cli.text import printable
from reasonchip_broker.errors import ReasonChipError

PROGRAM = "reasonchip-broker"

COMMANDS = {
    "serve": ("serve", "Run a broker, until SIGTERM or Ctrl-C."),
    "worker": ("worker", "Run a worker that is defined in a Python module."),
    "run": ("run", "Run one job and print its result."),
    "attach": ("attach", "Wait for a job by its cookie, or fetch its outcome, whoever ran it."),
    "status": ("status", "Say where a job is and, if it waits, why."),
    "queue": ("queue", "Show who waits for what: workers, fairness keys, jobs that wait and limits."),
    "send": ("send", "Send input to a running job, whoever ran it."),
    "cancel": ("cancel", "Cancel a job by its cookie, or all jobs of a batch."),
    "drain": ("drain", "Have a worker finish its jobs and leave."),
    "demo": ("demo.command", "Show it all at work on real files."),
    "bench": ("bench", "Measure jobs a second and latency on this machine."),
    "version": ("version", "Print the versions of this program."),
}
"""Each command's module below `cli`, and its line in the list of commands (a test holds it to the command's own)."""


class LazyGroup(click.Group):
    """Knows its commands by name, and imports a command's module only to run it, or to help with it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by its name; None if there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"reasonchip_broker.cli.{COMMANDS[cmd_name][0]}").command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, none of them imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments name. Raises click.UsageError, with those that there are."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"There is no command {args[0]!r}; there are {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    epilog="Start with `reasonchip-broker demo`. Every command has examples: `reasonchip-broker run --help`.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def program() -> None:
    """The ReasonChip broker: it takes jobs from clients, gives each to a worker with room for it, and carries the result back."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code. A mistake of the user's, or of the world's, is one line on stderr."""
    try:
        return _run(arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return Exit.USAGE
    except click.UsageError as error:
        complain(f"{error.format_message()}{_hint(error.ctx)}")
        return Exit.USAGE
    except Fault as error:
        complain(error.message)
        return error.code
    except click.ClickException as error:
        complain(error.format_message())
        return Exit.USAGE
    except (KeyboardInterrupt, click.Abort):
        complain("interrupted")
        return Exit.INTERRUPTED
    except Exception:
        traceback.print_exc()
        complain("that was not meant to happen: a bug of ours; please report it with the lines above")
        return Exit.BUG


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = program.main(args=None if arguments is None else list(arguments), prog_name=PROGRAM, standalone_mode=False)
        return int(code or Exit.OK)
    except ReasonChipError as error:
        if code_of(error) is Exit.BUG:
            raise
        raise Fault(str(error), code_of(error)) from error


def complain(message: str) -> None:
    """One line on stderr, whatever the message contains."""
    click.echo(f"{PROGRAM}: {printable(' '.join(message.split()))}", err=True)


def _hint(context: click.Context | None) -> str:
    return f" See `{context.command_path} --help`." if context is not None else ""
