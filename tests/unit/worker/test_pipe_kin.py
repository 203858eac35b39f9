"""Both ends of what a handler in a process asks of its children."""

from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from reasonchip_broker.errors import JobCancelled, JobException
from reasonchip_broker.peer.options import Options
from reasonchip_broker.worker.children import Submission
from reasonchip_broker.worker.pipe_kin import MARK, PipeKin, PipeKinServer

COOKIE = bytes(range(16))
SUBMISSION = Submission(COOKIE, b"meta", b"payload", Options(attempts=3))


class PaperKin:
    """Notes what it is told, and answers when the test does."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.futures: list[Future[Any]] = []

    def submit(self, submission: Submission) -> None:
        self.told.append(submission)

    def ask(self, verb: str, cookie: bytes, *arguments: Any) -> "Future[Any]":
        self.told.append((verb, cookie, *arguments))
        self.futures.append(Future())
        return self.futures[-1]

    def release(self, cookie: bytes) -> None:
        self.told.append(("release", cookie))


class Setting:
    """Two ends with a pipe of function calls between them."""

    def __init__(self) -> None:
        self.kin = PaperKin()
        self.server = PipeKinServer(self.kin, self._down)
        self.end = PipeKin(self._up)

    def _up(self, data: bytes) -> None:
        assert data.startswith(MARK)
        self.server.heard(data)

    def _down(self, data: bytes) -> None:
        self.end.answered(data)


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_what_is_asked_is_answered(setting) -> None:
    setting.end.submit(SUBMISSION)
    first, second = setting.end.ask("result", COOKIE), setting.end.ask("cancel", COOKIE, True, "why")
    assert setting.kin.told == [SUBMISSION, ("result", COOKIE), ("cancel", COOKIE, True, "why")]
    setting.kin.futures[1].set_result("second")
    setting.kin.futures[0].set_result((None, b"first"))
    assert (first.result(0), second.result(0)) == ((None, b"first"), "second")
    assert setting.end._asked == setting.server._asked == {}


def test_errors_come_as_they_are(setting) -> None:
    future = setting.end.ask("result", COOKIE)
    setting.kin.futures[0].set_exception(JobException("no", error_type="OSError", stack=("line",), may_have_run=True))
    with pytest.raises(JobException) as caught:
        future.result(0)
    assert (caught.value.error_type, caught.value.stack) == ("OSError", ("line",))


def test_who_wants_no_answer_cancels_the_question(setting, caplog: pytest.LogCaptureFixture) -> None:
    future = setting.end.ask("result", COOKIE)
    future.cancel()
    with pytest.raises(CancelledError):
        future.result(0)
    assert setting.kin.futures[0].cancelled()
    assert setting.end._asked == setting.server._asked == {}
    assert not caplog.records, "an answer that comes all the same is dropped"


def test_a_question_that_the_worker_drops_is_told(setting) -> None:
    future = setting.end.ask("result", COOKIE)
    setting.kin.futures[0].cancel()
    with pytest.raises(JobCancelled, match="the worker is stopping"):
        future.result(0)


def test_an_answer_that_cannot_travel_is_told(setting) -> None:
    future = setting.end.ask("result", COOKIE)
    setting.kin.futures[0].set_result(lambda: None)
    with pytest.raises(RuntimeError, match="can't be passed on"):
        future.result(0)


def test_children_are_forgotten_one_by_one_and_all_with_their_parent(setting) -> None:
    other = SUBMISSION._replace(cookie=bytes(16))
    setting.end.submit(SUBMISSION)
    setting.end.submit(other)
    setting.end.release(COOKIE)
    setting.server.end()
    setting.server.end()
    assert setting.kin.told[2:] == [("release", COOKIE), ("release", bytes(16))]


def test_a_pipe_that_is_closed_forgets_by_itself() -> None:
    def closed(data: bytes) -> None:
        raise BrokenPipeError

    PipeKin(closed).release(COOKIE)
