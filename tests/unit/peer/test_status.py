"""What the broker tells of a job, in the words of the application."""

import uuid

from reasonchip_broker.peer.status import job_status
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.codes import Code

COOKIE, CHILD, PARENT = (bytes([number]) * 16 for number in (1, 2, 3))


def test_every_field_has_its_place_and_times_are_seconds() -> None:
    told = schemas.JobStatus(
        state="running",
        why="no_free_slot",
        pipe="greet",
        att=2,
        of=3,
        age=1500,
        left=2500,
        due=3500,
        prog=7,
        inp=4,
        worker="gpu",
        parent=PARENT,
        kids=[schemas.JobStatus(state="over", out=3, cookie=CHILD)],
    )
    status = job_status(told, COOKIE, "all is well")
    assert (status.cookie.bytes, status.parent) == (COOKIE, uuid.UUID(bytes=PARENT))
    assert (status.state, status.why, status.sentence, status.pipeline) == ("running", "no_free_slot", "all is well", "greet")
    assert (status.attempt, status.attempts, status.age_s, status.left_s, status.due_s) == (2, 3, 1.5, 2.5, 3.5)
    assert (status.progress, status.inputs, status.worker, status.outcome, status.is_over) == (7, 4, "gpu", None, False)
    [child] = status.children
    assert (child.cookie.bytes, child.outcome, child.is_over, child.children) == (CHILD, Code.CANCELLED, True, ())


def test_what_is_not_told_and_what_is_not_known_here() -> None:
    status = job_status(schemas.JobStatus(state="teleporting", out=27), COOKIE)
    assert (status.state, status.left_s, status.due_s, status.parent, status.outcome) == ("teleporting", None, None, None, 27)
