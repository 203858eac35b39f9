"""What an operator may decide about scheduling."""

import pytest

from reasonchip_broker.scheduling import Limit, Scheduling


def test_nothing_need_be_decided() -> None:
    assert Scheduling() == Scheduling(half_life_s=60.0, ageing_s=0.0, weights={})


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"half_life_s": 0.0}, "half_life_s must be over 0, not 0.0"),
        ({"ageing_s": -1.0}, "ageing_s must not be below 0, not -1.0"),
        ({"weights": {"a": 0.0}}, "the weight of 'a' must be over 0 and at most 1,000,000, not 0.0"),
        ({"weights": {"a": 1.0, "b": 2e6}}, "the weight of 'b' must be over 0"),
        ({"affinity_wait_s": -1.0}, "affinity_wait_s must not be below 0, not -1.0"),
        ({"affinity_imbalance": 1.5}, "affinity_imbalance must be from 0 to 1, not 1.5"),
        ({"slots": {"a": 0}}, "jobs of 'a' must take at least 1 slot and at most 10,000, not 0"),
        ({"slots": {f"a{n}": 1 for n in range(101)}}, "101 kinds of jobs with slots of their own are too many"),
        ({"limits": (Limit(name="a", rate=1), Limit(name="a", rate=2))}, "two limits are called 'a'"),
        ({"limits": tuple(Limit(name=f"{n}", rate=1) for n in range(101))}, "101 limits are too many, at most 100"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(settings: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Scheduling(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rules", "error"),
    [
        ({"name": "", "rate": 1}, "a limit needs a name"),
        ({}, "the limit 'some' limits nothing: it needs a concurrency or a rate"),
        ({"rate": 1, "pipelines": ()}, "the limit 'some' is about no pipeline"),
        ({"concurrency": -1}, "the limit 'some' has a concurrency below 0"),
        ({"concurrency": 1, "burst": 1}, "the limit 'some' has a burst, but no rate"),
        ({"rate": 0}, "the limit 'some' needs a rate of at least 1, in a period over 0 s"),
        ({"rate": 1, "period_s": 0.0}, "the limit 'some' needs a rate of at least 1, in a period over 0 s"),
        ({"rate": 1, "burst": 0}, "the limit 'some' needs a burst of at least 1"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_in_a_sentence(rules: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Limit(**{"name": "some", **rules})  # type: ignore[arg-type]


def test_a_limit_is_about_pipelines_by_name_or_glob() -> None:
    limit = Limit(name="some", pipelines=("llm.*", "chat"), concurrency=1)
    assert [name for name in ("llm.a", "llm", "chat", "chats", "Chat") if limit.is_about(name)] == ["llm.a", "chat"]


def test_how_many_slots_a_job_takes_is_said_by_name_or_by_the_first_glob_that_fits() -> None:
    rules = Scheduling(slots={"train.*": 4, "*.small": 2, "train.small": 3})
    assert [rules.slots_of(name) for name in ("train.big", "train.small", "eval.small", "eval")] == [4, 3, 2, 1]
