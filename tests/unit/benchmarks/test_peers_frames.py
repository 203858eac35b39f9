"""The protocols of what we are compared with: what the generators say in them, and what they make of what they hear."""

import struct

import pytest

from benchmarks.generators import amqp, gearman, open_loop, ours, redis
from benchmarks.generators.nats import inbox
from benchmarks.generators.open_loop import OpenNatsClient, OpenOurClient
from benchmarks.generators.recorder import Recorder
from benchmarks.generators.relay import RelayedClient, RelayedWorker
from tests.unit.benchmarks.transport import Transport, connected


@pytest.fixture
async def recorder():
    return Recorder(broker_pid=1)


def heard(kind, body=b""):
    return b"\0RES" + struct.pack(">II", kind, len(body)) + body


async def test_a_gearman_worker_asks_for_as_many_jobs_as_it_has_slots_and_for_one_more_with_each_answer(recorder):
    worker = gearman.GearmanWorker(0, recorder, 2, 20)
    transport = connected(worker)
    worker.data_received(heard(gearman.ECHO_RES, b"ready"))
    assert (transport.take(), worker.ready.done()) == (gearman.packet(gearman.GRAB_JOB) * 2, True)
    job = b"\x05" + bytes(8) + b"variables"
    worker.data_received(heard(gearman.JOB_ASSIGN, b"H:here:1\0bench\0" + job))
    answer = gearman.packet(gearman.WORK_COMPLETE, b"H:here:1\0\x05" + bytes(19))
    assert transport.take() == answer + gearman.packet(gearman.GRAB_JOB)


async def test_a_gearman_worker_sleeps_once_there_is_nothing_and_asks_again_when_it_is_woken(recorder):
    worker = gearman.GearmanWorker(0, recorder, 2, 20)
    transport = connected(worker)
    worker.data_received(heard(gearman.ECHO_RES))
    transport.take()
    worker.data_received(heard(gearman.NO_JOB))
    assert transport.take() == b""
    worker.data_received(heard(gearman.NO_JOB))
    assert transport.take() == gearman.packet(gearman.PRE_SLEEP)
    worker.data_received(heard(gearman.NOOP))
    assert transport.take() == gearman.packet(gearman.GRAB_JOB) * 2


async def test_a_gearman_client_sends_the_next_job_for_each_that_ends_whatever_it_is_called(recorder):
    client = gearman.GearmanClient(3, recorder, 2, 20)
    transport = connected(client)
    client.start()
    first = transport.take()
    size = gearman.frame_length(first, 0)
    assert len(first) == 2 * size
    client.data_received(heard(gearman.JOB_CREATED, b"H:here:12"))
    assert (transport.take(), recorder.jobs) == (b"", 0)
    client.data_received(heard(gearman.WORK_COMPLETE, b"H:here:12\0" + b"\x01" + bytes(19)))
    again = transport.take()
    assert (recorder.jobs, len(again)) == (1, size)
    assert again[size - 20] == 1, "the place of the job that ended"


@pytest.mark.parametrize("make", [gearman.GearmanClient, redis.RedisClient])
async def test_what_is_no_answer_ends_the_run(recorder, make):
    client = make(0, recorder, 1, 20)
    connected(client)
    client.data_received(heard(19, b"error") if make is gearman.GearmanClient else b"-ERR no\r\n")
    with pytest.raises(ConnectionError):
        recorder.check()


async def test_a_redis_client_asks_for_all_its_answers_in_advance_and_pushes_with_another_connection(recorder):
    client = redis.RedisClient(7, recorder, 3, 20)
    transport = connected(client)
    (pusher,) = client.companions()
    pushing = connected(pusher)
    pusher.data_received(b"+PONG\r\n")
    client.data_received(b"+PONG\r\n")
    client.start()
    pop = redis.command(b"BLPOP", b"answers:007", b"0")
    assert transport.take() == pop * 3
    jobs = pushing.take()
    assert jobs.count(b"RPUSH") == 3
    answer = b"*2\r\n$11\r\nanswers:007\r\n$20\r\n007\x02" + bytes(16) + b"\r\n"
    client.data_received(answer[:25])
    client.data_received(answer[25:])
    assert (transport.take(), recorder.jobs, pushing.take().count(b"RPUSH")) == (pop, 1, 1)


