"""What Unix sockets add to the promises of every transport: the file, and who may replace it."""

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from reasonchip_broker.errors import ConnectError, ListenError
from reasonchip_broker.limits import Limits
from reasonchip_broker.protocol.codes import CloseReason, Role
from reasonchip_broker.testing.transport_peers import Peer, Recorder
from reasonchip_broker.transports.flusher import Flusher
from reasonchip_broker.transports.unix import UnixClientTransport, UnixServerTransport
from tests.unit.transports.arrivals import stopped_as_somebody_comes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "broker.sock"


@pytest.fixture
def stale(path: Path) -> Path:
    """A socket that nobody listens on any more, as a killed broker leaves it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
    assert path.is_socket()
    return path


async def started(transport: UnixServerTransport) -> Recorder:
    recorder = Recorder()
    await transport.start(Role.CLIENT, recorder, Limits(), Flusher(asyncio.get_running_loop()))
    return recorder


async def is_served(path: Path, recorder: Recorder) -> bool:
    peer = Peer()
    await asyncio.get_running_loop().create_unix_connection(lambda: peer, str(path))
    before = recorder.count("accepts")
    await recorder.until(lambda: recorder.count("accepts") > before or len(recorder.connections) > 0, "nobody accepted")
    peer.live.abort()
    await recorder.until(lambda: recorder.count("closed") == recorder.count("accepts"), "an end was not told")
    return True


async def refusal(transport: UnixServerTransport) -> str:
    """What the transport says when it can't listen; one line."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ListenError) as caught:
        await started(transport)
    await transport.stop()
    assert len(os.listdir("/proc/self/fd")) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


async def test_the_url_is_the_path() -> None:
    assert UnixServerTransport("/run/b.sock").url == UnixClientTransport("/run/b.sock").url == "unix:///run/b.sock"


async def test_the_socket_is_there_while_it_is_listened_on(path: Path) -> None:
    transport = UnixServerTransport(str(path))
    recorder = await started(transport)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert await is_served(path, recorder)
    await transport.stop()
    assert not path.exists()


async def test_a_stale_socket_is_replaced(stale: Path) -> None:
    transport = UnixServerTransport(str(stale))
    recorder = await started(transport)
    assert await is_served(stale, recorder)
    await transport.stop()


async def test_a_socket_that_somebody_listens_on_is_left_alone(path: Path) -> None:
    first = UnixServerTransport(str(path))
    recorder = await started(first)
    assert "somebody listens" in await refusal(UnixServerTransport(str(path)))
    assert await is_served(path, recorder)
    await first.stop()


async def test_a_socket_whose_listener_is_too_busy_to_accept_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(str(path))
        assert "somebody listens" in await refusal(UnixServerTransport(str(path)))
        assert path.is_socket()
        for sock in waiting:
            sock.close()


async def test_a_socket_of_another_kind_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        await refusal(UnixServerTransport(str(path)))
        assert path.is_socket()


async def test_a_file_of_that_name_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    assert "no socket" in await refusal(UnixServerTransport(str(path)))
    assert path.read_text() == "precious"


async def test_a_folder_of_that_name_is_left_alone(path: Path) -> None:
    path.mkdir()
    assert "no socket" in await refusal(UnixServerTransport(str(path)))
    assert path.is_dir()


async def test_a_link_to_a_stale_socket_is_no_way_to_have_something_else_removed(stale: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.sock"
    link.symlink_to(stale)
    transport = UnixServerTransport(str(link))
    try:
        await started(transport)
    except ListenError:
        assert link.is_symlink()
    await transport.stop()
    assert stale.is_socket()


async def test_a_link_to_nowhere_is_one_line(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))
    await refusal(UnixServerTransport(str(path)))
    assert path.is_symlink()


async def test_a_folder_that_is_missing_is_one_line(tmp_path: Path) -> None:
    assert "No such file" in await refusal(UnixServerTransport(str(tmp_path / "missing" / "broker.sock")))


async def test_a_path_through_a_file_is_one_line(path: Path) -> None:
    path.write_text("no folder")
    await refusal(UnixServerTransport(str(path / "broker.sock")))


@pytest.mark.parametrize("name", ["x" * 200, "nul\0inside", "\udcff" * 80], ids=["too-long", "nul", "too-many-bytes"])
async def test_a_name_that_no_socket_can_have_is_one_line(tmp_path: Path, name: str) -> None:
    await refusal(UnixServerTransport(str(tmp_path / name)))


@pytest.mark.parametrize("name", ["missing", "x" * 200, "nul\0inside"], ids=["missing", "too-long", "nul"])
async def test_a_path_that_leads_nowhere_is_one_line(tmp_path: Path, name: str) -> None:
    flusher = Flusher(asyncio.get_running_loop())
    with pytest.raises(ConnectError) as caught:
        await UnixClientTransport(str(tmp_path / name)).dial(Role.CLIENT, Recorder(), Limits(), flusher)
    assert "\n" not in str(caught.value)


async def test_a_stale_socket_can_not_be_dialled(stale: Path) -> None:
    flusher = Flusher(asyncio.get_running_loop())
    with pytest.raises(ConnectError, match="refused"):
        await UnixClientTransport(str(stale)).dial(Role.CLIENT, Recorder(), Limits(), flusher)


async def test_a_socket_that_is_another_s_by_now_is_not_removed(path: Path) -> None:
    first = UnixServerTransport(str(path))
    await started(first)
    path.rename(path.with_name("old.sock"))
    second = UnixServerTransport(str(path))
    recorder = await started(second)
    await first.stop()
    assert await is_served(path, recorder)
    await second.stop()


@pytest.mark.parametrize("turns", range(5))
async def test_who_comes_just_as_a_listener_stops_is_announced_or_hung_up_on(path: Path, turns: int) -> None:
    transport = UnixServerTransport(str(path))
    recorder = await started(transport)
    await stopped_as_somebody_comes(transport, recorder, str(path), turns)
    assert not path.exists()


async def test_a_socket_that_somebody_removed_does_not_hinder_the_end(path: Path) -> None:
    transport = UnixServerTransport(str(path))
    await started(transport)
    path.unlink()
    await transport.stop()
    await transport.stop()


async def test_a_listener_that_can_not_be_made_leaves_no_socket(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of descriptors, say, after the socket was bound."""

    async def fail(*args: object, **kwargs: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_server", fail)
    assert "Too many open files" in await refusal(UnixServerTransport(str(path)))
    assert not path.exists()


async def test_a_peer_with_a_name_of_its_own_is_known_by_it(path: Path, tmp_path: Path) -> None:
    transport = UnixServerTransport(str(path))
    recorder = await started(transport)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "peer.sock"))
        sock.connect(str(path))
        await recorder.until(lambda: len(recorder.connections) == 1, "a connection was not announced")
    await recorder.until(lambda: recorder.count("closed") == 1, "its end was not told")
    assert recorder.connections[0].address == str(tmp_path / "peer.sock")
    assert recorder.reasons[recorder.connections[0]] is CloseReason.PEER_CLOSED
    await transport.stop()
