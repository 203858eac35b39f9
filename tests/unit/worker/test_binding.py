"""Variables become arguments, or a sentence that names what does not fit."""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonchip_broker.worker import InvalidVariables, JobContext
from reasonchip_broker.worker.binding import Binding

CONTEXT = JobContext(bytes(range(16)), "p")


def call(handler: Callable[..., Any], variables: Any, *, from_json: bool = False, validate: bool = True) -> Any:
    positional, named = Binding(handler, validate=validate).bind(variables, CONTEXT, from_json=from_json)
    return handler(*positional, **named)


def refusal(handler: Callable[..., Any], variables: Any, **options: Any) -> str:
    with pytest.raises(InvalidVariables) as caught:
        call(handler, variables, **options)
    return str(caught.value)


def add(a: int, b: int = 10) -> int:
    return a + b


def test_a_map_is_bound_by_name() -> None:
    assert call(add, {"b": 2, "a": 1}) == 3
    assert call(add, {"a": 1}) == 11


def test_no_variables_are_an_empty_map() -> None:
    assert call(lambda: "none", None) == "none"
    assert call(lambda: "none", {}) == "none"


def test_falsy_values_are_values() -> None:
    def both(a, b=1):
        return [a, b]

    assert call(both, {"a": 0, "b": None}) == [0, None]


def test_a_missing_variable_is_named() -> None:
    assert refusal(add, {"b": 1}) == "variable 'a' is missing; the pipeline takes a, b (optional)"
    assert refusal(add, None) == "variable 'a' is missing; the pipeline takes a, b (optional)"


def test_an_unknown_variable_is_named() -> None:
    assert refusal(add, {"a": 1, "c": 1}) == "there is no variable 'c'; the pipeline takes a, b (optional)"
    assert refusal(lambda: None, {"c": 1}) == "there is no variable 'c'; the pipeline takes none"


def test_a_thousand_unknown_variables_make_a_short_sentence() -> None:
    assert len(refusal(add, {"a": 1} | {f"x{n}" * 100: n for n in range(1000)})) < 2000


def test_a_wrong_type_is_named_with_the_place_in_it() -> None:
    def nested(rows: list[dict[str, int]]) -> None: ...

    assert refusal(add, {"a": "1"}) == "variable 'a': Expected `int`, got `str`"
    assert refusal(nested, {"rows": [{"x": 1}, {"x": "y"}]}) == "variable 'rows': Expected `int`, got `str` - at `$[1][...]`"


def test_constraints_in_annotations_hold() -> None:
    def pick(n: Annotated[int, msgspec.Meta(ge=1, le=6)]) -> int:
        return n

    assert call(pick, {"n": 6}) == 6
    assert refusal(pick, {"n": 7}) == "variable 'n': Expected `int` <= 6"


def test_values_are_converted_to_what_the_annotation_says() -> None:
    def echo(when: datetime, who: UUID, where: Path, share: float) -> list[Any]:
        return [when, who, where, share]

    when, who, where, share = call(
        echo, {"when": "2026-01-02T03:04:05Z", "who": str(CONTEXT.cookie), "where": "/tmp/x", "share": 1}
    )
    assert when.year == 2026
    assert who == CONTEXT.cookie
    assert where == Path("/tmp/x")
    assert type(share) is float


def test_text_keys_stand_for_numbers_only_where_json_leaves_no_choice() -> None:
    def first(counts: dict[int, int]) -> int:
        return counts[1]

    assert call(first, {"counts": {"1": 5}}, from_json=True) == 5
    assert "Expected `int`, got `str`" in refusal(first, {"counts": {"1": 5}})


def test_a_value_that_is_nearly_of_its_parameters_type_is_still_checked() -> None:
    def handler(count: int, share: float, text: str) -> tuple[Any, ...]:
        return count, share, text

    found = call(handler, {"count": 1, "share": 2, "text": "t"})
    assert [type(value) for value in found] == [int, float, str]
    for name, value in (("count", True), ("count", 1.5), ("share", "2"), ("text", b"t")):
        assert f"variable '{name}'" in refusal(handler, {"count": 1, "share": 1.0, "text": "t", name: value})


def test_a_parameter_without_annotation_takes_anything() -> None:
    assert call(lambda x: x, {"x": [1, {"y": None}]}) == [1, {"y": None}]


def test_without_validation_values_are_passed_as_they_are() -> None:
    assert call(lambda a, b=0: (a, b), {"a": "1"}, validate=False) == ("1", 0)
    assert Binding(add, validate=False).bind({"a": "1"}, CONTEXT) == ([], {"a": "1"})
    assert refusal(add, {"b": 1}, validate=False).startswith("variable 'a' is missing")


# ── Shapes of signatures ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_positional_only_parameters_are_bound_by_name_too() -> None:
    def power(base: int, exponent: int = 2, /, *, modulus: int = 0) -> int:
        return pow(base, exponent, modulus or None)

    assert call(power, {"base": 3}) == 9
    assert call(power, {"base": 3, "exponent": 3, "modulus": 5}) == 2


def test_the_rest_goes_to_variable_keywords_each_converted() -> None:
    def total(first: int, **others: int) -> int:
        return first + sum(others.values())

    assert call(total, {"first": 1, "x": 2, "y": 3}) == 6
    assert refusal(total, {"first": 1, "x": "2"}) == "variable 'x': Expected `int`, got `str`"
    assert refusal(total, {"first": 1, 5: 2}) == "the name of a variable is text, not 5"
    assert "the pipeline takes first, any other" in refusal(total, {})


def test_variable_positionals_are_left_empty() -> None:
    def count(*args: int, n: int = 0) -> tuple[int, int]:
        return len(args), n

    assert call(count, {"n": 4}) == (0, 4)


