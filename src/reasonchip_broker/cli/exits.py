"""Exit codes: one table for all commands, the same that `docs/reference/command-line.md` has."""

from enum import IntEnum

import click

from reasonchip_broker.errors import (
    ConnectionLost,
    EndpointError,
    JobFailed,
    ReasonChipError,
    RemoteProtocolError,
    RequestRefused,
    TransportError,
)


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    """It did what it was asked for."""

    FAILED = 1
    """The job failed; or a broker was stopped while jobs still ran; or the demo's numbers do not add up."""

    USAGE = 2
    """The command line, a setting or a file makes no sense: nothing was done."""

    UNREACHABLE = 3
    """No connection, or a listener that can't be bound."""

    REFUSED = 4
    """The broker refused: there is no job."""

    BUG = 70
    """A fault of ours. There is a traceback, which we should like to see."""

    INTERRUPTED = 130
    """Ctrl-C: 128 + 2. As everywhere, 128 + N is for signal N."""

    BROKEN_PIPE = 141
    """Whoever read the output stopped reading."""

    TERMINATED = 143
    """SIGTERM, for commands that don't drain."""


class Fault(click.ClickException):
    """Something that the user should know and can mend: one line, and an exit code."""

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code


def code_of(error: ReasonChipError) -> Exit:
    """The exit code for an error of the libraries."""
    if isinstance(error, EndpointError):
        return Exit.USAGE
    if isinstance(error, TransportError | ConnectionLost):
        return Exit.UNREACHABLE
    if isinstance(error, RequestRefused):
        return Exit.REFUSED
    # A RemoteProtocolError that reaches a command is a result that can't be read.
    return Exit.FAILED if isinstance(error, JobFailed | RemoteProtocolError) else Exit.BUG
