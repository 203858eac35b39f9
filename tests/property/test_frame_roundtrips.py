"""Whatever is encoded decodes to the same, in pieces of whatever size; and what was passed on is what came in."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from reasonchip_broker.protocol import packets, schemas
from reasonchip_broker.protocol.binary import ATTEMPT_MAX, NUMBER_MAX, decode, encode, readdressed
from reasonchip_broker.protocol.codes import CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.frames import OVERSIZED, BinaryDecoder
from reasonchip_broker.protocol.json_v0 import JsonDecoder, to_binary, to_json
from tests.feeding import feed_all, split_at

LIMIT = 300

bytes_16 = st.binary(min_size=16, max_size=16)
some_bytes = st.binary(max_size=200)
unsigned = st.integers(0, NUMBER_MAX)
texts = st.text(max_size=40)
names = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="\u2028\u2029"), min_size=1, max_size=255)
frames = st.builds(
    encode,
    kind=st.integers(0, 255),
    code=st.integers(0, 255),
    attempt=st.integers(0, ATTEMPT_MAX),
    cookie=bytes_16,
    number=unsigned,
    meta=some_bytes,
    payload=some_bytes,
)


@st.composite
def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Some bytes, cut anywhere."""
    return split_at(data, *sorted(draw(st.lists(st.integers(0, len(data)), max_size=12))))


@given(frame=frames)
def test_decoding_and_encoding_are_each_others_inverse(frame: bytes) -> None:
    packet = decode(frame)
    fields = packet.kind, packet.code, packet.attempt, packet.cookie, packet.number, packet.meta, packet.payload
    assert encode(*fields) == frame


@given(frame=frames, attempt=st.integers(0, ATTEMPT_MAX), number=unsigned)
def test_readdressing_and_back_changes_nothing(frame: bytes, attempt: int, number: int) -> None:
    packet = decode(frame)
    assert readdressed(readdressed(frame, attempt, number), packet.attempt, packet.number) == frame


@given(data=st.data(), sent=st.lists(frames, max_size=8), strict=st.booleans())
def test_row_7_any_frames_cut_anywhere_come_out_as_they_went_in(data: st.DataObject, sent: list[bytes], strict: bool) -> None:
    decoder = BinaryDecoder(1000, strict)
    received = feed_all(decoder, data.draw(pieces(b"".join(sent))))
    assert [frame[2] for frame in received] == sent
    for (kind, cookie, raw, code, attempt, number, meta_length), frame in zip(received, map(decode, sent), strict=True):
        assert (kind, cookie, code, attempt, number) == (frame.kind, frame.cookie, frame.code, frame.attempt, frame.number)
        assert raw[32 : 32 + meta_length] == frame.meta
    assert (decoder.failure, decoder.incomplete, decoder.buffered_bytes) == (None, False, 0)


@given(data=st.data(), sent=st.lists(frames, max_size=8))
def test_row_8_frames_over_the_limit_cost_only_themselves_wherever_they_are_cut(data: st.DataObject, sent: list[bytes]) -> None:
    decoder = BinaryDecoder(LIMIT)
    received = feed_all(decoder, data.draw(pieces(b"".join(sent))))
    over = [len(frame) - 4 > LIMIT for frame in sent]
    assert [frame[0] >= OVERSIZED for frame in received] == over
    assert [frame[2] for frame in received] == [
        frame[:32] if is_over else frame for frame, is_over in zip(sent, over, strict=True)
    ]
    assert (decoder.failure, decoder.incomplete, decoder.buffered_bytes) == (None, False, 0)


@given(data=st.data(), stream=st.binary(max_size=400), strict=st.booleans())
def test_row_10_any_bytes_come_out_the_same_however_they_are_cut(data: st.DataObject, stream: bytes, strict: bool) -> None:
    whole, cut = BinaryDecoder(100, strict), BinaryDecoder(100, strict)
    assert feed_all(cut, data.draw(pieces(stream))) == whole.feed(stream)
    assert (cut.failure is None) == (whole.failure is None)
    assert (cut.incomplete, cut.buffered_bytes) == (whole.incomplete, whole.buffered_bytes)


# Schemas

