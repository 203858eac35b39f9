"""The frames that the generators send, and how they take apart what they receive."""

import json

import pytest

from benchmarks.generators import json_v0, nats, ours
from benchmarks.generators.closed_loop import Batch
from benchmarks.generators.framing import HEAD_BYTES, Framing
from benchmarks.generators.recorder import Recorder
from reasonchip_broker.peer.receipts import BYTES_MAX, DELAY_S, RESULTS_MAX
from tests.unit.benchmarks.transport import Transport

# Recorded from existing ReasonChip peers.
CAPTURED_REGISTER = (
    b'\x00\x00\x00\x9b{"packet_type":"REGISTER","cookie":null,"capacity":4,"pipeline":null,"variables":null,"detach":null,"rc":null,'
    b'"error":null,"stacktrace":null,"result":null}'
)
CAPTURED_RUN = (
    b'\x00\x00\x00\xce{"packet_type":"RUN","cookie":"0499c366-b04b-4d9a-8ad7-13389005a2b2","capacity":null,"pipeline":"echo",'
    b'"variables":"{\\"x\\": \\"hello\\"}","detach":false,"rc":null,"error":null,"stacktrace":null,"result":null}'
)


@pytest.fixture
async def recorder():
    return Recorder(0)


def connected(connection):
    transport = Transport()
    connection.connection_made(transport)
    opening, transport.written = transport.written, b""
    return transport, opening


def frames_of(data, frame_length):
    """The whole frames in `data`, which must end with one."""
    frames = []
    while data:
        size = frame_length(data, 0)
        assert 0 < size <= len(data)
        frames.append(data[:size])
        data = data[size:]
    return frames


