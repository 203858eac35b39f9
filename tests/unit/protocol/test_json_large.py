"""A large JSON object is read as a small one is, but for what lies within its unknown fields."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonchip_broker.protocol import json_large, schemas

KEYS = st.sampled_from([*schemas.JSON_KEYS, "x", "\\", '"rc"', '"rc', "rc\\", "[", "\ud800", "é"])
PIECES = ["a", "\\", '"', "[", "}", "\ud83d", "\ude00", "\uff5e", "\U0001f600", ":", "rc", "u", "d800", "/"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS | KEYS,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(KEYS, values, max_size=4),
    max_leaves=12,
)


def read_by_python(body: bytes) -> dict[str, Any] | None:
    """The packet's own fields, or None if one of them stands twice."""
    top: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        top[:] = pairs
        return dict(pairs)

    json.loads(body, object_pairs_hook=keep)
    names = [key for key, _ in top if key in schemas.JSON_KEYS]
    return dict(top) if len(names) == len(set(names)) else None


def is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


@given(st.lists(st.tuples(KEYS, VALUES), max_size=8), st.booleans(), st.sampled_from([None, 1]))
def test_the_fields_are_those_that_python_finds(pairs: list[tuple[str, Any]], ascii_only: bool, indent: int | None) -> None:
    def written(value: Any) -> str:
        text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
        return text.encode("utf-8", "namereplace" if ascii_only else "replace").decode()

    body = ("{" + ",".join(f"{written(key)}:{written(value)}" for key, value in pairs) + "}").encode()
    expected = read_by_python(body)
    if expected is None:
        with pytest.raises(ValueError, match="stands twice"):
            json_large.fields(body)
        return
    taken = json_large.fields(body)
    assert taken.keys() == expected.keys() & set(schemas.JSON_KEYS)
    for key, value in taken.items():
        wanted = expected[key]
        if is_text(wanted) or wanted is None:
            assert value == (wanted if key not in ("detach", "stacktrace") or wanted is None else value)
        elif isinstance(wanted, str):
            assert not is_text(value)
        else:
            assert not isinstance(value, str)


@pytest.mark.parametrize(
    "twice",
    [
        '"rc":1,"rc":2',
        '"rc":1,"x":{"rc":0},"rc" \n:2',
        '"rc":1,"x":["}","\\"}","\\\\"],"rc":2',
        '"\\u0072\\u0063":1,"rc":2',
        '"rc":"rc","rc":2',
    ],
)
def test_a_key_of_the_object_itself_that_stands_twice_is_found(twice: str) -> None:
    body = f"{{{twice}}}".encode()
    assert json_large.repeated_key(body, ["cookie", "rc"]) == "rc"
    with pytest.raises(ValueError, match="rc stands twice"):
        json_large.fields(body)


@pytest.mark.parametrize(
    "once",
    [
        '"x":{"rc":1},"rc":2',
        '"rc":1,"x":[{"rc":1}],"y":{"rc":1}',
        r'"rc":1,"\"rc":2,"rc\\":3',
        '"rc":"rc","x":["rc","rc"]',
        r'"rc":"\"rc\":1"',
    ],
)
def test_a_key_that_stands_elsewhere_too_is_none_that_stands_twice(once: str) -> None:
    assert json_large.repeated_key(f"{{{once}}}".encode(), ["cookie", "rc"]) == ""


@pytest.mark.parametrize(
    "many", ['"x":[' + '{"rc":1},' * 6000 + "1]", '"x":"' + r"\u0061" * 20_000 + '"', '"x":[' + '["]"],' * 300_000 + "1]"]
)
def test_what_would_take_long_to_tell_is_not_told(many: str) -> None:
    with pytest.raises(ValueError, match=r"thousands of|times"):
        json_large.repeated_key(f'{{{many},"cookie":1,"cookie":2}}'.encode(), ["cookie", "rc"])


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b"{", b'{"x":}', b"{} {}", b'{"x":"\xff"}', rb'{"x":"\ud80"}', rb'{"x":"\\\ud8zz"}', b'{"x":NaN}'],
)
def test_what_is_no_json_object_is_none(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_large.fields(body)
