"""Text that came from elsewhere (a peer, a file name, an exception), made safe to print on one line.

A terminal obeys what it prints: an escape sequence in a worker's name could rewrite the screen, a line end in an error could fake a
line of the log, and a bidirectional override could show one name as another. Whatever is no plain printable character is written as
an escape.
"""

import re
from collections.abc import Mapping
from typing import Any

# C0 and C1 controls and DEL; line and paragraph separators; bidirectional and invisible format characters; lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """The text with every character that a terminal would obey, or not show, written as an escape."""
    return _UNPRINTABLE.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Like `printable`, but line ends and tabs stay: for results and stack traces, which are meant to have lines."""
    return "\n".join(line.replace("\t", "    ") if line.isprintable() else _keep_tabs(line) for line in text.splitlines())


def printable_value(value: Any) -> Any:
    """`printable`, for each text inside a value of any depth."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable_value(key): printable_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [printable_value(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else printable(str(value))


def _keep_tabs(line: str) -> str:
    return "    ".join(printable(part) for part in line.split("\t"))


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
