"""What a broker logs: the life of every connection and route, one event a line, no payload, no secret, nothing if nobody listens."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import encode
from reasonchip_broker.protocol.codes import Code, PacketType
from reasonchip_broker.protocol.frames import PREFACE, Frame
from tests.raw_peers import RawClient, RawPeer, client_of, connect, kept, serving, until, worker_of

HOSTILE = "x\r\ny\x1b[31mz\x07\u2028w\x85v"
"""What would break a line, colour a terminal, ring its bell."""


class Notes:
    """A logger that keeps what it is told, at a level."""

    def __init__(self, level: int = logging.DEBUG) -> None:
        self.level = level
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.asked = 0

    def isEnabledFor(self, level: int) -> bool:
        self.asked += 1
        return level >= self.level

    def __getattr__(self, name: str) -> Any:
        if name not in ("debug", "info", "warning", "error", "critical"):
            raise AttributeError(name)
        return lambda event, **fields: self.events.append((name, event, fields))

    def named(self, event: str) -> list[dict[str, Any]]:
        """The fields of every event of that name."""
        return [fields for _, name, fields in self.events if name == event]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Path]:
    """A log file as the standard library writes it, for a broker that is embedded."""
    path = tmp_path / "broker.log"
    handler = logging.FileHandler(path)
    logger = logging.getLogger("reasonchip_broker")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield path
    logger.removeHandler(handler)
    logger.setLevel(level)
    handler.close()


async def test_a_broker_s_own_life_is_told(notes: Notes) -> None:
    async with serving(logger=notes) as broker:
        await broker.drain()
    events = [event for level, event, _ in notes.events if level == "info"]
    assert events == ["broker started", "broker draining", "broker stopped"]
    assert notes.named("broker started")[0]["clients"] == ["memory://clients"]
    assert notes.named("broker stopped")[0]["finished"] == 0


async def test_the_life_of_a_connection_is_told_under_one_id(notes: Notes) -> None:
    async with serving(logger=notes) as broker:
        client = await client_of(broker)
        connection = (await client.kind(PacketType.WELCOME)).meta
        client.live.abort()
        await until(lambda: broker.connections == 0, "the client did not go")
    told = [(event, fields) for _, event, fields in notes.events if "connection" in fields]
    assert [event for event, _ in told] == ["connection opened", "connection welcomed", "connection closed"]
    assert {fields["connection"] for _, fields in told} == {schemas.welcome_meta(connection).conn.hex()}
    assert told[0][1]["role"] == "client"
    assert told[1][1]["software"] == "raw 1"
    assert told[2][1]["reason"] == "PEER_CLOSED"


async def test_a_worker_is_told_of_with_what_it_serves(notes: Notes) -> None:
    async with serving(logger=notes) as broker:
        await worker_of(broker, 3, "a", "b*")
    assert notes.named("worker registered")[0] | {"connection": ""} == {
        "connection": "",
        "name": "",
        "capacity": 3,
        "serves": ["a", "b*"],
    }


async def test_the_life_of_a_route_is_told_under_its_cookie_at_debug(notes: Notes) -> None:
    async with serving(logger=notes) as broker:
        client = await client_of(broker)
        cookie = client.run("later")
        await client.reply(cookie)
        await worker_of(broker, 1, "later")
        await client.outcome(cookie)
        await client.ping()
    told = [(level, event, fields) for level, event, fields in notes.events if fields.get("cookie") == cookie.hex()]
    assert [event for _, event, _ in told] == ["route queued", "route dispatched", "route over"]
    assert {level for level, _, _ in told} == {"debug"}
    assert all(fields["pipeline"] == "later" for _, _, fields in told)
    assert told[2][2]["code"] == "OK"


async def test_at_info_the_hot_path_says_nothing_and_asks_nothing() -> None:
    notes = Notes(logging.INFO)
    async with serving(logger=notes) as broker:
        await worker_of(broker, 10)
        client = await client_of(broker)
        events, asked = len(notes.events), notes.asked
        for _ in range(20):
            await client.echo()
        assert (len(notes.events), notes.asked) == (events, asked)


async def test_an_embedded_broker_is_silent_until_the_application_listens(capfd: pytest.CaptureFixture[str]) -> None:
    async with serving() as broker:
        await worker_of(broker)
        await (await client_of(broker)).echo()
    assert capfd.readouterr() == ("", "")


async def test_refusals_and_offences_are_warnings_that_name_the_peer(notes: Notes) -> None:
    async with serving(Limits(connections_max=1), logger=notes) as broker:
        offender = await connect(broker.client_urls[0], RawPeer())
        refused = await connect(broker.client_urls[0], RawPeer())
        await refused.until(lambda: refused.is_lost, "a second connection was taken")
        offender.send(PREFACE, bytes(64))
        await offender.sent_away()
        await until(lambda: broker.connections == 0, "the offender did not go")
    warnings = [(event, fields) for level, event, fields in notes.events if level == "warning"]
    assert [event for event, _ in warnings] == ["connection refused: too many", "protocol error"]
    assert warnings[0][1]["address"] == "memory"
    assert warnings[1][1]["reason"] == "PROTOCOL_ERROR"
    assert notes.named("connection closed")[0]["reason"] == "PROTOCOL_ERROR"


async def test_a_slow_consumer_is_told_of_as_one(notes: Notes) -> None:
    async with serving(Limits(outbox_bytes_mark=1000, write_deadline_s=0.1), logger=notes) as broker:
        await worker_of(broker)
        client = await client_of(broker)
        client.live.pause_reading()
        client.run(variables=bytes(5000))
        await until(lambda: broker.connections == 1, "a client that does not read is still there")
    assert "SLOW_CONSUMER" in [fields["reason"] for fields in notes.named("connection closed")]


def failed(frame: Frame) -> bytes:
    return packets.failed(frame[1], frame[4], Code.EXCEPTION, "SECRET-error", error_type="SECRET-type", stack=["SECRET-stack"])


async def test_no_payload_and_no_secret_is_ever_logged(lines: Path) -> None:
    async with serving() as broker:
        await worker_of(broker, 4)
        await worker_of(broker, 4, "failing", works=failed)
        client = await connect(broker.client_urls[0], RawClient())
        client.send(PREFACE, packets.hello(schemas.HelloMeta(sw="raw", token="SECRET-token")))
        await client.kind(PacketType.WELCOME)
        await client.echo(b"SECRET-variables")
        await client.outcome(client.run("failing", b"SECRET-variables"))
        client.send(packets.run(b"c" * 16, b"\xc1SECRET-broken-meta", b"SECRET-variables"))
        await client.sent_away()
        json_client = await connect(broker.client_urls[0], RawPeer())
        body = b'{"packet_type": "RUN", "variables": "SECRET-variables", "SECRET-key": NaN}'
        json_client.send(len(body).to_bytes(4, "big"), body)
        await json_client.until(lambda: json_client.is_lost, "bad JSON did not end the connection")
    text = lines.read_text()
    assert "route over" in text
    assert "SECRET" not in text


async def test_row_28_whatever_a_peer_says_an_event_is_one_clean_line(lines: Path) -> None:
    async with serving(clients=("tcp://127.0.0.1:0",)) as broker:
        worker = await worker_of(broker, 4, works=kept)
        for meta in ({"sw": HOSTILE}, {"v": HOSTILE}, {"name": HOSTILE}, {"token": HOSTILE}, {"feat": [HOSTILE]}):
            peer = await connect(broker.client_urls[0], RawClient())
            peer.send(PREFACE, encode(PacketType.HELLO, meta=schemas._encoder.encode(meta)))
            await peer.until(lambda peer=peer: bool(peer.frames), "HELLO was not answered")  # type: ignore[misc]
        client = await client_of(broker)
        for pipeline in (HOSTILE, "x" * 1000, "\x00"):
            cookie = os.urandom(16)
            client.send(packets.run(cookie, schemas._encoder.encode({"p": pipeline}), b""))
            assert (await client.reply(cookie))[0] == Code.BAD_PACKET
        cookie = client.run()
        await worker.holds(1)
        client.send(packets.cancel(cookie, why=HOSTILE, number=1))
        worker.send(packets.failed(cookie, 1, Code.EXCEPTION, HOSTILE, error_type=HOSTILE, stack=[HOSTILE]))
        await client.outcome(cookie)
        bodies = (b'"\r\n\x1b[1m"', b'{"\r\n\x1b[31m": 1, "\r\n\x1b[31m": 2 }', b"\r\n\x1b[31m", b"\xff\xfe")
        openings = [PREFACE + bytes(64), *(len(body).to_bytes(4, "big") + body for body in bodies)]
        for opening in openings:
            offender = await connect(broker.client_urls[0], RawPeer())
            offender.send(opening)
            await offender.until(lambda offender=offender: offender.is_lost, "it was not sent away")  # type: ignore[misc]
    text = lines.read_bytes().decode()
    events = text.split("\n")
    assert events.pop() == ""
    assert all(line.isprintable() for line in events), [line for line in events if not line.isprintable()]
    assert all("event=" in line for line in events)
    assert sum("connection opened" in line for line in events) == sum("connection closed" in line for line in events) == 12