hellos = st.builds(
    schemas.HelloMeta,
    sw=texts,
    v=texts,
    token=st.none() | texts,
    feat=st.lists(texts, max_size=3),
    name=st.none() | names,
    inst=st.none() | bytes_16,
    grace=unsigned,
)
welcomes = st.builds(
    schemas.WelcomeMeta,
    conn=bytes_16,
    broker=bytes_16,
    frame=unsigned,
    jobs=unsigned,
    beat=unsigned,
    dead=unsigned,
    credit=unsigned,
    sw=texts,
    v=texts,
    feat=st.lists(texts, max_size=3),
)
registers = st.builds(
    schemas.RegisterMeta,
    cap=st.integers(1, 10_000),
    serves=st.lists(names, min_size=1, max_size=5),
    labels=st.dictionaries(names, names, max_size=3),
    held=st.lists(st.tuples(bytes_16, unsigned), max_size=3),
)
runs = st.builds(
    schemas.RunOptions,
    p=names,
    enc=st.text(max_size=32),
    nonce=st.binary(max_size=32),
    queue=st.booleans(),
    reply=st.booleans(),
    detach=st.booleans(),
)
failures = st.builds(schemas.Failure, error=texts, type=texts, stack=st.none() | st.lists(texts, max_size=4))


@given(hello=hellos, welcome=welcomes, register=registers, run=runs, failure=failures)
def test_what_a_schema_says_is_what_the_other_end_reads(
    hello: Any, welcome: Any, register: Any, run: Any, failure: Any
) -> None:
    assert schemas.hello_meta(schemas.encode_meta(hello)) == hello
    assert schemas.welcome_meta(schemas.encode_meta(welcome)) == welcome
    assert schemas.register_meta(schemas.encode_meta(register)) == register
    assert schemas.run_options(schemas.encode_meta(run)) == run
    assert schemas.failure(schemas.encode_meta(failure)) == failure


@given(meta=st.binary(max_size=60) | st.dictionaries(texts, st.integers() | texts, max_size=4).map(msgspec.json.encode))
def test_row_10_any_meta_is_read_or_refused(meta: bytes) -> None:
    decoders = (schemas.hello_meta, schemas.run_options, schemas.register_meta, schemas.cancel_meta, schemas.reply_meta)
    for decoder in decoders:
        try:
            decoder(meta)
        except (schemas.MetaInvalid, schemas.MetaUndecodable):
            pass
    schemas.failure(meta)


# To existing peers and back


@given(cookie=bytes_16.filter(any), pipeline=names, variables=texts, detach=st.booleans())
def test_a_run_reaches_a_json_worker_and_says_the_same(cookie: bytes, pipeline: str, variables: str, detach: bool) -> None:
    frame = packets.json_run(cookie, pipeline, variables.encode(), detach=detach)
    (received,) = JsonDecoder(10_000).feed(to_json(frame))
    assert to_binary(received[2], 1) == frame


@given(cookie=bytes_16.filter(any), result=texts)
def test_a_result_reaches_a_json_client_and_says_the_same(cookie: bytes, result: str) -> None:
    frame = packets.result(cookie, 1, result.encode(), "json")
    (received,) = JsonDecoder(10_000, Role.WORKER).feed(to_json(frame))
    assert to_binary(received[2], 1) == frame


@given(
    frame=st.builds(
        encode,
        kind=st.just(PacketType.RESULT),
        code=st.integers(0, 9),
        cookie=bytes_16,
        meta=some_bytes | st.sampled_from(["json", "msgpack", "text"]).map(lambda enc: msgspec.msgpack.encode({"enc": enc})),
        payload=some_bytes | failures.map(schemas.encode_meta),
    )
)
def test_row_10_any_result_of_a_worker_can_be_told_to_a_json_client(frame: bytes) -> None:
    fields = msgspec.json.decode(to_json(frame)[4:])
    assert fields["packet_type"] == "RESULT"
    assert fields["rc"] in ("OK", "EXCEPTION", "PROCESSOR_EXCEPTION", "NO_CAPACITY", "WORKER_WENT_AWAY", "BROKER_WENT_AWAY")


@given(
    code=st.sampled_from(Code),
    to=st.sampled_from(PacketType),
    cookie=bytes_16,
    sentence=texts,
    reason=st.sampled_from(CloseReason),
)
def test_row_10_anything_that_the_broker_says_can_be_told_to_a_json_peer(
    code: Code, to: PacketType, cookie: bytes, sentence: str, reason: CloseReason
) -> None:
    for frame in (packets.reply(to, code, sentence, cookie=cookie), packets.goodbye(reason, sentence), packets.drain()):
        told = to_json(frame)
        assert not told or len(msgspec.json.decode(told[4:])) == 10
