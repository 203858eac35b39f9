from uuid import UUID

from reasonchip_broker.cli.demo.ledger import LOST, OK, Ledger

A, B, C = (UUID(int=number) for number in (1, 2, 3))


def filled():
    ledger = Ledger()
    ledger.sent(A, "file")
    ledger.over(A, LOST)
    ledger.sent(B, "file", repeats=A)
    ledger.over(B, OK)
    ledger.sent(C, "long job")
    ledger.over(C, "CANCELLED")
    return ledger


def wrong(ledger, wanted=None, counted=3):
    return [check.sentence for check in ledger.checks({"file": 1} if wanted is None else wanted, counted) if not check.holds]


def test_what_was_sent_lost_sent_again_and_cancelled_adds_up():
    ledger = filled()
    assert wrong(ledger) == []
    assert ledger.kinds == ["file", "long job"]
    assert ledger.outcomes() == {LOST: 1, OK: 1, "CANCELLED": 1}
    assert ledger.outcomes("file") == {LOST: 1, OK: 1}
    assert ledger.repeated == 1


def test_a_job_without_an_outcome_does_not_add_up():
    ledger = filled()
    ledger.sent(UUID(int=9), "file")
    assert "jobs sent = outcomes heard" in wrong(ledger, counted=4)


def test_a_cookie_or_an_outcome_that_comes_twice_does_not_add_up():
    ledger = filled()
    ledger.over(B, OK)
    assert wrong(ledger) == ["cookies or outcomes that came twice = 0"]
    again = filled()
    again.sent(A, "file")
    assert "cookies or outcomes that came twice = 0" in wrong(again)


def test_a_lost_job_that_was_not_sent_again_does_not_add_up_unless_it_was_given_up():
    ledger = Ledger()
    ledger.sent(A, "file")
    ledger.over(A, LOST)
    assert wrong(ledger, {}, 1) == ["jobs lost with a worker = jobs sent again, or given up"]
    ledger.given_up = 1
    assert wrong(ledger, {}, 1) == []


def test_results_that_did_not_arrive_do_not_add_up():
    assert wrong(filled(), {"file": 2}) == ["file: jobs OK = jobs wanted"]


def test_the_broker_has_its_own_opinion():
    assert wrong(filled(), counted=4) == ["jobs sent = jobs that the broker counted"]
    assert wrong(filled(), counted=None) == []