def test_variables_that_are_no_map_go_to_the_only_parameter() -> None:
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    assert call(total, [1, 2, 3]) == 6
    assert refusal(total, ["x"]) == "variable 'numbers': Expected `int`, got `str` - at `$[0]`"
    assert call(lambda text, context: text, "hello") == "hello"


def test_variables_that_are_no_map_have_no_place_among_several() -> None:
    assert refusal(add, [1, 2]) == (
        "the variables are a list, and must be a map of names to values; the pipeline takes a, b (optional)"
    )
    assert "a str" in refusal(lambda: None, "text")


class Order(msgspec.Struct):
    item: str
    count: int = 1


NO_ORDER = Order("none")


@dataclass
class Point:
    x: int
    y: int


@pytest.mark.parametrize("optional", [False, True])
def test_a_struct_as_only_parameter_gets_the_whole_map(optional: bool) -> None:
    def required(order: Order, context: JobContext) -> Any:
        return order

    def defaulted(order: Order = NO_ORDER) -> Any:
        return order

    handler = defaulted if optional else required
    assert call(handler, {"item": "tea", "count": 2}) == Order("tea", 2)
    assert refusal(handler, {"item": 5}) == (
        "the variables do not fit parameter 'order': Expected `str`, got `int` - at `$.item`"
    )
    if optional:
        assert call(handler, None) is NO_ORDER
    else:
        assert "missing required field `item`" in refusal(handler, None)


def test_a_dataclass_as_only_parameter_gets_the_whole_map() -> None:
    def norm(point: Point, /) -> int:
        return point.x + point.y

    assert call(norm, {"x": 1, "y": 2}) == 3
    assert "missing required field `y`" in refusal(norm, {"x": 1})


def test_structs_beside_other_parameters_are_bound_by_name() -> None:
    def place(order: Order, point: Point) -> Any:
        return order.item, point.x

    assert call(place, {"order": {"item": "tea"}, "point": {"x": 1, "y": 2}}) == ("tea", 1)


# ── The context ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_context_is_given_by_annotation_or_name_wherever_it_stands() -> None:
    def by_annotation(a: int, job: JobContext, b: int = 2) -> Any:
        return a, job, b

    def optional(job: JobContext | None = None) -> Any:
        return job

    def by_name(context, a):
        return context, a

    def positional(a: int, job: "JobContext", b: int, /) -> Any:
        return a, job, b

    assert call(by_annotation, {"a": 1}) == (1, CONTEXT, 2)
    assert call(optional, None) is CONTEXT
    assert call(by_name, {"a": 1}) == (CONTEXT, 1)
    assert call(positional, {"a": 1, "b": 3}) == (1, CONTEXT, 3)
    assert call(lambda *, context: context, None) is CONTEXT


def test_a_parameter_that_is_called_context_and_annotated_otherwise_is_a_variable() -> None:
    def search(context: str) -> str:
        return context

    assert call(search, {"context": "words"}) == "words"


def test_nobody_but_the_worker_gives_the_context() -> None:
    def rest(job: JobContext, **others: Any) -> Any:
        return job

    assert "there is no variable 'job'" in refusal(rest, {"job": 1})
    assert "there is no variable 'context'" in refusal(lambda context: None, {"context": 1})


# ── What may be a handler ────────────────────────────────────────────────────────────────────────────────────────────────


class Model:
    def __call__(self, n: int) -> int:
        return n + 1

    def predict(self, n: int) -> int:
        return n + 2


def test_methods_callable_objects_and_partials_are_handlers() -> None:
    assert call(Model(), {"n": 1}) == 2
    assert call(Model().predict, {"n": 1}) == 3
    assert call(functools.partial(add, b=5), {"a": 1}) == 6
    assert refusal(functools.partial(add, b=5), {"a": "x"}) == "variable 'a': Expected `int`, got `str`"


def test_an_annotation_that_cannot_be_validated_is_told_when_the_handler_is_given() -> None:
    def either(x: Order | Point) -> None: ...

    with pytest.raises(
        TypeError, match=r"parameter 'x' of .*either has an annotation that can't be validated .*validate=False"
    ):
        Binding(either)
    assert Binding(either, validate=False).bind({"x": 1}, CONTEXT) == ([], {"x": 1})


def test_a_handler_whose_parameters_are_unknown_is_refused() -> None:
    with pytest.raises(TypeError, match="does not tell its parameters; wrap it in a function that does"):
        Binding(threading.get_ident)


def test_an_annotation_may_name_what_is_defined_later() -> None:
    def handler(x: "LaterDefined") -> Any:  # type: ignore[name-defined]  # noqa: F821
        return x

    binding = Binding(handler)
    assert not binding.resolved
    with pytest.raises(NameError):
        binding.resolve()
    handler.__globals__["LaterDefined"] = int
    try:
        binding.resolve()
    finally:
        del handler.__globals__["LaterDefined"]
    assert binding.bind({"x": 4}, CONTEXT) == ([], {"x": 4})


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4),
    max_leaves=10,
)


@given(anything | st.fixed_dictionaries({}, optional={"a": anything, "b": anything, "context": anything}))
def test_whatever_comes_is_bound_or_refused_in_one_line(variables: Any) -> None:
    def handler(context: JobContext, a: list[int], b: dict[str, float] | None = None) -> None: ...

    sentence = "none"
    try:
        positional, named = Binding(handler).bind(variables, CONTEXT)
    except InvalidVariables as error:
        sentence = str(error)
    else:
        assert positional == []
        assert named["context"] is CONTEXT
        assert isinstance(named["a"], list)
    assert sentence.splitlines() == [sentence]
