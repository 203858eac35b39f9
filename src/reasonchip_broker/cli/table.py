"""Tables of text, for people: columns as wide as what is in them, lines as long as they get.

A terminal wraps what is too long; a name that is cut, to fit, is of no use to whoever looks for it.
"""

from collections.abc import Sequence

from rich.cells import cell_len

from reasonchip_broker.cli.text import printable

_GAP = "   "


def table(heads: Sequence[str], rows: Sequence[Sequence[str | int]]) -> list[str]:
    """A line for the heads of the columns, and one for each row: numbers end at the same place, texts begin at the same."""
    lines = [list(heads), *([_text_of(cell) for cell in row] for row in rows)]
    widths = [max(cell_len(line[place]) for line in lines) for place in range(len(heads))]
    are_numbers = [bool(rows) and all(isinstance(row[place], int) for row in rows) for place in range(len(heads))]
    return [
        _GAP.join(
            _padded(cell, width, is_number) for cell, width, is_number in zip(line, widths, are_numbers, strict=True)
        ).rstrip()
        for line in lines
    ]


def _text_of(cell: str | int) -> str:
    return f"{cell:,}" if isinstance(cell, int) else printable(cell)


def _padded(text: str, width: int, is_number: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if is_number else text + space
