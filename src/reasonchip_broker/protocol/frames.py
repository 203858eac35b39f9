"""Bytes in, frames out: both protocols are streams of length-prefixed frames, and this is where streams become frames.

A decoder is fed whatever the network gave, in pieces of any size, and returns every frame that is complete by then. What it returns
of a frame is its *routing view*: the fields of its header, and the frame's own bytes, which travel on unchanged; meta and payload
are read from those bytes only by whoever needs them (`binary.py`).

Four rules shape the code. A frame's length is judged on its header, before anything of it is kept. A frame that comes in many
pieces is joined once, when its last piece is there. A large one is not joined: it has its place as soon as enough of it has come,
where its bytes go as they come, and where who reads from the network can put them himself (`place`). And an error ends the
stream, but what was complete before it still counts: `feed` returns those frames, and `failure` tells why there will be no more.
"""

from abc import ABC, abstractmethod
from io import BytesIO
from struct import Struct
from typing import TYPE_CHECKING, Final, TypeAlias

from reasonchip_broker.errors import RemoteProtocolError
from reasonchip_broker.protocol.codes import CloseReason

if TYPE_CHECKING:
    from mypy_extensions import i64

Frame: TypeAlias = tuple[int, bytes, bytes, int, int, int, int]
"""What a decoder returns of a frame: packet type (or a pseudo type, below), cookie, the whole frame's bytes, code, attempt, number,
length of meta. A tuple, since one is made for each frame that comes in, and anything else costs several times as much."""

HEADER: Final = Struct(">IBBH16sII")
"""length, type, code, attempt, cookie, number, meta_length."""

HEADER_BYTES: Final = 32
LENGTH_BYTES: Final = 4
LENGTH_MIN: Final = HEADER_BYTES - LENGTH_BYTES
"""The smallest `length` of a frame: a header without meta and payload."""

PREFACE_MAGIC: Final = b"RCB"
VERSION: Final = 1
PREFACE: Final = PREFACE_MAGIC + bytes((VERSION,))
VERSIONS: Final = (VERSION,)

OVERSIZED: Final = 256
"""Added to the type of a frame over the limit: its header is all there is of it, the rest was skipped unbuffered."""

MALFORMED: Final = 512
"""The type of what is no packet, though its frame was whole (JSON only); the bytes are the sentence that says why."""

UNKNOWN: Final = 255
"""The type given to a JSON packet whose name is not known; no packet of the binary protocol has it."""

_COMPILED: Final = not __file__.endswith(".py")
_UNPACK: Final = HEADER.unpack_from
_LENGTH: Final = Struct(">I")
_PIECE_BYTES: Final = 1024
"""Pieces of a frame that are smaller are put together as they come, which copies each byte of them some hundred times at the worst."""

LARGE_BYTES: Final = 32 * 1024
"""A frame of this size has a place of its own while it comes."""

BULK_BYTES: Final = 256 * 1024
"""A frame of this size is worth two more calls for each read, and smaller reads where the next one begins."""

AT_ONCE_BYTES: Final = 256 * 1024
"""No more of a place is given away at a time: what is read in one go, others wait for."""

_PLACE_FACTOR: Final = 64
"""How much more memory a peer may make us take than it has sent of a frame."""


