"""What is sent at the pace of who takes it. (With a real connection: test_link.)"""

from typing import Any

from reasonchip_broker.worker.outflow import Outflow


class Paper:
    """A connection that says when it has enough."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.flushes = 0

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def flush(self) -> None:
        self.flushes += 1


def opened(burst_bytes: int = 100) -> tuple[Outflow, Any]:
    outflow, connection = Outflow(burst_bytes), Paper()
    outflow.opened(connection)  # type: ignore[arg-type]
    return outflow, connection


def test_without_a_connection_there_is_nothing_to_send_on() -> None:
    outflow = Outflow(100)
    outflow.send(b"x")
    outflow.flush()
    outflow.writable()
    assert len(outflow) == 0


def test_what_is_sent_to_a_congested_connection_waits_in_order() -> None:
    outflow, connection = opened()
    outflow.send(b"1")
    outflow.congested = True
    outflow.send(b"2")
    outflow.send(b"3")
    assert (connection.sent, len(outflow)) == ([b"1"], 2)
    outflow.writable()
    assert (connection.sent, len(outflow)) == ([b"1", b"2", b"3"], 0)


def test_after_a_burst_the_connection_gets_to_say_whether_it_takes_more() -> None:
    outflow, connection = opened(burst_bytes=10)
    for _ in range(5):
        outflow.send(b"12345")
    assert connection.flushes == 1
    outflow.flush()
    assert connection.flushes == 2


def test_what_waits_for_a_connection_that_ends_is_gone_and_the_next_one_begins_clear() -> None:
    outflow, first = opened()
    outflow.congested = True
    outflow.send(b"1")
    outflow.closed()
    outflow.send(b"between")
    outflow.flush()
    assert (first.sent, first.flushes, len(outflow)) == ([], 0, 0)
    second = Paper()
    outflow.opened(second)  # type: ignore[arg-type]
    outflow.send(b"2")
    outflow.writable()
    assert second.sent == [b"2"]