async def test_a_redis_worker_answers_into_the_list_of_the_client_and_pops_the_next_job(recorder):
    worker = redis.RedisWorker(0, recorder, 1, 20)
    transport = connected(worker)
    job = b"042\x05" + bytes(8)
    worker.data_received(b"+PONG\r\n*2\r\n$4\r\njobs\r\n$20\r\n" + job + bytes(8) + b"\r\n")
    expected = redis.command(b"RPUSH", b"answers:042", job + bytes(8)) + redis.command(b"BLPOP", b"jobs", b"0")
    assert transport.take() == expected
    assert redis.spread(4, 64) == redis.WORKERS_MAX


async def test_a_client_of_rabbitmq_opens_a_connection_and_a_channel_and_consumes_its_answers(recorder):
    client = amqp.AmqpClient(0, recorder, 1, 20)
    transport = connected(client)
    said = []
    for step in (
        amqp.method(10, 10, bytes(20), 0),
        amqp.method(10, 30, struct.pack(">HIH", 2047, 131072, 60), 0),
        amqp.method(10, 41, b"\0", 0),
        amqp.method(20, 11, bytes(4)),
    ):
        client.data_received(step)
        said.append(transport.take())
    assert b"\0guest\0guest" in said[0]
    assert said[3] == amqp.method(60, 20, b"\0\0" + amqp.short(amqp.REPLY_TO) + b"\0\x02" + bytes(4))
    assert not client.ready.done()
    client.data_received(amqp.method(60, 21, amqp.short(b"tag")))
    assert client.ready.done()


async def test_a_worker_of_rabbitmq_answers_to_where_the_request_says_with_its_id(recorder):
    worker = amqp.AmqpWorker(0, recorder, 1, 20)
    transport = connected(worker)
    identity = b"\x07" + struct.pack(">Q", 99)
    properties = struct.pack(">HHQH", 60, 0, 20, 1 << 9) + amqp.short(b"amq.rabbitmq.reply-to.x")
    body = amqp.frame(amqp.BODY, identity + bytes(11))
    worker.data_received(amqp.method(60, 60, b"tag") + amqp.frame(amqp.HEADER, properties) + body)
    assert transport.take() == amqp.message(b"amq.rabbitmq.reply-to.x", 20) + identity + bytes(11) + b"\xce"
    client = amqp.AmqpClient(0, recorder, 1, 20)
    connected(client)
    client.data_received(amqp.method(60, 60, b"tag") + amqp.frame(amqp.HEADER, bytes(14)) + body)
    assert recorder.jobs == 1


def body_frames(identity, size):
    """The frames of a message's body."""
    data = struct.pack(">BHI", amqp.BODY, 1, min(size, amqp.BODY_BYTES_MAX)) + identity + amqp.after_id(size)
    frames = []
    while data:
        length = amqp.frame_length(data, 0)
        frames.append(data[:length])
        data = data[length:]
    return frames


@pytest.mark.parametrize("more", [-1, 0, 1, 1 << 18])
async def test_a_large_message_of_rabbitmq_is_several_frames_and_one_job(recorder, more):
    size, identity = amqp.BODY_BYTES_MAX + more, b"\x07" + struct.pack(">Q", 99)
    frames = body_frames(identity, size)
    assert all(len(frame) <= 131_072 for frame in frames)
    assert sum(len(frame) - 8 for frame in frames) == size
    header = struct.pack(">HHQH", 60, 0, size, 1 << 9) + amqp.short(b"me")
    worker, client = amqp.AmqpWorker(0, recorder, 1, size), amqp.AmqpClient(0, recorder, 1, size)
    transport = connected(worker)
    connected(client)
    for peer in (worker, client):
        peer.data_received(amqp.frame(amqp.HEADER, header) + b"".join(frames[:-1]))
    assert (transport.take(), recorder.jobs) == (b"", 0), "it is not complete"
    for peer in (worker, client):
        peer.data_received(frames[-1])
    assert transport.take() == amqp.message(b"me", size) + identity + amqp.after_id(size)
    assert recorder.jobs == 1


