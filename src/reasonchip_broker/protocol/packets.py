"""Every packet that either end sends, built here and nowhere else: one function a packet, arguments in words, a frame out."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from reasonchip_broker.limits import QUEUE_ROWS, Limits
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import NUMBER_MAX, encode
from reasonchip_broker.protocol.codes import ENCODING_JSON, NO_COOKIE, CloseReason, Code, PacketType

FAILED_META: Final = schemas.encode_meta(schemas.ResultMeta(ran=True))
NEVER_RAN_META: Final = schemas.encode_meta(schemas.ResultMeta(ran=False))
SENTENCE_CHARS_MAX: Final = 4096
_SENTENCE_CHARS_KEPT: Final = 256
SOFTWARE: Final = "reasonchip-broker"


def hello(meta: schemas.HelloMeta) -> bytes:
    """HELLO: the first frame of a peer."""
    return encode(PacketType.HELLO, meta=schemas.encode_meta(meta))


def welcome(meta: schemas.WelcomeMeta) -> bytes:
    """WELCOME: the answer to it."""
    return encode(PacketType.WELCOME, meta=schemas.encode_meta(meta))


def welcome_meta(connection_id: bytes, instance: bytes, limits: Limits, version: str) -> schemas.WelcomeMeta:
    """What a broker's run `instance` says in WELCOME: whose connection this is, and the limits in force."""
    return schemas.WelcomeMeta(
        conn=connection_id,
        broker=instance,
        frame=limits.frame_bytes_max,
        jobs=limits.client_jobs_max,
        beat=int(limits.heartbeat_s * 1000),
        dead=int(limits.lease_s * 1000),
        credit=limits.credit_frames,
        window=limits.credit_bytes_max,
        retain=int(limits.retention_s * 1000),
        sw=SOFTWARE,
        v=version,
    )


def ping(number: int = 0) -> bytes:
    """PING: are you there?"""
    return encode(PacketType.PING, number=number)


def pong(number: int) -> bytes:
    """PONG: I am, with the PING's own number."""
    return encode(PacketType.PONG, number=number)


def goodbye(reason: CloseReason, sentence: str, versions: tuple[int, ...] = ()) -> bytes:
    """GOODBYE: why the connection is about to be closed."""
    meta = schemas.GoodbyeMeta(msg=sentence[:SENTENCE_CHARS_MAX], versions=list(versions))
    return encode(PacketType.GOODBYE, code=reason, meta=schemas.encode_meta(meta))


@lru_cache(maxsize=1024)
def _reply_meta(to: int, sentence: str) -> bytes:
    """Most REPLYs say what many others say: QUEUED, above all."""
    return schemas.encode_meta(schemas.ReplyMeta(to=to, msg=sentence[:SENTENCE_CHARS_MAX]))


def reply(
    to: int,
    code: Code,
    sentence: str,
    *,
    cookie: bytes = NO_COOKIE,
    number: int = 0,
    retry_ms: int = 0,
    job: schemas.JobStatus | None = None,
    held: Sequence[tuple[bytes, int]] = (),
    count: int = 0,
    queue: schemas.QueueReport | None = None,
) -> bytes:
    """REPLY: the answer to the request of type `to` with that number (RUN: with that cookie)."""
    if job is None and queue is None and not (retry_ms or held or count) and len(sentence) <= _SENTENCE_CHARS_KEPT:
        return encode(PacketType.REPLY, code=code, cookie=cookie, number=number, meta=_reply_meta(to, sentence))
    meta = schemas.ReplyMeta(
        to=to, msg=sentence[:SENTENCE_CHARS_MAX], retry=retry_ms, job=job, held=list(held), n=count, queue=queue
    )
    return encode(PacketType.REPLY, code=code, cookie=cookie, number=number, meta=schemas.encode_meta(meta))


def register(meta: schemas.RegisterMeta, number: int = 1) -> bytes:
    """REGISTER: what a worker takes."""
    return encode(PacketType.REGISTER, number=number, meta=schemas.encode_meta(meta))


def run(cookie: bytes, options: bytes, variables: bytes, left_ms: int = 0, attempt: int = 1) -> bytes:
    """RUN: a job. `options` is an encoded `RunOptions`; `left_ms` the milliseconds until its deadline, 0 for none."""
    return encode(PacketType.RUN, attempt=attempt, cookie=cookie, number=left_ms, meta=options, payload=variables)


@lru_cache(maxsize=64)
def _result_meta(encoding: str) -> bytes:
    return schemas.encode_meta(schemas.ResultMeta(enc=encoding))


def result(cookie: bytes, attempt: int, payload: bytes, encoding: str) -> bytes:
    """RESULT of a job that ended well; `payload` as `encoding` says."""
    return encode(PacketType.RESULT, code=Code.OK, attempt=attempt, cookie=cookie, meta=_result_meta(encoding), payload=payload)


def failed(
    cookie: bytes,
    attempt: int,
    code: Code,
    error: str,
    *,
    error_type: str = "",
    stack: list[str] | None = None,
    may_have_run: bool = True,
    history: Sequence[schemas.AttemptRecord] = (),
) -> bytes:
    """RESULT of a job that ended otherwise."""
    payload = schemas.encode_meta(schemas.Failure(error=error, type=error_type, stack=stack, hist=list(history)))
    meta = FAILED_META if may_have_run else NEVER_RAN_META
    return encode(PacketType.RESULT, code=code, attempt=attempt, cookie=cookie, meta=meta, payload=payload)


