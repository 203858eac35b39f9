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


def printable_json(encoded: str) -> str:
    """JSON that is the same value, with every such character in its texts written as JSON's own escape."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", encoded)


def printable_value(value: Any) -> Any:
    """`printable`, for each text inside a value of any depth."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable_value(key): printable_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [printable_value(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else printable(str(value))


def duration(seconds: float) -> str:
    """A time for people, in the two units that matter: `350 ms`, `12 s`, `3 min 5 s`, `2 h 10 min`, `4 d 6 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    for unit, name, below, below_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            rest = whole % unit // below
            return f"{whole // unit} {name}" + (f" {rest} {below_name}" if rest else "")
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def _keep_tabs(line: str) -> str:
    return "    ".join(printable(part) for part in line.split("\t"))


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
