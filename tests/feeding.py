"""Ways to feed a decoder the same bytes: whole, byte by byte, split anywhere, with empty pieces. What comes out must not differ."""

from collections.abc import Iterator
from itertools import pairwise

from reasonchip_broker.protocol.frames import Frame, FrameDecoder


def feed_all(decoder: FrameDecoder, pieces: list[bytes]) -> list[Frame]:
    """The frames that come of all pieces."""
    return [frame for piece in pieces for frame in decoder.feed(piece)]


def split_at(data: bytes, *places: int) -> list[bytes]:
    """`data`, cut at these places."""
    edges = [0, *places, len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def every_way(data: bytes) -> Iterator[list[bytes]]:
    """Whole; byte by byte; in pieces of a few sizes; split in two at every place; with empty pieces between."""
    yield [data]
    for size in (1, 2, 3, 7, 31, 32, 33, 100):
        yield split_at(data, *range(size, len(data), size))
    for place in range(len(data) + 1):
        yield split_at(data, place)
    yield [b"", data[:5], b"", data[5:], b""]
