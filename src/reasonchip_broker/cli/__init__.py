"""The command line: `reasonchip-broker`.

One file for each command; `app.py` lists them and loads the one that is asked for. What a command finds goes to stdout, everything
else to stderr, and `exits.py` has the exit codes.
"""

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (that of the process, if None) and return its exit code. Never raises but for a bug of ours."""
    from reasonchip_broker.cli.app import run

    return run(arguments)
