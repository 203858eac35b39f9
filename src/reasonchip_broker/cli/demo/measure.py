"""Measuring one file: what kind of file it is, its lines, its tokens, the words in its names."""

import io
import keyword
import stat
import tokenize
from collections import Counter
from pathlib import Path

from reasonchip_broker.cli.demo.findings import FileFindings
from reasonchip_broker.cli.demo.terms import commonest, words_of_names, words_of_text

FILE_BYTES_MAX = 4 * 1024 * 1024
"""A larger file is data, whatever its name says, and would hold up its slot for seconds."""

_LOOKED_AT_BYTES = 8192
_SILENT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING}
_STARTS_A_STATEMENT = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
_KEYWORDS = frozenset(keyword.kwlist)


def measure(root: bytes, path: bytes) -> FileFindings:
    """Measure a file. One that can't be is a finding too: `skipped` says why. Raises nothing for whatever a file may hold."""
    found = FileFindings(path=path)
    try:
        data = _read(Path(_text(root), _text(path)), found)
        if not found.skipped:
            _measure(data, path, found)
    except OSError as error:
        found.skipped = (error.strerror or type(error).__name__).lower()
    except (UnicodeDecodeError, LookupError):
        found.skipped = "not text in its encoding"
    return found


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _read(path: Path, found: FileFindings) -> bytes:
    status = path.stat()
    found.size = status.st_size
    if not stat.S_ISREG(status.st_mode):
        found.skipped = "not a regular file"
    elif status.st_size > FILE_BYTES_MAX:
        found.skipped = f"larger than {FILE_BYTES_MAX // 1024 // 1024} MiB"
    elif status.st_size > 0:
        # Not so much as a look at what is empty: files of /proc say so, and some of them never end.
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX)
        if b"\0" in data[:_LOOKED_AT_BYTES]:
            found.skipped = "binary"
        return data
    return b""


def _measure(data: bytes, path: bytes, found: FileFindings) -> None:
    if not data:
        found.note = "empty"
        return
    if path.endswith((b".py", b".pyi")):
        try:
            _measure_python(data, found)
            return
        except (tokenize.TokenError, SyntaxError) as error:
            found.note = f"does not tokenise ({error.args[0] if error.args else error}): counted as text"
    _measure_text(data.decode("utf-8-sig"), found)


def _measure_text(text: str, found: FileFindings) -> None:
    lines = text.splitlines()
    found.lines = len(lines)
    found.blank = sum(not line.strip() for line in lines)
    found.code = found.lines - found.blank
    found.comment = found.functions = found.classes = 0
    words = words_of_text(text)
    found.tokens = words.total()
    found.terms = commonest(words)


def _measure_python(data: bytes, found: FileFindings) -> None:
    """Raises tokenize.TokenError, SyntaxError, UnicodeDecodeError."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    text = io.TextIOWrapper(io.BytesIO(data), encoding).read()
    lines = text.count("\n") + (not text.endswith("\n"))
    has_code = bytearray(lines + 2)
    has_comment = bytearray(lines + 2)
    names: Counter[str] = Counter()
    tokens = 0
    before = tokenize.ENCODING
    for kind, string, (first, _), (last, _), _ in tokenize.generate_tokens(io.StringIO(text).readline):
        if kind == tokenize.COMMENT:
            has_comment[first] = 1
            tokens += 1
            continue
        if kind == tokenize.NL:
            continue
        if kind == tokenize.STRING and before in _STARTS_A_STATEMENT:
            has_comment[first : last + 1] = b"\1" * (last - first + 1)
            tokens += 1
        elif kind not in _SILENT:
            tokens += 1
            has_code[first] = 1
            if last != first:
                has_code[first : last + 1] = b"\1" * (last - first + 1)
            if kind == tokenize.NAME:
                names[string] += 1
        before = kind
    found.lines = lines
    found.code = sum(has_code)
    found.comment = sum(comment and not code for comment, code in zip(has_comment, has_code, strict=True))
    found.blank = max(0, lines - found.code - found.comment)
    found.tokens = tokens
    found.functions = names["def"]
    found.classes = names["class"]
    for word in _KEYWORDS:
        del names[word]
    found.terms = commonest(words_of_names(names))