LENGTHS = {
    "binary": (
        ours.frame_length,
        [ours.frame(ours.PING, number=3), ours.frame(ours.RUN, {"p": "x"}, b"y" * 3000), ours.frame(4)],
    ),
    "json": (json_v0.frame_length, [json_v0.frame(b"RUN"), json_v0.frame(b"RESULT", result=b"0" * 3000), json_v0.frame(b"X")]),
    "nats": (
        nats.frame_length,
        [b"PING\r\n", b"MSG a 1 b 3000\r\n" + b"\r\n" * 1500 + b"\r\n", b"MSG a 1 0\r\n\r\n", b"PONG\r\n"],
    ),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_a_stream_is_cut_alike_however_it_arrives(name):
    frame_length, frames = LENGTHS[name]
    heads = [frame[:HEAD_BYTES] for frame in frames]
    stream = b"".join(frames)
    for size in (1, 2, 7, 100, 1023, 1500, len(stream)):
        framing = Framing(frame_length)
        found = []
        for at in range(0, len(stream), size):
            found += framing.feed(stream[at : at + size])
        assert found == heads
        assert framing.between_frames


@pytest.mark.parametrize("name", LENGTHS)
def test_what_follows_a_frame_is_kept_for_later(name):
    frame_length, frames = LENGTHS[name]
    framing = Framing(frame_length)
    assert framing.feed(frames[0] + frames[1][:5]) == [frames[0]]
    assert not framing.between_frames
    assert framing.feed(frames[1][5:]) == [frames[1][:HEAD_BYTES]]


@pytest.mark.parametrize("size", [3, 100_000])
def test_a_batch_is_the_frames_one_after_the_other(size):
    transport = Transport()
    Batch(b"<", b"|" + b"p" * size).write(transport, [b"a", b"b"])
    assert transport.written == b"<a|" + b"p" * size + b"<b|" + b"p" * size


def test_json_frames_are_those_of_existing_peers():
    assert json_v0.frame(b"REGISTER", capacity=b"4") == CAPTURED_REGISTER
    made = json_v0.frame(
        b"RUN",
        cookie=b'"0499c366-b04b-4d9a-8ad7-13389005a2b2"',
        pipeline=b'"echo"',
        variables=json_v0.variables(14).replace(b"vvvvv", b"hello"),
        detach=b"false",
    )
    assert made == CAPTURED_RUN


@pytest.mark.parametrize("size", [100, 65_536])
def test_json_payloads_have_the_size_that_is_said(size):
    assert len(json.loads(json_v0.variables(size))) == size
    assert len(json.loads(json_v0.result(size))) == size
    json.loads(json.loads(json_v0.variables(size)))


async def test_a_binary_client_numbers_its_jobs(recorder):
    client = ours.OurClient(5, recorder, in_flight=3, payload_bytes=100)
    transport, opening = connected(client)
    assert opening.startswith(b"RCB\x01")
    client.start()
    runs = frames_of(transport.written, ours.frame_length)
    assert len(runs) == 3
    length, kind, code, attempt, cookie, number, meta = ours.HEADER.unpack_from(runs[2])
    assert (length, kind, code, attempt, number) == (len(runs[2]) - 4, ours.RUN, 0, 1, 0)
    assert cookie[7] == 2
    assert runs[2][32 + meta :] == b"v" * 100
    other = ours.OurClient(6, recorder, in_flight=3, payload_bytes=100)
    their_transport, _ = connected(other)
    other.start()
    cookies = {run[8:24] for run in runs + frames_of(their_transport.written, ours.frame_length)}
    assert len(cookies) == 6


async def test_a_job_goes_round_and_the_next_one_follows(recorder):
    """Both the quick way and the careful one, for every protocol."""
    for make_client, make_worker in (
        (ours.OurClient, ours.OurWorker),
        (json_v0.JsonClient, json_v0.JsonWorker),
    ):
        client, worker = make_client(0, recorder, 4, 100), make_worker(0, recorder, 4, 100)
        sent, _ = connected(client)
        answered, _ = connected(worker)
        client.start()
        seen = set()
        for piece in (10_000, 10_000, 17, 1, 10_000):
            seen.update(frames_of(sent.written, client.framing._frame_length))
            deliver(sent, worker, piece)
            deliver(answered, client, piece)
        assert not recorder.failed.done()
        assert len(seen) == 20  # No frame twice: each has a cookie of its own.
    assert recorder.jobs == 40


def deliver(source, target, piece):
    data, source.written = source.written, b""
    for at in range(0, len(data), piece):
        target.data_received(data[at : at + piece])


async def test_requests_and_replies_of_nats(recorder):
    client, worker = nats.NatsClient(3, recorder, 2, 5), nats.NatsWorker(0, recorder, 2, 5)
    sent, opening = connected(client)
    assert opening.endswith(b"SUB _INBOX.0000000000000000000003.* 1\r\nPING\r\n")
    answered, opening = connected(worker)
    assert opening.endswith(b"SUB bench workers 1\r\nPING\r\n")
    client.data_received(b'INFO {"a":1}\r\nPONG\r\n')
    assert client.ready.done()
    client.start()
    assert sent.written == (
        b"PUB bench _INBOX.0000000000000000000003.0000000000 5\r\nvvvvv\r\n"
        b"PUB bench _INBOX.0000000000000000000003.1000000001 5\r\nvvvvv\r\n"
    )
    request = b"MSG bench 1 _INBOX.0000000000000000000003.1000000001 5\r\nvvvvv\r\n"
    for data in (request, request + request, b"PING\r\n" + request):
        answered.written = b""
        worker.data_received(data)
        assert answered.written.count(b"PUB _INBOX.0000000000000000000003.1000000001 5\r\nrrrrr\r\n") == data.count(b"MSG")
    assert b"PONG\r\n" in answered.written
    sent.written = b""
    client.data_received(b"MSG _INBOX.0000000000000000000003.1000000001 1 5\r\nrrrrr\r\n")
    client.data_received(b"MSG _INBOX.0000000000000000000003.0000000000 1 5\r\nrrrrr\r\n")
    assert sent.written.count(b"PUB bench _INBOX.0000000000000000000003.1000000002 ") == 1
    assert sent.written.count(b"PUB bench _INBOX.0000000000000000000003.0000000003 ") == 1
    client.data_received(b"-ERR 'Slow Consumer'\r\n")
    with pytest.raises(ConnectionError, match="NATS client 3: -ERR 'Slow Consumer'"):
        recorder.check()


async def test_a_worker_echoes_attempt_and_cookie_and_answers_pings(recorder):
    worker = ours.OurWorker(1, recorder, capacity=9, payload_bytes=10)
    transport, _ = connected(worker)
    worker.data_received(ours.frame(ours.WELCOME, {"conn": bytes(16)}))
    register = transport.written
    assert register[4] == ours.REGISTER
    assert not worker.ready.done()
    worker.data_received(ours.frame(ours.REPLY, {"to": ours.REGISTER}, number=1))
    assert worker.ready.done()
    transport.written = b""
    run = ours.frame(ours.RUN, {"p": "bench"}, b"v" * 50, attempt=3, cookie=b"0123456789abcdef")
    worker.data_received(ours.frame(ours.PING, number=9) + run + run)
    pong, first, second = frames_of(transport.written, ours.frame_length)
    assert pong == ours.frame(ours.PONG, number=9)
    assert first == second == ours.frame(ours.RESULT, {"enc": "bytes"}, b"r" * 10, attempt=3, cookie=b"0123456789abcdef")


@pytest.mark.parametrize(
    ("in_flight", "payload", "elapsed_ns", "reads"),
    [(64, b"", 0, 1), (1, b"", 0, 64), (2, bytes(33_000), 0, 1), (2, b"", 50_000_000, 1)],
    ids=["many in one read", "many reads", "many bytes", "much time"],
)
async def test_acks_count_the_results_received_and_come_as_the_client_library_sends_them(
    recorder, monkeypatch, in_flight, payload, elapsed_ns, reads
):
    assert (ours.ACK_RESULTS, ours.ACK_BYTES, ours.ACK_NS) == (RESULTS_MAX, BYTES_MAX, DELAY_S * 1e9)
    now = elapsed_ns
    monkeypatch.setattr(ours, "perf_counter_ns", lambda: now)
    client = ours.OurClient(0, recorder, in_flight, 10, acks=True)
    transport, _ = connected(client)
    client.start()
    for read in range(reads):
        runs = frames_of(transport.written, ours.frame_length)
        assert len(runs) == in_flight
        results = b"".join(ours.frame(ours.RESULT, None, payload, cookie=run[8:24]) for run in runs)
        transport.written = b""
        client.data_received(results)
        acks = [frame for frame in frames_of(transport.written, ours.frame_length) if frame[4] == ours.ACK]
        assert acks == ([ours.frame(ours.ACK, number=reads * in_flight)] if read == reads - 1 else [])


async def test_a_queued_job_is_counted_and_a_refused_one_ends_the_run(recorder):
    client = ours.OurClient(0, recorder, 1, 10)
    connected(client)
    client.start()
    client.data_received(ours.HEADER.pack(28, ours.REPLY, 64, 0, bytes(16), 0, 0))
    assert recorder.queued == 1
    recorder.check()
    client.data_received(ours.HEADER.pack(28, ours.REPLY, 37, 0, bytes(16), 0, 0))
    with pytest.raises(ConnectionError, match="client 0: packet type 6 with code 37"):
        recorder.check()


async def test_a_lost_connection_ends_the_run_unless_we_closed_it(recorder):
    client = json_v0.JsonClient(0, recorder, 1, 100)
    connected(client)
    client.closing = True
    client.connection_lost(None)
    recorder.check()
    client.closing = False
    client.connection_lost(None)
    with pytest.raises(ConnectionError, match="the broker closed the connection"):
        recorder.check()
