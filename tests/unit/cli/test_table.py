import pytest

from reasonchip_broker.cli.table import table


def test_texts_begin_and_numbers_end_at_the_same_place():
    assert table(("name", "jobs", "why"), [("a", 1, "x"), ("longer", 12_345, "")]) == [
        "name       jobs   why",
        "a             1   x",
        "longer   12,345",
    ]


def test_a_column_with_a_text_in_it_is_one_of_texts():
    assert table(("n", "m"), [(1, 2), ("", 34)]) == ["n    m", "1    2", "    34"]


def test_without_rows_there_are_the_heads():
    assert table(("name", "jobs"), []) == ["name   jobs"]


@pytest.mark.parametrize("name", ["日本語", "e\u0301té"])
def test_columns_stay_in_line_whatever_is_written_in_them(name):
    from rich.cells import cell_len

    first, second, third = table(("name", "x"), [(name, "x"), ("abcdefgh", "x")])
    assert cell_len(first) == cell_len(second) == cell_len(third)


def test_what_would_move_a_cursor_is_shown_as_an_escape():
    assert table(("name",), [("evil\x1b[2J\n",)])[1] == "evil\\x1b[2J\\n"
