"""One line a step, for people."""

from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType
from reasonchip_broker.testing.simulation.trace import Tracer, describe, job_name, tell
from reasonchip_broker.testing.simulation.walk import take_again
from tests.unit.testing.simulation.faulty import CLIENT, PEERS, PLAIN, WORKER

JOB = b"cookie         1"


def test_a_story_reads_as_a_story() -> None:
    tracer = Tracer()
    story = [*PEERS, ("run", CLIENT, JOB, "p.a"), ("advance", 0.5), ("result", WORKER, JOB), ("disconnect", CLIENT)]
    assert take_again(PLAIN, story, on_seen=tracer) is None
    told = "\n".join(" ".join(line.split()) for line in tracer.lines)
    assert "0.000 client 1 run job 1 p.a → worker 2: RUN job 1\n" in told
    assert "0.500 worker 2 result job 1 → client 1: RESULT OK job 1\n" in told
    assert "0.500 peer 1 disconnect\n" in told


def test_packets_are_told_in_few_words() -> None:
    assert describe(packets.goodbye(CloseReason.NORMAL, "")) == "GOODBYE NORMAL"
    assert describe(packets.reply(99, Code.OVERLOADED, "no", cookie=JOB)) == "REPLY OVERLOADED to 99 job 1"
    assert describe(packets.gap(PacketType.PROGRESS, JOB, 2, 3, 4)) == "GAP in PROGRESS job 1 attempt 2 (4)"


def test_operations_are_told_without_what_goes_without_saying() -> None:
    assert tell(("advance", 0.5)) == "advance 0.5"
    assert tell(("connect", 1, PacketType.RUN, (b"\xff", "x"))) == "connect RUN [ff,x]"
    assert job_name(b"7" * 90) == "90 bytes"
