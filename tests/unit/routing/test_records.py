import msgspec
import pytest

from reasonchip_broker.routing.records import with_constructor_in_c


class Point:
    """A place."""

    __slots__ = ("name", "x", "y")

    def __init__(self, x: int, y: int = 2, name: str = "") -> None:
        self.x = x
        self.y = y
        self.name = name

    @property
    def size(self) -> int:
        return self.x * self.y

    def move(self, by: int) -> None:
        self.x += by


def test_the_struct_has_what_the_class_has() -> None:
    fast = with_constructor_in_c(Point)
    assert issubclass(fast, msgspec.Struct)
    assert (fast.__name__, fast.__module__, fast.__doc__) == ("Point", __name__, "A place.")
    for kind in (Point, fast):
        point = kind(3, name="here")
        point.move(1)
        assert (point.x, point.y, point.name, point.size) == (4, 2, "here", 8)
        with pytest.raises(TypeError):
            kind()  # type: ignore[call-arg]


def test_two_of_the_same_fields_are_two_and_may_be_keys() -> None:
    fast = with_constructor_in_c(Point)
    assert fast(1) != fast(1)
    assert len({fast(1): 1, fast(1): 2}) == 2


def test_it_has_no_other_attributes() -> None:
    with pytest.raises(AttributeError):
        with_constructor_in_c(Point)(1).other = 2  # type: ignore[attr-defined]


class Place:
    """One of several."""

    __slots__ = ("first", "second")

    def __init__(self, first: float, second: int) -> None:
        self.first = first
        self.second = second

    def __lt__(self, other: "Place") -> bool:
        return (self.first, self.second) < (other.first, other.second)


def test_those_that_are_ordered_compare_as_the_class_does() -> None:
    fast = with_constructor_in_c(Place, is_ordered=True)
    pairs = [(1.0, 2), (1.0, 1), (0.5, 9), (2.0, 0)]
    assert fast.__lt__ is not Place.__lt__
    for kind in (Place, fast):
        assert [(place.first, place.second) for place in sorted(kind(*pair) for pair in pairs)] == sorted(pairs)
