"""What the demo's jobs give back, as they travel: the results of a file job, of a merge, of the last merges."""

import msgspec


class _Findings(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is counted, of a file and of a package alike."""

    size: int = 0
    """In bytes, as are all sizes."""
    lines: int = 0
    code: int = 0
    comment: int = 0
    """Lines of comments and docstrings."""
    blank: int = 0
    tokens: int = 0
    functions: int = 0
    classes: int = 0
    terms: dict[str, int] = {}
    """The words that its names are made of, and how often each occurs: the commonest of them."""


class FileFindings(_Findings, kw_only=True):
    """One file, measured. `path` is relative to the tree and in bytes, since a file name need not be text."""

    path: bytes
    worker: str = ""
    """Who measured it."""
    skipped: str = ""
    """Why it was not measured; empty if it was."""
    note: str = ""
    """What was odd about it, though it was measured."""


class PackageFindings(_Findings, kw_only=True):
    """A package: the sum of its files."""

    package: str
    files: int = 0
    documents: dict[str, int] = {}
    """In how many of its files each term occurs."""


class TreeFindings(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The whole tree: its packages, and in how many of all its files each term occurs (those in more than one)."""

    files: int
    packages: list[PackageFindings]
    documents: dict[str, int]


SUMMED = ("files", "size", "lines", "code", "comment", "blank", "tokens", "functions", "classes")
"""The fields of `PackageFindings` that are added up."""
