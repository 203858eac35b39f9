import io
import sys

import click
import pytest

from reasonchip_broker.cli.variables import variables


def test_values_are_json_where_they_parse_and_text_otherwise():
    pairs = ["a=3", "b=2.5", "c=true", "d=null", 'e=["x", 1]', "f=Ada", 'g="3"', "h=", "i=x=y", "j={broken", "k=3 apples"]
    assert variables(pairs, None) == {
        "a": 3,
        "b": 2.5,
        "c": True,
        "d": None,
        "e": ["x", 1],
        "f": "Ada",
        "g": "3",
        "h": "",
        "i": "x=y",
        "j": "{broken",
        "k": "3 apples",
    }


def test_nothing_said_is_an_empty_map():
    assert variables([], None) == {}


def test_what_is_set_wins_over_the_file(tmp_path):
    file = tmp_path / "vars.json"
    file.write_text('{"name": "Ada", "age": 36}')
    assert variables(["name=Zoë"], str(file)) == {"name": "Zoë", "age": 36}


def test_a_dash_is_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO('{"name": "Zoë"}'.encode())))
    assert variables([], "-") == {"name": "Zoë"}


@pytest.mark.parametrize("pair", ["name", "=3", ""])
def test_what_is_no_pair_is_refused(pair):
    with pytest.raises(click.UsageError, match="NAME=VALUE"):
        variables([pair], None)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[1]", "must be a JSON object"),
        (b"", "are not JSON"),
        (b'{"a": ', "are not JSON"),
        (b'{"a": "\xff"}', "are not JSON"),
        (b'{"a":' + b"[" * 100_000, "are not JSON"),
    ],
)
def test_a_file_that_says_something_else_is_refused_with_its_name(tmp_path, content, sentence):
    file = tmp_path / "vars.json"
    file.write_bytes(content)
    with pytest.raises(click.UsageError, match=sentence) as refused:
        variables([], str(file))
    assert str(file) in refused.value.message


def test_a_file_that_can_not_be_read_is_refused_with_the_reason(tmp_path):
    with pytest.raises(click.UsageError, match="No such file or directory"):
        variables([], str(tmp_path / "none"))
