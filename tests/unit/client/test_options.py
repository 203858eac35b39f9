"""Options of jobs: what makes no sense is refused at once, and the same options are the same bytes."""

import uuid
from typing import Any

import pytest

from reasonchip_broker.client import options as module
from reasonchip_broker.client.options import Options, RunMetas
from reasonchip_broker.protocol import schemas

NONCE = bytes(range(16))


@pytest.mark.parametrize(
    "bad",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"deadline_s": 0},
        {"deadline_s": 5e6},
        {"encoding": "pickle"},
        {"timeout": float("nan")},
    ],
)
def test_values_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Options(**bad)


def test_a_cookie_is_a_uuid() -> None:
    with pytest.raises(TypeError, match="UUID"):
        Options(cookie="6ba7b810-9dad-11d1-80b4-00c04fd430c8")  # type: ignore[arg-type]


def test_the_meta_says_what_the_options_say() -> None:
    meta = RunMetas(Options(queue=False, detach=True), NONCE).of("greet", "json")
    assert schemas.run_options(meta) == schemas.RunOptions(
        p="greet", enc="json", nonce=NONCE, queue=False, reply=True, detach=True
    )


def test_the_same_job_is_the_same_object_and_another_is_not() -> None:
    metas = RunMetas(Options(), NONCE)
    assert metas.of("greet", "json") is metas.of("greet", "json")
    assert len({metas.of("greet", "json"), metas.of("greet", "msgpack"), metas.of("part", "json")}) == 3


def test_views_with_equal_options_send_equal_bytes() -> None:
    assert RunMetas(Options(timeout=1), NONCE).of("greet", "json") == RunMetas(Options(), NONCE).of("greet", "json")


def test_a_chosen_cookie_gets_a_nonce_of_its_own_for_each_submission() -> None:
    metas = RunMetas(Options(cookie=uuid.uuid4()), NONCE)
    nonces = {schemas.run_options(metas.of("greet", "json")).nonce for _ in range(3)}
    assert len(nonces) == 3
    assert NONCE not in nonces


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 300, "\x1b[31m"])
def test_a_name_that_no_broker_takes_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of a pipeline"):
        RunMetas(Options(), NONCE).of(name, "json")


def test_names_made_up_as_one_goes_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "METAS_MAX", 10)
    metas = RunMetas(Options(), NONCE)
    for number in range(100):
        metas.of(f"p{number}", "json")
    assert len(metas._ready) <= 10
