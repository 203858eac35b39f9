"""One live connection: bytes to frames, frames to bytes, and why it ended.

The same class serves both ends and every kind of transport, since it is an asyncio protocol over whatever asyncio transport it is
given.

*Out*: frames are collected in the outbox and written once per loop turn. While the transport holds more than the mark
(`pause_writing`), the outbox keeps what is sent, and a server's connection is not read from: a peer is not served faster than it
takes answers. At the hard cap, or when no byte was accepted for the write deadline, the peer is a slow consumer and the connection
ends.

*In*: a server's connection learns from its first four bytes which dialect it speaks. Bytes that make no frame are reported with a
reason; bytes that make a part of one start a timer, so that nobody holds a descriptor by dripping.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from reasonchip_broker.errors import RemoteProtocolError
from reasonchip_broker.limits import HANDSHAKE_FRAME_BYTES_MAX, Limits
from reasonchip_broker.protocol import packets
from reasonchip_broker.protocol.codes import CloseReason, Dialect, Role
from reasonchip_broker.protocol.frames import PREFACE, PREFACE_MAGIC, VERSION, VERSIONS, BinaryDecoder, FrameDecoder
from reasonchip_broker.transports.addresses import address_of
from reasonchip_broker.transports.bulk import read_in_bulk
from reasonchip_broker.transports.flusher import Flusher

if TYPE_CHECKING:
    from reasonchip_broker.transports.server_transport import ConnectionHandler

_PREFACE_BYTES: Final = len(PREFACE)
_JOIN_BYTES_MAX: Final = 8 * 1024
"""Frames up to this size, on average, are joined to be written; to copy larger ones costs more than to hand over each."""

_SLICE_BYTES: Final = 64 * 1024
"""What a TLS transport is given at a time."""

APART_S: Final = 50e-6
"""Lone frames that come so far apart are written each at once: to be joined, they would wait for the end of the loop's turn."""

LINGER_S: Final = 1.0
"""How long a peer that was said goodbye to, and has taken it, may leave its own end open."""

LATE_S: Final = 0.1
"""A timer that goes off this much too late means that the loop stood still. What came meanwhile is read within as much again."""

_WATCH_PARTS: Final = 4
"""How often, in each write deadline, a connection that takes nothing is looked at."""