async def test_through_a_relay_nobody_says_hello(recorder):
    for peer in (RelayedClient(0, recorder, 1, 20), RelayedWorker(0, recorder, 1, 20)):
        transport = Transport()
        peer.connection_made(transport)
        assert (transport.written, peer.ready.done()) == (b"", True)


async def test_in_an_open_loop_what_is_due_is_sent_and_its_latency_counts_from_then(recorder):
    client = OpenOurClient(0, recorder, 1, 20)
    transport = connected(client)
    client.first_due_ns, client.interval_ns = 1_000, 100
    client.submit_due(999)
    assert transport.take() == b""
    client.submit_due(1_250)
    runs = transport.take()
    size = ours.frame_length(runs, 0)
    assert [int.from_bytes(runs[at + 16 : at + 24], "big") for at in range(0, len(runs), size)] == [0, 1, 2]
    client.submit_due(1_299)
    assert transport.take() == b""
    recorder.recording = True
    client.data_received(ours.frame(ours.RESULT, cookie=runs[size + 8 : size + 24]))
    assert recorder.jobs == 1
    # It was due at 1,100 of a clock that reads far more by now.
    assert recorder.latencies[0] > 10**6


def gearman_answer(job):
    return heard(gearman.WORK_COMPLETE, b"H:here:12\0" + job[-20:])


def redis_answer(job):
    return b"*2\r\n$11\r\nanswers:002\r\n$20\r\n" + job[-22:]


def amqp_answer(job):
    return amqp.frame(amqp.HEADER, struct.pack(">HHQH", 60, 0, 20, 0)) + job[-28:]


OPEN = {
    open_loop.OpenGearmanClient: (gearman_answer, heard(gearman.JOB_CREATED, b"H:here:12")),
    open_loop.OpenRedisClient: (redis_answer, b""),
    open_loop.OpenAmqpClient: (amqp_answer, amqp.method(60, 60, b"tag")),
}


@pytest.mark.parametrize("make", OPEN, ids=lambda make: make.__name__)
async def test_every_peer_sends_what_is_due_and_counts_its_latency_from_then_by_the_number_in_the_answer(recorder, make):
    answer_to, says_nothing = OPEN[make]
    client = make(2, recorder, 3, 20)
    transport = connected(client)
    sending = transport
    for companion in client.companions():
        sending = connected(companion)
    client.start()
    asked = transport.take()
    assert asked == (redis.command(b"BLPOP", b"answers:002", b"0") * 3 if make is open_loop.OpenRedisClient else b"")
    client.first_due_ns, client.interval_ns = 1_000, 500
    client.submit_due(1_000)
    client.submit_due(2_000)
    jobs = sending.take()
    size = len(jobs) // 3
    assert len(jobs) == 3 * size
    recorder.recording = True
    client.data_received(says_nothing + answer_to(jobs[2 * size :]) + answer_to(jobs[:size]))
    recorder.check()
    assert recorder.jobs == 2
    # They came in one read, and the third was due 1,000 ns after the first.
    assert recorder.latencies[1] - recorder.latencies[0] == 1_000
    assert transport.take() == asked[: len(asked) // 3] * 2, "Redis is asked for as many again"


async def test_the_number_of_a_request_to_nats_is_in_the_subject_of_its_answer(recorder):
    client = OpenNatsClient(5, recorder, 1, 20)
    connected(client)
    (token,) = client.fresh([0], 0x1234)
    head = b"MSG %s%s 1 20\r\n" % (inbox(5), token)
    assert (client.ends_job(head), client.number_in(head)) == (True, 0x1234)
