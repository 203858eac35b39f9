import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonchip_broker.cli.text import duration, printable, printable_json, printable_lines, printable_value


def test_plain_text_stays_as_it_is():
    text = "Zoë's naïve café: 日本語, 4 × 64 µs – “quoted” \\ 'x'"
    assert printable(text) == text


def test_what_a_terminal_would_obey_is_escaped():
    assert printable("a\x1b[2Jb") == "a\\x1b[2Jb"
    assert printable("a\r\nb\tc") == "a\\r\\nb\\tc"
    assert printable("\x9b31m\x7f\x00") == "\\x9b31m\\x7f\\x00"
    assert printable("safe\u202egnp.exe") == "safe\\u202egnp.exe"
    assert printable("a\u2028b\ufeff\ud800") == "a\\u2028b\\ufeff\\ud800"


@given(st.text())
def test_row_28_whatever_the_text_it_prints_as_one_line_without_controls(text):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not [character for character in shown if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")]


@given(st.text())
def test_json_stays_the_same_value_and_moves_no_cursor(text):
    shown = printable_json(json.dumps(text, ensure_ascii=False))
    assert json.loads(shown) == text
    assert not [character for character in shown if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")]


def test_lines_are_kept_where_text_is_meant_to_have_them():
    assert printable_lines("a\tb\n\x1b[31mc\r\nd\n") == "a    b\n\\x1b[31mc\nd"


def test_values_are_escaped_at_any_depth_and_stay_what_they_are_otherwise():
    value = {"a\n": ["\x1b", ("x\r", 1, 2.5, None, True)], "b": b"\x1b"}
    assert printable_value(value) == {"a\\n": ["\\x1b", ["x\\r", 1, 2.5, None, True]], "b": "b'\\x1b'"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.35, "350 ms"),
        (1.25, "1.2 s"),
        (59.6, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (7860, "2 h 11 min"),
        (367_200, "4 d 6 h"),
    ],
)
def test_a_time_has_the_two_units_that_matter(seconds, text):
    assert duration(seconds) == text
