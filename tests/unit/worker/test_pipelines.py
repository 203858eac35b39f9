"""Who serves a name, and what can't be served."""

import functools
from typing import Any

import pytest

from reasonchip_broker.worker.pipelines import _FOUND_MAX as FOUND_MAX
from reasonchip_broker.worker.pipelines import Pipeline, Pipelines, Runs


def plain(n: int = 0) -> int:
    return n


async def coroutine(n: int = 0) -> int:
    return n


class CallableObject:
    async def __call__(self) -> None: ...


def pipelines(*names: str) -> Pipelines:
    made = Pipelines()
    for name in names:
        made.add(Pipeline(name, plain))
    return made


def found(served: Pipelines, name: str) -> str | None:
    pipeline = served.find(name)
    return pipeline.name if pipeline is not None else None


def test_an_exact_name_goes_before_globs_and_globs_in_the_order_given() -> None:
    served = pipelines("reports.*", "reports.daily", "r*", "x[12]?")
    assert found(served, "reports.daily") == "reports.daily"
    assert found(served, "reports.weekly") == "reports.*"
    assert found(served, "render") == "r*"
    assert found(served, "x2b") == "x[12]?"
    assert found(served, "x3b") is None
    assert found(served, "Reports.daily") is None


def test_a_name_found_once_is_found_again() -> None:
    served = pipelines("a*")
    assert [found(served, f"a{n % 1500}") for n in range(4000)] == ["a*"] * 4000
    served.add(Pipeline("a1", plain))
    assert found(served, "a1") == "a1"


def test_names_are_listed_as_they_are_registered() -> None:
    served = pipelines("b*", "a")
    assert sorted(served.names) == ["a", "b*"]
    assert len(served) == 2


def test_names_that_were_found_are_remembered_for_no_more_than_so_many() -> None:
    served = pipelines("*")
    for number in range(FOUND_MAX + 2):
        assert found(served, f"name {number}") == "*"
        assert len(served._found) == (number + 1 if number < FOUND_MAX else number + 1 - FOUND_MAX)


def test_a_pipeline_says_whether_its_variables_are_checked() -> None:
    assert [Pipeline("p", plain, validate=validate).validate for validate in (True, False)] == [True, False]


@pytest.mark.parametrize("name", ["", "two\nlines", "\x1b[31mred", "x" * 256])
def test_a_name_that_people_could_not_read_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name for a pipeline"):
        pipelines(name)


def test_a_name_has_one_handler() -> None:
    with pytest.raises(ValueError, match="pipeline 'a' has a handler already"):
        pipelines("a", "a")


def test_there_are_only_so_many_pipelines() -> None:
    served = pipelines(*(f"p{n}" for n in range(1000)))
    with pytest.raises(ValueError, match="a worker may serve 1000 pipelines; use a glob"):
        served.add(Pipeline("one more", plain))


def test_where_a_handler_runs_follows_from_what_it_is() -> None:
    assert Pipeline("p", coroutine).runs is Runs.TASK
    assert Pipeline("p", CallableObject()).runs is Runs.TASK
    assert Pipeline("p", functools.partial(coroutine, 1)).runs is Runs.TASK
    assert Pipeline("p", plain).runs is Runs.THREAD
    assert Pipeline("p", plain, executor="thread").runs is Runs.THREAD
    assert Pipeline("p", plain, executor="process").runs is Runs.PROCESS
    assert Pipeline("p", coroutine, executor="process").runs is Runs.PROCESS


def test_what_can_never_run_is_refused() -> None:
    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    no_functions: list[Any] = [5, "name", dict]
    for no_function in no_functions:
        with pytest.raises(TypeError, match="a handler is a function, not"):
            Pipeline("p", no_function)
    for handler in (generator, async_generator):
        with pytest.raises(TypeError, match="is a generator; a handler returns its result"):
            Pipeline("p", handler)
    with pytest.raises(TypeError, match="coroutine is async def"):
        Pipeline("p", coroutine, executor="thread")
    with pytest.raises(ValueError, match="executor is 'thread', 'process' or None, not 'gpu'"):
        Pipeline("p", plain, executor="gpu")


def test_a_handler_for_a_process_must_be_importable() -> None:
    Pipeline("p", plain, executor="process").resolve()
    with pytest.raises(TypeError, match="define it at the top of a module"):
        Pipeline("p", lambda: None, executor="process").resolve()


def test_an_annotation_that_names_nothing_is_told_before_serving() -> None:
    def handler(x: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"an annotation of .*handler names what is not there: .*Nowhere"):
        Pipeline("p", handler).resolve()