def cancel(cookie: bytes, *, at_once: bool = False, why: str = "", attempt: int = 0, number: int = 0) -> bytes:
    """CANCEL of one job, politely or at once."""
    meta = schemas.encode_meta(schemas.CancelMeta(now=at_once, why=why[:SENTENCE_CHARS_MAX]))
    return encode(PacketType.CANCEL, attempt=attempt, cookie=cookie, number=number, meta=meta)


def cancel_batch(batch: bytes, *, at_once: bool = False, why: str = "", number: int = 0) -> bytes:
    """CANCEL of every job of a batch."""
    meta = schemas.encode_meta(schemas.CancelMeta(now=at_once, why=why[:SENTENCE_CHARS_MAX], batch=batch))
    return encode(PacketType.CANCEL, number=number, meta=meta)


def progress(cookie: bytes, attempt: int, number: int, payload: bytes, encoding: str) -> bytes:
    """PROGRESS: chunk `number` of this attempt (from 1) from a worker, of the job to a client."""
    meta = schemas.encode_meta(schemas.ChunkMeta(enc=encoding))
    return encode(PacketType.PROGRESS, attempt=attempt, cookie=cookie, number=number, meta=meta, payload=payload)


def input_chunk(cookie: bytes, number: int, payload: bytes, encoding: str, attempt: int = 0) -> bytes:
    """INPUT: chunk `number` of the job (from 1)."""
    meta = schemas.encode_meta(schemas.ChunkMeta(enc=encoding))
    return encode(PacketType.INPUT, attempt=attempt, cookie=cookie, number=number, meta=meta, payload=payload)


def gap(kind: PacketType, cookie: bytes, attempt: int, first: int, last: int) -> bytes:
    """A PROGRESS or INPUT that stands for chunks that are no longer there: those numbered `first` to `last`."""
    meta = schemas.encode_meta(schemas.ChunkMeta(first=first))
    return encode(kind, code=Code.GAP, attempt=attempt, cookie=cookie, number=last, meta=meta)


def credit(cookie: bytes, attempt: int, frames: int) -> bytes:
    """CREDIT: so many more PROGRESS (from whoever gets them) or INPUT frames of a job may be sent."""
    return encode(PacketType.CREDIT, attempt=attempt, cookie=cookie, number=frames)


def ack(results: int) -> bytes:
    """ACK: so many RESULTs of this connection have been received, in all."""
    return encode(PacketType.ACK, number=results & NUMBER_MAX)


def attach(cookie: bytes, *, first: int = 0, take: bool = True, number: int = 0) -> bytes:
    """ATTACH: follow a job from PROGRESS `first` on (0: none of it), or fetch its outcome."""
    meta = schemas.encode_meta(schemas.AttachMeta(first=first, take=take))
    return encode(PacketType.ATTACH, cookie=cookie, number=number, meta=meta)


def status(cookie: bytes, *, tree: bool = False, number: int = 0) -> bytes:
    """STATUS: where is this job?"""
    return encode(PacketType.STATUS, cookie=cookie, number=number, meta=schemas.encode_meta(schemas.StatusMeta(tree=tree)))


def queue(rows: int = QUEUE_ROWS, number: int = 0) -> bytes:
    """QUEUE: who waits for what? In so many rows of each table."""
    return encode(PacketType.QUEUE, number=number, meta=schemas.encode_meta(schemas.QueueMeta(rows=rows)))


def park(cookie: bytes, attempt: int) -> bytes:
    """PARK: this job waits for something, and lends its slot out."""
    return encode(PacketType.PARK, attempt=attempt, cookie=cookie)


def resume(cookie: bytes, attempt: int) -> bytes:
    """RESUME: this job wants a slot again (from a worker), or has one (from the broker)."""
    return encode(PacketType.RESUME, attempt=attempt, cookie=cookie)


def extend(cookie: bytes, attempt: int, more_ms: int) -> bytes:
    """EXTEND: this attempt may run for so many milliseconds from now."""
    return encode(PacketType.EXTEND, attempt=attempt, cookie=cookie, number=more_ms)


def drain(number: int = 0, worker: str = "") -> bytes:
    """DRAIN: no more jobs, finish what runs. From a client: no more jobs to the worker of that name."""
    meta = schemas.encode_meta(schemas.DrainMeta(worker=worker)) if worker else b""
    return encode(PacketType.DRAIN, number=number, meta=meta)


def json_run(cookie: bytes, pipeline: str, variables: bytes, *, detach: bool) -> bytes:
    """The RUN that a JSON client's RUN stands for."""
    options = schemas.encode_meta(schemas.RunOptions(p=pipeline, enc=ENCODING_JSON, detach=detach))
    return run(cookie, options, variables)


def too_long(frame: bytes, limit: int) -> str:
    """The sentence about a frame over the limit, of which only the beginning is there."""
    return f"a frame of {int.from_bytes(frame[:4], 'big')} bytes is over the limit of {limit}"
