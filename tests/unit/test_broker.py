"""The broker's life: how it starts, what it leaves when it can't, how it drains and stops. Further files are named test_broker_*."""

import asyncio
import os
from pathlib import Path

import pytest

from reasonchip_broker import Broker
from reasonchip_broker.broker import BrokerState
from reasonchip_broker.errors import ConnectError, InternalError, ListenError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.routing.timers import AT_ONCE
from reasonchip_broker.transports.endpoints import server_transport
from reasonchip_broker.transports.memory import MemoryServerTransport
from reasonchip_broker.transports.server_transport import ConnectionHandler, Flusher, ServerTransport
from tests.raw_peers import RawClient, RawPeer, RawWorker, client_of, connect, kept, serving, until, worker_of


class Reporting(MemoryServerTransport):
    """A listener that writes down when it is started and stopped, and fails on demand."""

    def __init__(self, name: str, diary: list[str], error: Exception | None = None) -> None:
        super().__init__(name)
        self._diary = diary
        self._error = error

    async def start(self, role: Role, handler: ConnectionHandler, limits: Limits, flusher: Flusher) -> None:
        self._diary.append(f"start {self.name}")
        if self._error is not None:
            raise self._error
        await super().start(role, handler, limits, flusher)

    async def stop(self) -> None:
        self._diary.append(f"stop {self.name}")
        await super().stop()


def may_run(packet_meta: bytes) -> bool:
    return schemas.result_meta(packet_meta).ran


# Start


async def test_workers_are_listened_for_before_clients() -> None:
    diary: list[str] = []
    broker = Broker([Reporting("c1", diary), Reporting("c2", diary)], [Reporting("w1", diary), Reporting("w2", diary)])
    await broker.start()
    assert diary == ["start w1", "start w2", "start c1", "start c2"]
    await broker.stop()


async def test_a_job_goes_from_a_client_to_a_worker_and_back_over_every_pair_of_listeners(tmp_path: Path) -> None:
    kinds = [f"unix://{tmp_path}/{{}}.sock", "tcp://127.0.0.1:0", "memory://{}"]
    clients, workers = (tuple(kind.format(role) for kind in kinds) for role in ("clients", "workers"))
    async with serving(clients=clients, workers=workers) as broker:
        assert all(not url.endswith(":0") for url in (*broker.client_urls, *broker.worker_urls))
        for number, url in enumerate(broker.worker_urls):
            await (await connect(url, RawWorker())).register(1, f"echo-{number}")
        for url in broker.client_urls:
            client = await connect(url, RawClient())
            await client.hello()
            for number in range(len(kinds)):
                await client.echo(b"variables", f"echo-{number}")


@pytest.mark.parametrize(
    "error", [ListenError("taken"), OSError("broken"), ValueError("nonsense")], ids=["listen", "os", "other"]
)
@pytest.mark.parametrize("failing", ["w1", "w2", "c1", "c2"])
async def test_a_listener_that_can_not_be_bound_stops_the_start_and_leaves_nothing(failing: str, error: Exception) -> None:
    diary: list[str] = []
    listeners = {name: Reporting(name, diary, error if name == failing else None) for name in ("w1", "w2", "c1", "c2")}
    broker = Broker([listeners["c1"], listeners["c2"]], [listeners["w1"], listeners["w2"]])
    with pytest.raises(type(error), match=str(error)):
        await broker.start()
    started = [entry.removeprefix("start ") for entry in diary if entry.startswith("start")]
    assert {entry.removeprefix("stop ") for entry in diary if entry.startswith("stop")} >= set(started) - {failing}
    for name in listeners:
        with pytest.raises(ConnectError):
            await connect(f"memory://{name}", RawPeer())
    assert broker.state == BrokerState.STOPPED
    await broker.stop()


