import json
from uuid import UUID

import pytest

from reasonchip_broker import errors
from reasonchip_broker.cli import outcome
from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.errors import PastAttempt
from reasonchip_broker.protocol.codes import Code

COOKIE = UUID(int=7)


def told(capsys, error, *, as_json=False):
    code = outcome.tell_failure(COOKIE, error, as_json=as_json)
    out, err = capsys.readouterr()
    return code, out, err


def test_what_became_of_each_attempt_is_told(capsys):
    history = (PastAttempt(1, "gpu\x1b-1", "WORKER_WENT_AWAY", 75.2), PastAttempt(2, "", "WORKER_WENT_AWAY", 0.25))
    code, out, err = told(capsys, errors.DeadLettered("2 attempts lost their workers", history=history))
    assert (code, out) == (Exit.FAILED, "")
    assert err.splitlines() == [
        "the job failed (DEAD_LETTERED): 2 attempts lost their workers",
        "attempt 1 on gpu\\x1b-1: WORKER_WENT_AWAY after 1 min 15 s",
        "attempt 2: WORKER_WENT_AWAY after 250 ms",
    ]


def test_and_so_it_is_as_json(capsys):
    error = errors.DeadLettered("lost", history=(PastAttempt(1, "gpu-1", "WORKER_WENT_AWAY", 1.5),))
    code, out, err = told(capsys, error, as_json=True)
    assert (code, err) == (Exit.FAILED, "")
    assert json.loads(out)["history"] == [{"attempt": 1, "worker": "gpu-1", "end": "WORKER_WENT_AWAY", "ran_s": 1.5}]


def test_a_job_that_may_still_run_can_be_found_again(capsys):
    assert f"reasonchip-broker attach {COOKIE}" in told(capsys, errors.BrokerWentAway("gone", may_have_run=True))[2]
    assert "attach" not in told(capsys, errors.BrokerWentAway("gone", may_have_run=False))[2]


def test_an_outcome_that_is_gone_is_told_with_what_it_was(capsys):
    code, out, err = told(capsys, errors.OutcomeGone("no longer kept", outcome=Code.DEADLINE_EXCEEDED))
    assert (code, out) == (Exit.REFUSED, "")
    assert err.startswith(f"job {COOKIE} is over (DEADLINE_EXCEEDED), but its outcome is no longer kept")
    facts = json.loads(told(capsys, errors.OutcomeGone("no longer kept", outcome=Code.OK), as_json=True)[1])
    assert facts == {"cookie": str(COOKIE), "refused": "OUTCOME_GONE", "error": "no longer kept", "ended": "OK"}
    assert "is gone: never there" in told(capsys, errors.OutcomeGone("never there"))[2]


def test_a_cookie_that_nobody_knows_is_told_as_that(capsys):
    code, _, err = told(capsys, errors.CookieNotFound("No such cookie"))
    assert code == Exit.REFUSED
    assert err.startswith(f"the broker knows no job {COOKIE}: ")


def test_a_refusal_passes_the_brokers_hint_on(capsys):
    code, _, err = told(capsys, errors.Overloaded("the backlog is full", retry_after_s=2.0))
    assert code == Exit.REFUSED
    assert err == "the broker refused the job (OVERLOADED): the backlog is full; try again in 2.0 s\n"


def test_a_code_of_a_newer_broker_is_its_number():
    assert outcome.code_name(Code.OK) == "OK"
    assert outcome.code_name(31) == "31"


@pytest.mark.parametrize(
    ("value", "printed"),
    [("a\x1bb", "a\x1bb\n"), (b"\x00\xff", b"\x00\xff"), ({"a": [1]}, '{"a":[1]}\n'), ({None: 1}, '{"null":1}\n')],
)
def test_a_result_is_printed_as_what_it_is(capfdbinary, value, printed):
    outcome.tell_result(COOKIE, value, as_json=False)
    assert capfdbinary.readouterr().out == (printed if isinstance(printed, bytes) else printed.encode())
