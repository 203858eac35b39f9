"""The decoders, fed streams of bytes that are nearly right."""

from itertools import pairwise

from fuzz.choices import Choices
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import Packet, decode, readdressed
from reasonchip_broker.protocol.codes import NO_COOKIE, Code, PacketType, Role
from reasonchip_broker.protocol.frames import (
    HEADER_BYTES,
    LENGTH_BYTES,
    MALFORMED,
    OVERSIZED,
    BinaryDecoder,
    Frame,
    FrameDecoder,
)
from reasonchip_broker.protocol.json_v0 import JsonDecoder, is_json, to_binary, to_json

FRAME_BYTES_MAX = 600
PIECES_MAX = 16


class BrokenInvariant(Exception):
    """What must hold did not."""


def require(holds: bool, sentence: str) -> None:
    """Raise BrokenInvariant unless something holds."""
    if not holds:
        raise BrokenInvariant(sentence)


def binary_decoder(data: bytes) -> None:
    """However a stream is cut, the same frames come out, each of them bytes of the stream in their order; nothing is kept but
    the beginning of a frame within the limit, and no exception is raised."""
    choices = Choices(data)
    strict = choices.one_in(2)
    cuts = [choices.below(0x10000) for _ in range(choices.below(PIECES_MAX))]
    stream = choices.bytes(choices.left)
    whole = BinaryDecoder(FRAME_BYTES_MAX, strict)
    frames = whole.feed(stream)
    _require_same(whole, frames, BinaryDecoder(FRAME_BYTES_MAX, strict), stream, cuts)
    at = 0
    for kind, cookie, raw, code, attempt, number, meta_length in frames:
        begin = stream.find(raw, at)
        require(begin == at, "a frame is not where the one before it ended")
        length = int.from_bytes(raw[:LENGTH_BYTES], "big")
        at += LENGTH_BYTES + length
        over = kind >= OVERSIZED
        require(over == (length > FRAME_BYTES_MAX), "a frame is taken for what it is not by its size")
        require(len(raw) == (HEADER_BYTES if over else LENGTH_BYTES + length), "a frame is not whole")
        packet = decode(raw)
        view = packet.kind, packet.cookie, packet.code, packet.attempt, packet.number
        require(view == (kind - OVERSIZED * over, cookie, code, attempt, number), "a frame's fields are not its bytes")
        require(over or len(packet.meta) == meta_length, "meta is not in its frame")
        require(not (strict and over), "a frame over the limit was skipped before the handshake")


def json_decoder(data: bytes) -> None:
    """However a stream is cut, the same frames come out; each stands for a binary frame, the same one by either way of reading it,
    and means the same once it was told to a JSON peer; nothing is kept but the beginning of a frame within the limit, and no
    exception is raised."""
    choices = Choices(data)
    role = Role.WORKER if choices.one_in(2) else Role.CLIENT
    cuts = [choices.below(0x10000) for _ in range(choices.below(PIECES_MAX))]
    stream = choices.bytes(choices.left)
    whole = JsonDecoder(FRAME_BYTES_MAX, role)
    frames = whole.feed(stream)
    _require_same(whole, frames, JsonDecoder(FRAME_BYTES_MAX, role), stream, cuts)
    for kind, cookie, raw, *_ in frames:
        require(len(cookie) == len(NO_COOKIE), "a cookie is not of 16 bytes")
        if kind == MALFORMED:
            require(raw.decode().isprintable(), "what is wrong with a packet is not one printable line")
        elif kind < OVERSIZED:
            packet = decode(to_binary(raw, 1))
            require((packet.kind, packet.cookie) == (kind, cookie), "a frame and its fields disagree")
            if kind in (PacketType.RUN, PacketType.RESULT) and packet.code == Code.OK and _is_ever_told(packet):
                _require_told_again(raw)
                _require_agreement(raw, role)


def _is_ever_told(packet: Packet) -> bool:
    """Whether a packet gets past the switchboard, which refuses names that make no sense."""
    try:
        return packet.kind != PacketType.RUN or bool(schemas.run_options(packet.meta).p)
    except schemas.MetaInvalid:
        return False


def _require_told_again(raw: bytes) -> None:
    """What a frame means survives being told to a JSON peer."""
    binary = readdressed(to_binary(raw, 1), 1, 0)
    side = Role.CLIENT if binary[4] == PacketType.RUN else Role.WORKER
    (again,) = JsonDecoder(10 * FRAME_BYTES_MAX, side).feed(to_json(binary))
    require(readdressed(to_binary(again[2], 1), 1, 0) == binary, "a frame means another thing once it was told")


def _require_agreement(raw: bytes, role: Role) -> None:
    """What was recognised by its bytes means the same to the strict parser, which reads whatever begins with a space."""
    if is_json(raw):
        body = b" " + raw[LENGTH_BYTES:]
        frames = JsonDecoder(10 * FRAME_BYTES_MAX, role).feed(len(body).to_bytes(4, "big") + body)
        require(len(frames) == 1 and frames[0][0] != MALFORMED, "the strict parser does not take it")
        require(readdressed(frames[0][2], 1, 0) == to_binary(raw, 1), "the strict parser takes it for something else")


def _require_same(whole: FrameDecoder, frames: list[Frame], cut: FrameDecoder, stream: bytes, cuts: list[int]) -> None:
    """Feed the same stream in pieces."""
    edges = sorted({0, len(stream), *(at % (len(stream) + 1) for at in cuts)})
    pieces = [stream[begin:end] for begin, end in pairwise(edges)]
    same: list[Frame] = []
    for piece in pieces:
        same += cut.feed(piece)
        require(cut.buffered_bytes <= LENGTH_BYTES + FRAME_BYTES_MAX, "more is kept than a frame may have")
    require(same == frames, "the frames depend on where the stream is cut")
    require((cut.failure is None) == (whole.failure is None), "whether the stream is one depends on where it is cut")
    require(str(cut.failure) == str(whole.failure), "what is wrong depends on where the stream is cut")
    require(cut.buffered_bytes == whole.buffered_bytes, "what is kept depends on where the stream is cut")
    if whole.failure is not None:
        require(whole.feed(stream) == [] and whole.buffered_bytes == 0, "something comes after the end")