async def test_real_listeners_are_gone_when_one_of_them_can_not_be_bound(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("no socket")
    before = set(os.listdir("/proc/self/fd"))
    broker = Broker(
        [server_transport("tcp://127.0.0.1:0", Role.CLIENT), server_transport(f"unix://{precious}", Role.CLIENT)],
        [server_transport(f"unix://{tmp_path}/workers.sock", Role.WORKER), server_transport("tcp://127.0.0.1:0", Role.WORKER)],
    )
    with pytest.raises(ListenError) as caught:
        await broker.start()
    assert "\n" not in str(caught.value)
    assert str(precious) in str(caught.value)
    await asyncio.sleep(0)
    assert set(os.listdir("/proc/self/fd")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


async def test_a_worker_that_came_during_a_start_that_failed_is_let_go() -> None:
    worker = RawWorker()

    class Inviting(MemoryServerTransport):
        async def start(self, *arguments: object) -> None:
            await connect("memory://workers", worker)
            await worker.hello()
            raise ListenError("taken")

    broker = Broker([Inviting("clients")], [MemoryServerTransport("workers")])
    with pytest.raises(ListenError):
        await broker.start()
    await worker.until(lambda: worker.is_lost, "a worker is left connected to a broker that never started")
    await until(lambda: broker.connections == 0, "the broker holds a connection though it never started")


async def test_a_broker_is_started_once() -> None:
    async with serving() as broker:
        with pytest.raises(InternalError, match="RUNNING"):
            await broker.start()
    with pytest.raises(InternalError, match="STOPPED"):
        await broker.start()


async def test_each_broker_is_another_instance() -> None:
    instances = {Broker([], []).instance for _ in range(100)}
    assert len(instances) == 100
    assert all(len(instance) == 16 for instance in instances)


async def test_the_welcome_names_the_broker_the_connection_and_the_limits() -> None:
    limits = Limits(frame_bytes_max=1 << 20, client_jobs_max=7, heartbeat_s=3, lease_s=9, credit_frames=5)
    async with serving(limits) as broker:
        one, two = [await (await connect(broker.client_urls[0], RawClient())).hello() for _ in range(2)]
        assert (one.broker, one.frame, one.jobs, one.beat, one.dead, one.credit) == (broker.instance, 1 << 20, 7, 3000, 9000, 5)
        assert one.conn != two.conn


# Stop


async def test_stop_closes_listeners_before_it_says_goodbye() -> None:
    diary: list[str] = []
    broker = Broker([Reporting("clients", diary)], [Reporting("workers", diary)])
    await broker.start()
    client = await client_of(broker)
    stopped_before: list[str] = []
    client.hears = lambda frame: stopped_before.extend(diary[2:])  # type: ignore[method-assign]
    await broker.stop()
    assert sorted(stopped_before) == ["stop clients", "stop workers"]


@pytest.mark.parametrize("url", ["memory://{}", "tcp://127.0.0.1:0", "unix://{}"])
async def test_stop_ends_every_job_and_connection_and_says_why(url: str, tmp_path: Path) -> None:
    clients, workers = (url.format(tmp_path / name if url.startswith("unix") else name) for name in ("c", "w"))
    async with serving(clients=(clients,), workers=(workers,)) as broker:
        worker = await worker_of(broker, 1, works=kept)
        client = await client_of(broker)
        running, waiting = client.run(), client.run()
        await worker.holds(1)
        await client.reply(waiting)
        silent = await connect(broker.client_urls[0], RawPeer())
        await until(lambda: broker.connections == 3, "a silent connection was not accepted")
        await broker.stop()
        for cookie, ran in ((running, True), (waiting, False)):
            outcome = await client.outcome(cookie)
            assert (outcome.code, may_run(outcome.meta)) == (Code.BROKER_WENT_AWAY, ran)
        for peer in (client, worker):
            assert (await peer.sent_away())[0] is CloseReason.SHUTTING_DOWN
        await silent.until(lambda: silent.is_lost, "a silent connection was left")
        assert broker.connections == 0


async def test_stop_does_not_wait_for_a_peer_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reasonchip_broker.broker.CLOSE_S", 0.05)
    async with serving(Limits(outbox_bytes_mark=1000)) as broker:
        await worker_of(broker, 10)
        client = await client_of(broker)
        client.live.pause_reading()
        for _ in range(5):
            client.run(variables=bytes(1000))
        await until(lambda: any(peer.congested for peer in broker.switchboard.peers.values()), "nobody is congested")
        await broker.stop()
        assert broker.connections == 0


async def test_stop_may_come_before_a_start_twice_and_from_two_sides_at_once() -> None:
    never = Broker([MemoryServerTransport("clients")], [])
    await never.stop()
    with pytest.raises(InternalError):
        await never.start()
    async with serving() as broker:
        await client_of(broker)
        await asyncio.gather(broker.stop(), broker.stop(), broker.stop())
        await broker.stop()


async def test_nobody_gets_in_once_a_broker_stops() -> None:
    async with serving() as broker:
        broker.state = BrokerState.DRAINING
        client = await connect(broker.client_urls[0], RawClient())
        await client.until(lambda: client.is_lost, "a connection was taken by a broker that drains")
        assert client.frames == []
        broker.state = BrokerState.RUNNING


async def test_no_timer_outlives_a_broker() -> None:
    async with serving() as broker:
        client = await client_of(broker)
        client.run("nobody-serves", left_ms=3_600_000)
        await until(lambda: broker.switchboard.jobs == 1, "the job did not come")
    loop = asyncio.get_running_loop()
    armed = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    assert [handle for handle in armed if "reasonchip" in repr(handle)] == []


async def test_deadlines_of_one_moment_end_in_several_turns_of_the_loop_so_that_others_are_heard_between() -> None:
    async with serving() as broker:
        client = await client_of(broker)
        cookies = [client.run("nobody-serves", left_ms=100_000) for _ in range(3 * AT_ONCE)]
        await until(lambda: broker.switchboard.jobs == len(cookies), "the jobs did not come")
        now = broker._time()
        broker._time = lambda: now + 200
        broker._wake()
        assert len(cookies) - AT_ONCE <= broker.switchboard.jobs < len(cookies)
        for cookie in cookies:
            assert (await client.outcome(cookie)).code == Code.DEADLINE_EXCEEDED


# Drain


async def test_drain_lets_running_jobs_finish_gives_waiting_ones_back_and_refuses_new_ones() -> None:
    async with serving() as broker:
        worker = await worker_of(broker, 1, works=kept)
        client = await client_of(broker)
        running, waiting = client.run(variables=b"running"), client.run()
        await worker.holds(1)
        await client.reply(waiting)
        draining = asyncio.ensure_future(broker.drain())
        outcome = await client.outcome(waiting)
        assert (outcome.code, may_run(outcome.meta)) == (Code.BROKER_WENT_AWAY, False)
        assert (await client.reply(client.run()))[0] == Code.DRAINING
        await worker.kind(PacketType.DRAIN)
        assert not draining.done()
        worker.finish(worker.held[0])
        assert (await client.outcome(running)).payload == b"running"
        assert await draining == 0
        assert client.farewell() is None


async def test_drain_takes_no_connections() -> None:
    async with serving() as broker:
        assert await broker.drain() == 0
        for url in (*broker.client_urls, *broker.worker_urls):
            with pytest.raises(ConnectError):
                await connect(url, RawPeer())


async def test_drain_gives_up_at_its_limit_and_tells_how_much_is_left() -> None:
    async with serving() as broker:
        worker = await worker_of(broker, 2, works=kept)
        client = await client_of(broker)
        cookies = [client.run() for _ in range(2)]
        await worker.holds(2)
        assert await broker.drain(0.01) == 2
        await broker.stop()
        assert [(await client.outcome(cookie)).code for cookie in cookies] == [Code.BROKER_WENT_AWAY] * 2


async def test_drain_s_limit_is_the_configured_one_if_none_is_given() -> None:
    async with serving(Limits(drain_s=0.01)) as broker:
        worker = await worker_of(broker, works=kept)
        (await client_of(broker)).run()
        await worker.holds(1)
        assert await broker.drain() == 1


async def test_drain_ends_at_once_when_the_broker_is_stopped_meanwhile() -> None:
    """As with a second signal."""
    async with serving() as broker:
        worker = await worker_of(broker, works=kept)
        (await client_of(broker)).run()
        await worker.holds(1)
        draining = asyncio.ensure_future(broker.drain(3600))
        await worker.kind(PacketType.DRAIN)
        await broker.stop()
        assert await draining == 0


async def test_drain_after_a_stop_has_nothing_to_wait_for() -> None:
    async with serving() as broker:
        await broker.stop()
        assert await asyncio.wait_for(broker.drain(), 5) == 0


async def test_a_worker_that_is_lost_while_the_broker_drains_ends_its_jobs() -> None:
    async with serving() as broker:
        worker = await worker_of(broker, works=kept)
        client = await client_of(broker)
        cookie = client.run()
        await worker.holds(1)
        draining = asyncio.ensure_future(broker.drain())
        await worker.kind(PacketType.DRAIN)
        worker.live.abort()
        assert (await client.outcome(cookie)).code == Code.WORKER_WENT_AWAY
        assert await draining == 0


# What a broker is made of


def test_a_listener_of_one_s_own_will_do() -> None:
    """The broker knows transports by their interface alone."""
    broker = Broker([], [])
    assert isinstance(MemoryServerTransport("x"), ServerTransport)
    assert (broker.client_urls, broker.worker_urls, broker.connections) == ([], [], 0)


async def test_a_ping_is_answered_with_its_number() -> None:
    async with serving() as broker:
        client = await client_of(broker)
        client.send(packets.ping(77))
        assert (await client.kind(PacketType.PONG)).number == 77
