"""A job's variables from a command line: `--set NAME=VALUE` and `--vars FILE`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

STDIN = "-"


def variables(pairs: Sequence[str], file: str | None) -> dict[str, Any]:
    """The variables of a file (`-`: of stdin), and over them those that were set one by one. Raises click.UsageError."""
    found = _from_file(file) if file is not None else {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--set takes NAME=VALUE, not {pair!r}.")
        found[name] = value_of(value)
    return found


def value_of(text: str) -> Any:
    """JSON where it is JSON, otherwise the text itself: `3` is a number, `Ada` needs no quotes, and `"3"` is a text."""
    try:
        return msgspec.json.decode(text.encode("utf-8", "surrogateescape"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return text


def _from_file(name: str) -> dict[str, Any]:
    what = "stdin" if name == STDIN else name
    try:
        data = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise click.UsageError(f"Can't read the variables of {what}: {error.strerror or error}.") from error
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.ValidationError as error:
        raise click.UsageError(f'The variables of {what} must be a JSON object, such as {{"name": "Ada"}}.') from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise click.UsageError(f"The variables of {what} are not JSON: {error}.") from error