class Connection(asyncio.Protocol):
    """A live connection. `id` is 16 bytes; `context` is its owner's to use; `address` is where the peer is, for people.

    `prepare` is called with its transport, once that is there: a compiled class has no subclasses that are not."""

    __slots__ = (
        "_accepted_bytes",
        "_begun_at",
        "_decoder",
        "_dirty",
        "_encodes",
        "_encrypts",
        "_flusher",
        "_frame_timer",
        "_handed_bytes",
        "_handler",
        "_head",
        "_held",
        "_held_bytes",
        "_limits",
        "_loop",
        "_mark",
        "_outbox",
        "_paused",
        "_plain",
        "_prepare",
        "_serves",
        "_translate",
        "_transport",
        "_watch",
        "_written_at",
        "address",
        "context",
        "dialect",
        "id",
        "json_queue",
        "known",
        "reads_in_bulk",
        "reason",
        "role",
    )

    def __init__(
        self,
        handler: "ConnectionHandler",
        connection_id: bytes,
        role: Role,
        limits: Limits,
        flusher: Flusher,
        *,
        dialect: Dialect | None = None,
        json_queue: bool = False,
        prepare: Callable[[asyncio.BaseTransport], None] | None = None,
    ) -> None:
        self.id = connection_id
        self.role = role
        self.dialect = dialect
        """None until the peer has shown it; set from the start at the dialling end."""
        self.json_queue = json_queue
        self.context: Any = None
        self.known = False
        """For its owner too: whether it is past the handshake."""
        self.address = ""
        self.reason: CloseReason | None = None
        """Why it ended; None as long as it lives."""
        self.reads_in_bulk = False
        """Whether a `BulkReader` stands between the transport and this."""
        self._serves = dialect is None
        """Whether this is the listening end. If both ends stopped reading until the other reads, neither ever would again."""
        self._handler = handler
        self._limits = limits
        self._loop = flusher.loop
        self._flusher = flusher
        self._transport: asyncio.Transport | None = None
        self._decoder: FrameDecoder | None = None
        self._head = b""
        self._encodes = False
        self._translate: Callable[[bytes], bytes]
        """Of a JSON peer: what a frame means in its words; nothing for what has no place there."""
        self._encrypts = False
        self._outbox: list[bytes] = []
        self._held_bytes = 0
        """Bytes in the outbox, counted only while nothing is written."""
        self._plain = False
        """Whether frames go into the outbox as they are: an open binary connection that takes what it is sent."""
        self._mark = limits.outbox_bytes_mark
        self._held = False
        """Whether its owner does not want to hear it for now."""
        self._dirty = False
        self._written_at = 0.0
        """When a lone frame was last written."""
        self._paused = False
        self._handed_bytes = 0
        self._accepted_bytes = 0
        self._watch: asyncio.TimerHandle | None = None
        self._frame_timer: asyncio.TimerHandle | None = None
        self._begun_at = 0.0
        self._prepare = prepare

    # Out

    def send(self, frame: bytes) -> None:
        """Send a frame of the binary protocol (a JSON peer gets what it means there). Nothing happens once the connection has
        ended."""
        if self._plain:
            self._outbox.append(frame)
            if not self._dirty:
                self._dirty = True
                self._flusher.add(self)
        elif self.reason is None:
            self._send_otherwise(frame)

    def send_all(self, frames: list[bytes]) -> None:
        """Send frames of the binary protocol, in order. The list is this connection's from now on."""
        if self._plain:
            if self._outbox:
                self._outbox += frames
            else:
                self._outbox = frames
            if not self._dirty:
                self._dirty = True
                self._flusher.add(self)
        else:
            for frame in frames:
                self.send(frame)

    def send_at_once(self, frames: list[bytes], now: float) -> None:
        """The same, and they are written now (`time.monotonic()`), unless something was so a moment ago: that is better joined."""
        if self._dirty or now - self._written_at < APART_S:
            self.send_all(frames)
        elif self._plain:
            self._written_at = now
            self._outbox = frames
            self.flush()
        else:
            self._written_at = now
            # Nothing of it is left to the flusher.
            self._dirty = True
            try:
                self.send_all(frames)
            finally:
                self.flush()

    def _send_otherwise(self, frame: bytes) -> None:
        """Send to a JSON peer, or to one that has more than the mark to take already."""
        if self._encodes:
            frame = self._translate(frame)
            if not frame:
                return
        if self._paused:
            # What was sent before it was known that the peer takes no more does not count against it, nor does a single frame.
            if self._held_bytes and self._held_bytes + len(frame) > self._limits.outbox_bytes_max:
                self.close(CloseReason.SLOW_CONSUMER, f"{self.pending_bytes} bytes wait for this peer to read")
                return
            self._held_bytes += len(frame)
        self._outbox.append(frame)
        if not self._dirty:
            self._dirty = True
            self._flusher.add(self)

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait to be written."""
        return self._held_bytes + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    @property
    def waited_s(self) -> float:
        """Seconds since the first byte of something that is not complete came; 0 if nothing is waited for."""
        return self._loop.time() - self._begun_at if self._begun_at else 0.0

    @property
    def buffered_bytes(self) -> int:
        """Bytes of an incomplete frame that were received."""
        return self._decoder.buffered_bytes if self._decoder is not None else len(self._head)

    def flush(self) -> None:
        """Hand the outbox to the transport, unless that has enough already."""
        self._dirty = False
        transport = self._transport
        if self._paused or not self._outbox or transport is None:
            return
        if self._watch is None and transport.get_write_buffer_size():
            self._start_watch()
        outbox = self._outbox
        self._outbox = []
        self._held_bytes = 0
        if self._encrypts and self.reason is None:
            self._flush_encrypted(transport, outbox)
            return
        is_lone = len(outbox) == 1  # and need neither be counted nor joined, which shows where jobs come one by one
        size = len(outbox[0]) if is_lone else sum(map(len, outbox))
        self._handed_bytes += size
        if is_lone:
            transport.write(outbox[0])
        elif size <= _JOIN_BYTES_MAX * len(outbox):
            transport.write(b"".join(outbox))
        else:
            transport.writelines(outbox)

    def _flush_encrypted(self, transport: asyncio.Transport, outbox: list[bytes]) -> None:
        """Hand over a little at a time: a TLS transport passes all that it is given on to the one below it, and looks only afterwards
        whether that had enough already, so that what is handed over in one piece is never held back, nor counted as waiting."""
        data = memoryview(b"".join(outbox))
        for start in range(0, len(data), _SLICE_BYTES):
            if self._paused:
                self._outbox.insert(0, bytes(data[start:]))
                self._held_bytes = sum(map(len, self._outbox))
                return
            piece = bytes(data[start : start + _SLICE_BYTES])
            self._handed_bytes += len(piece)
            transport.write(piece)

    def pause_writing(self) -> None:
        """The transport holds more than the mark."""
        self._paused = True
        self._plain = False
        if self._watch is None:
            self._start_watch()
        if self.reason is None and self._transport is not None:
            if self._serves:
                self._transport.pause_reading()
            self._handler.congested(self)

    def resume_writing(self) -> None:
        """It has got rid of most of that."""
        self._paused = False
        self._plain = self.reason is None and self.dialect is Dialect.BINARY
        self.flush()
        if not self._paused and self.reason is None and self._transport is not None:
            if self._serves and not self._held:
                self._transport.resume_reading()
            self._handler.writable(self)

    def notify_when_writable(self) -> None:
        """Call the handler's `writable` once what was sent so far is below the mark; in the next turn, if it is already."""
        self._loop.call_soon(self._notify_writable)

    def _notify_writable(self) -> None:
        if self.reason is None and not self._paused:
            self.flush()
            if not self._paused:
                self._handler.writable(self)

    def _start_watch(self) -> None:
        self._accepted_bytes = -1
        self._watch_for(_WATCH_PARTS)

    def _watch_for(self, parts: int) -> None:
        """Look at what the peer has taken, `parts` more times without finding anything new."""
        transport = self._transport
        if transport is None or self.reason is CloseReason.SLOW_CONSUMER:
            return
        waiting = transport.get_write_buffer_size()
        if not waiting:
            closing = self.reason is not None
            self._watch = self._loop.call_later(LINGER_S, transport.abort) if closing else None
            return
        accepted = self._handed_bytes - waiting
        if accepted != self._accepted_bytes:
            self._accepted_bytes = accepted
            parts = _WATCH_PARTS
        elif not parts:
            sentence = f"not a byte was taken for {self._limits.write_deadline_s:g} s, and {self.pending_bytes} wait"
            self.close(CloseReason.SLOW_CONSUMER, sentence)
            # One that was being closed already waits no longer for its last frames to be taken.
            transport.abort()
            return
        self._watch = self._loop.call_later(self._limits.write_deadline_s / _WATCH_PARTS, self._watch_for, parts - 1)

    # In

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is there."""
        if self._prepare is not None:
            self._prepare(transport)
        # uvloop's transports are asyncio's by their methods, not by their class.
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=self._mark, low=self._mark // 2)
        self._encrypts = transport.get_extra_info("sslcontext") is not None
        self.address = address_of(transport)
        if not self._handler.accepts(self):
            self.reason = CloseReason.LIMIT
            self._transport = None
            transport.abort()
        elif self.dialect is not None:
            self._decoder = BinaryDecoder(self._limits.frame_bytes_max)
            self._plain = True
            self._handler.opened(self)

    def data_received(self, data: bytes) -> None:
        """The network gave these bytes."""
        decoder = self._decoder
        if decoder is None:
            self._detect(data)
            return
        if self.reason is not None:
            return
        frames = decoder.feed(data)
        self._handler.received(self, frames)
        if decoder.failure is not None:
            self._offend(decoder.failure)
        elif self._encodes:
            self._time_frame(decoder.incomplete, begun=bool(frames))
        if decoder.bulky and not self.reads_in_bulk and self._transport is not None:
            self.reads_in_bulk = read_in_bulk(self, decoder, self._transport)

    def hold(self, held: bool) -> None:
        """Read nothing of a peer, or read it again. What was read already may still be told."""
        self._held = held
        if self.reason is None and not self._paused and self._transport is not None:
            if held:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _detect(self, data: bytes) -> None:
        head = self._head = self._head + data
        if self.reason is not None:
            return
        if len(head) < _PREFACE_BYTES:
            self._time_frame(True)
            return
        self._head = b""
        self._time_frame(False)
        if not head.startswith(PREFACE_MAGIC):
            self.dialect = Dialect.JSON
            # Loaded for the first peer that speaks it: clients and workers of ours never need it.
            from reasonchip_broker.protocol.json_v0 import JsonDecoder, for_json_peer

            self._decoder = JsonDecoder(self._limits.frame_bytes_max, self.role)
            self._translate = for_json_peer
            self._encodes = True
        elif head[_PREFACE_BYTES - 1] == VERSION:
            self.dialect = Dialect.BINARY
            self._decoder = BinaryDecoder(HANDSHAKE_FRAME_BYTES_MAX, strict=True)
            self._plain = True
            head = head[_PREFACE_BYTES:]
        else:
            self.close(CloseReason.UNSUPPORTED_VERSION, f"version {head[_PREFACE_BYTES - 1]} is not spoken here")
            return
        self._handler.opened(self)
        if head:
            self.data_received(head)

    def welcome(self) -> None:
        """The handshake is done: frames may have their full size."""
        decoder = self._decoder
        if isinstance(decoder, BinaryDecoder):
            decoder.frame_bytes_max = self._limits.frame_bytes_max
            decoder.strict = False

    def _time_frame(self, incomplete: bool, *, begun: bool = False) -> None:
        """Give a frame that is not complete its time; `begun` says that it is another one than before."""
        if not incomplete:
            if self._frame_timer is not None:
                self._frame_timer.cancel()
                self._frame_timer = None
        elif self._frame_timer is None:
            self._begun_at = self._loop.time()
            self._frame_timer = self._loop.call_later(self._limits.handshake_s, self._frame_overdue)
        elif begun:
            # A busy peer's reads hardly ever end where a frame does: its timer is moved when it goes off, not with each read.
            self._begun_at = self._loop.time()

    def _frame_overdue(self) -> None:
        left_s = self._begun_at + self._limits.handshake_s - self._loop.time()
        if left_s < -LATE_S or self._held or self._paused:
            # The peer may have said the rest long ago: look again once that has been read.
            left_s = LATE_S
            self._begun_at = self._loop.time() + left_s - self._limits.handshake_s
        if left_s > 0:
            self._frame_timer = self._loop.call_later(left_s, self._frame_overdue)
            return
        self._frame_timer = None
        sentence = f"a frame that was begun was not complete within {self._limits.handshake_s:g} s"
        self._offend(RemoteProtocolError(sentence, CloseReason.HANDSHAKE_TIMEOUT))

    def _offend(self, error: RemoteProtocolError) -> None:
        if self.reason is None:
            if self.dialect is None:
                self.close(CloseReason(error.reason), str(error))
            else:
                self._handler.offended(self, CloseReason(error.reason), str(error))

    # The end

    def close(self, reason: CloseReason, sentence: str) -> None:
        """Say goodbye and end the connection, once what was sent before is written. What the peer still says is not heard."""
        if self.reason is not None or self._transport is None:
            return
        if reason is CloseReason.SLOW_CONSUMER:
            # It would not read a goodbye either.
            self.abort(reason)
            return
        if reason < CloseReason.PEER_CLOSED:
            versions = VERSIONS if reason is CloseReason.UNSUPPORTED_VERSION else ()
            self._paused = False
            self.send(packets.goodbye(reason, sentence, versions))
        self._paused = self._plain = False
        self.reason = reason
        self.flush()
        transport = self._transport
        if transport is None:
            return
        if transport.can_write_eof():
            # To close a socket with unread bytes resets it, and what the peer has not taken by then is lost: so say that this end is
            # done, and let the peer, which is not listened to any more, close its own.
            try:
                transport.resume_reading()
                transport.write_eof()
            except OSError:
                # It has ended already, and is about to say so.
                transport.abort()
        else:
            transport.close()
        if self._watch is None:
            self._start_watch()

    def abort(self, reason: CloseReason) -> None:
        """End the connection at once, without a word."""
        if self.reason is None:
            self.reason = reason
        self._plain = False
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool:
        """The peer will send no more: neither shall we."""
        if self.reason is None:
            self.reason = CloseReason.PEER_CLOSED
        self._plain = False
        self.flush()
        if self._watch is None:
            self._start_watch()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        if self.reason is None:
            self.reason = CloseReason.PEER_CLOSED if exc is None else CloseReason.CONNECTION_LOST
        for timer in (self._watch, self._frame_timer):
            if timer is not None:
                timer.cancel()
        was_accepted = self._transport is not None
        self._watch = self._frame_timer = self._transport = None
        self._outbox.clear()
        self._held_bytes = 0
        self._plain = False
        if was_accepted:
            self._handler.closed(self, self.reason)
