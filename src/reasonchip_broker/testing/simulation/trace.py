"""A trace that a person can read: one line a step, with the time, who did it, what it was, and what was seen of it."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import decode
from reasonchip_broker.protocol.codes import NO_COOKIE, CloseReason, Code, PacketType, Role
from reasonchip_broker.protocol.json_v0 import to_binary
from reasonchip_broker.routing.effects import Close
from reasonchip_broker.testing.simulation.world import Operation, World
from reasonchip_broker.testing.switchboard_driver import FakeLink

_CODED = (PacketType.RESULT, PacketType.REPLY, PacketType.GOODBYE)
_KINDS = {kind.value: kind.name for kind in PacketType}
_CODES = {code.value: code.name for code in (*Code, *CloseReason)}
_WHO_WIDTH, _WHAT_WIDTH, _NAME_CHARS = 12, 50, 32


class Tracer:
    """Looks on, and keeps a line for each step. To be given to a world as `on_seen`."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._began: float | None = None
        self._names: dict[int, str] = {}
        self._told: Operation = ()

    def __call__(self, world: World, sends: list[tuple[FakeLink, bytes]], closes: list[Close]) -> None:
        """A step was taken."""
        if self._began is None:
            self._began = world.driver.clock.now
        for end in world.model.ends.values():
            self._names[end.link.number] = f"{end.link.role.name.lower()} {end.id}"
        operation = world.operation
        who, what = self._who(world, operation), tell(operation, world.operations.get(operation[0]))
        if operation is self._told:
            what = "…"
        self._told = operation
        seen = [f"{self._name(link)}: {describe(frame)}" for link, frame in sends]
        seen += [f"{self._name(close.link)} closed: {close.reason.name}" for close in closes]
        time_s = world.driver.clock.now - self._began
        line = f"{time_s:9.3f}  {who:<{_WHO_WIDTH}} {what:<{_WHAT_WIDTH}}"
        self.lines.append(f"{line} → {'; '.join(seen)}" if seen else line.rstrip())

    def _who(self, world: World, operation: Operation) -> str:
        if len(operation) > 1 and isinstance(operation[1], int):
            end = world.model.ends.get(operation[1])
            if end is not None:
                return self._names[end.link.number]
            if operation[0].startswith("connect"):
                return f"{'client' if 'client' in operation[0] else 'worker'} {operation[1]}"
            return f"peer {operation[1]}"
        return "time" if operation[0] in ("advance", "jump", "finish") else "broker"

    def _name(self, link: FakeLink) -> str:
        return self._names.get(link.number, f"{link.role.name.lower()}, link {link.number}")


def tell(operation: Operation, known: Callable[..., None] | None = None) -> str:
    """What an operation does, less who does it; `known` is what takes its arguments, and has names for them."""
    name, *values = operation
    parameters = list(signature(known).parameters.values()) if known is not None else []
    words = [name]
    for place, value in enumerate(values):
        parameter = parameters[place] if place < len(parameters) else None
        if place == 0 and isinstance(value, int) and (parameter is None or parameter.name == "id"):
            continue
        if parameter is not None and parameter.default == value:
            continue
        plain = parameter is None or parameter.default is Parameter.empty
        words.append(_value(value) if plain or parameter is None else f"{parameter.name}={_value(value)}")
    return " ".join(words)


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return job_name(value)
    if isinstance(value, tuple | list):
        return "[" + ",".join(_value(item) for item in value) + "]"
    if isinstance(value, Code | PacketType | Role | CloseReason):
        return value.name
    return str(value)


def job_name(cookie: bytes) -> str:
    """A cookie of a simulation, for people."""
    if cookie.startswith(b"cookie"):
        return f"job {cookie[6:].decode().strip()}"
    name = cookie.decode() if cookie.isascii() else cookie.hex()
    return name if len(name) <= _NAME_CHARS else f"{len(cookie)} bytes"


def describe(frame: bytes) -> str:
    """A packet in few words."""
    packet = decode(to_binary(frame, 1))
    kind = _KINDS.get(packet.kind, f"packet {packet.kind}")
    words = [f"GAP in {kind}" if packet.code == Code.GAP and packet.kind != PacketType.REPLY else kind]
    if packet.kind in _CODED:
        words.append(_CODES.get(packet.code, str(packet.code)))
    if packet.kind == PacketType.REPLY:
        to = schemas.reply_meta(packet.meta).to
        words.append(f"to {_KINDS.get(to, str(to))}")
    if packet.cookie != NO_COOKIE:
        words.append(job_name(packet.cookie))
    if packet.attempt > 1:
        words.append(f"attempt {packet.attempt}")
    if packet.number:
        words.append(f"({packet.number})")
    return " ".join(words)
