"""Cutting a stream of bytes into frames without looking into them, nor copying them.

The generator needs to know of a frame only how it begins (type, id of the job, outcome). So a large frame that arrives in pieces is
never put together: its beginning is kept, the rest is counted off.
"""

from collections.abc import Callable

HEAD_BYTES = 1024
"""How much of a frame's beginning is kept. Smaller frames are kept whole."""

FrameLength = Callable[[bytes, int], int]
"""Tells the length in bytes of the frame that begins at an offset, all included; 0 as long as there are too few bytes to tell."""


class Framing:
    """A stream's place between two frames or within one."""

    __slots__ = ("_frame_length", "_head", "_rest", "_skip")

    def __init__(self, frame_length: FrameLength) -> None:
        """At the beginning of a stream whose frames have the length that `frame_length` tells."""
        self._frame_length = frame_length
        self._rest = b""  # The beginning of a frame of which too little has come to tell anything.
        self._head = b""  # How the frame begins of which `_skip` bytes are still to come.
        self._skip = 0

    @property
    def between_frames(self) -> bool:
        """Whether the next byte is the first of a frame."""
        return not self._skip and not self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """Take what was received; the first HEAD_BYTES of each frame that is now complete."""
        complete: list[bytes] = []
        position = 0
        if self._skip:
            if self._skip > len(data):
                self._skip -= len(data)
                return complete
            position = self._skip
            self._skip = 0
            complete.append(self._head)
        if self._rest:
            data = self._rest + data
            position = 0
        size = len(data)
        while position < size:
            length = self._frame_length(data, position)
            end = position + length
            if not length or (end > size and size - position < HEAD_BYTES):
                break
            head = data[position : min(end, position + HEAD_BYTES)]
            if end > size:
                self._head = head
                self._skip = end - size
                position = size
            else:
                complete.append(head)
                position = end
        self._rest = data[position:]
        return complete