class FrameDecoder(ABC):
    """A sans-I/O decoder of length-prefixed frames: what the two protocols have in common.

    `frame_bytes_max` bounds the `length` of a frame and may be changed between calls. `failure` is None until the stream turns out
    to be no stream of frames; from then on nothing more comes out.
    """

    __slots__ = ("_chunks", "_have", "_need", "_place", "_skip", "_small", "_whole", "bulky", "failure", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int) -> None:
        self.frame_bytes_max = frame_bytes_max
        self.failure: RemoteProtocolError | None = None
        self._chunks: list[bytes] = []
        self._small = b""
        self._have = 0
        self._need = 0
        self._skip = 0
        self._whole: BytesIO | None = None
        """The frame of which a part has come, where it is large."""
        self._place: memoryview | None = None
        """Its bytes."""
        self.bulky = False
        """Whether what has begun is so large that it pays to have it written to its `place`."""

    @property
    def incomplete(self) -> bool:
        """Whether a frame was begun that is not complete yet."""
        return self._have > 0 or self._skip > 0

    @property
    def buffered_bytes(self) -> int:
        """How many bytes of an incomplete frame are held."""
        return self._have

    def feed(self, data: bytes) -> list[Frame]:
        """Take the next bytes of the stream; return the frames that they complete, in order."""
        frames: list[Frame] = []
        begin, end = 0, len(data)
        while self._have or self._skip:
            if self._skip:
                skipped = min(self._skip, end - begin)
                self._skip -= skipped
                begin += skipped
                if self._skip:
                    return frames
                continue
            after = begin + self._need - self._have
            if after > end:
                self._keep(data[begin:] if begin else data)
                return frames
            whole = self._complete(data, begin, after)
            begin = after
            rest = self._parse(whole, 0, frames)
            if rest < len(whole):
                # Its length, or its header, is known now.
                self._hold(whole, rest)
        if begin < end and self.failure is None:
            rest = self._parse(data, begin, frames)
            if rest < end and self.failure is None:
                self._hold(data, rest)
        return frames

    @property
    def place(self) -> memoryview | None:
        """Where the next bytes of the stream belong, if a large frame has begun: they may be written there, instead of fed.

        Its last byte is to be fed: whoever wrote the others may hold on to the place until it returns from telling so."""
        place, have = self._place, self._have
        end = min(have + AT_ONCE_BYTES, self._need - 1)
        return place[have:end] if place is not None and have < end else None

    def filled(self, size: int) -> None:
        """So many bytes were written to `place`."""
        self._have += size

    def _hold(self, data: bytes, begin: int) -> None:
        """Keep the first bytes of a frame, whose size, so far as it is known, is `_need`."""
        size = len(data) - begin
        self._have = size
        if LARGE_BYTES <= self._need <= size * _PLACE_FACTOR:
            self._make_place()[:size] = memoryview(data)[begin:]
        else:
            self._chunks = [data[begin:] if begin else data]

    def _keep(self, data: bytes) -> None:
        """Keep the next piece of a frame. Small ones are put together, or the list of them would be larger than they are."""
        have = self._have
        self._have = after = have + len(data)
        place = self._place
        if place is not None:
            place[have:after] = data
        elif LARGE_BYTES <= self._need <= after * _PLACE_FACTOR:
            self._make_place()[:after] = b"".join([*self._chunks, self._small, data])
            self._chunks = []
            self._small = b""
        elif len(data) >= _PIECE_BYTES:
            self._chunks.append(self._small)
            self._chunks.append(data)
            self._small = b""
        else:
            small = self._small
            self._small = small + data if len(small) + len(data) <= _PIECE_BYTES else data
            if self._small is data:
                self._chunks.append(small)

    def _make_place(self) -> memoryview:
        # What a BytesIO was made of it owns, if nobody else does: it can be written to, and be had as bytes, without being copied, if
        # nobody has a view of it any more.
        self._whole = BytesIO(bytes(self._need))
        self._place = place = self._whole.getbuffer()
        self.bulky = self._need >= BULK_BYTES
        return place

    def _complete(self, data: bytes, begin: int, end: int) -> bytes:
        """All of a frame, or of the part of it that was needed, whose last bytes are these of `data`."""
        place, whole = self._place, self._whole
        if place is not None and whole is not None:
            place[self._have :] = memoryview(data)[begin:end]
            place.release()
            complete = whole.getvalue()
            self._place = self._whole = None
            self.bulky = False
        else:
            self._chunks.append(self._small)
            self._chunks.append(data[begin:end])
            complete = b"".join(self._chunks)
            self._chunks = []
            self._small = b""
        self._have = 0
        return complete

    @abstractmethod
    def _parse(self, data: bytes, begin: int, frames: list[Frame]) -> int:
        """Append the complete frames of `data`, from `begin` on; return where the incomplete one begins, with `_need` set to its size
        so far known."""

    def _fail(self, message: str, reason: CloseReason) -> None:
        self.failure = RemoteProtocolError(message, reason)
        self._chunks = []
        self._small = b""
        self._place = self._whole = None
        self.bulky = False
        self._have = 0
        self._skip = 0


class BinaryDecoder(FrameDecoder):
    """Frames of the binary protocol, after the preface.

    `strict` is True until the handshake is done: until then a frame over the limit ends the stream instead of costing only itself.
    """

    __slots__ = ("strict",)

    def __init__(self, frame_bytes_max: int, strict: bool = False) -> None:
        super().__init__(frame_bytes_max)
        self.strict = strict

    def _parse(self, data: bytes, begin: int, frames: list[Frame]) -> int:
        offset: i64 = begin
        end: i64 = len(data)
        last = end - HEADER_BYTES
        limit: i64 = self.frame_bytes_max
        unpack, compiled = _UNPACK, _COMPILED
        length: i64
        number: i64
        meta_length: i64
        while offset <= last:
            if compiled:
                # What `HEADER` says, without its seven objects.
                length = _four(data, offset)
                kind, code, attempt = data[offset + 4], data[offset + 5], data[offset + 6] << 8 | data[offset + 7]
                cookie = data[offset + 8 : offset + 24]
                number, meta_length = _four(data, offset + 24), _four(data, offset + 28)
            else:
                length, kind, code, attempt, cookie, number, meta_length = unpack(data, offset)
            after = offset + LENGTH_BYTES + length
            if meta_length + LENGTH_MIN <= length <= limit:
                if after > end:
                    self._need = after - offset
                    return offset
                # A slice of all is made by copying where this is compiled.
                raw = data if compiled and not offset and after == end else data[offset:after]
                frames.append((kind, cookie, raw, code, attempt, number, meta_length))
            elif length <= limit or self.strict:
                return self._refuse(length, meta_length, end)
            else:
                head = data[offset : offset + HEADER_BYTES]
                frames.append((kind + OVERSIZED, cookie, head, code, attempt, number, 0))
                if after > end:
                    self._skip = after - end
                    return end
            offset = after
        if end - offset < LENGTH_BYTES:
            self._need = LENGTH_BYTES
            return offset
        self._need = HEADER_BYTES
        length = _LENGTH.unpack_from(data, offset)[0]
        if length < LENGTH_MIN or (self.strict and length > limit):
            return self._refuse(length, 0, end)
        return offset

    def _refuse(self, length: int, meta_length: int, end: int) -> int:
        if length < LENGTH_MIN:
            self._fail(f"a frame's length is at least {LENGTH_MIN}, not {length}", CloseReason.PROTOCOL_ERROR)
        elif length > self.frame_bytes_max:
            self._fail(
                f"a frame before WELCOME has a length of at most {self.frame_bytes_max}, not {length}",
                CloseReason.FRAME_TOO_LARGE,
            )
        else:
            self._fail(f"meta of {meta_length} bytes in a frame of length {length}", CloseReason.PROTOCOL_ERROR)
        return end


def _four(data: bytes, at: "i64") -> "i64":
    """A number of four bytes. (Where this is interpreted, `Struct` reads them all at once.)"""
    return i64(data[at]) << 24 | i64(data[at + 1]) << 16 | i64(data[at + 2]) << 8 | i64(data[at + 3])
