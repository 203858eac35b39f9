"""Metas of packets, decoded, and kept: a broker and its workers say the same few over and over."""

from collections.abc import Callable
from typing import Generic, TypeVar

from reasonchip_broker.errors import RemoteProtocolError
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.codes import CloseReason

METAS_MAX = 1024
METAS_BYTES_MAX = 256
"""How many metas of one kind are kept, and of what length: what is longer hardly comes twice."""

Schema = TypeVar("Schema")


class Metas(Generic[Schema]):
    """The metas of one type of packet. `name` is the packet's, for messages."""

    __slots__ = ("_decode", "_name", "known")

    def __init__(self, name: str, decode: Callable[[bytes], Schema]) -> None:
        self.known: dict[bytes, Schema] = {}
        """What has been decoded: look here first, and call `learn` for what is missing."""
        self._name = name
        self._decode = decode

    def of(self, raw: bytes) -> Schema:
        """The decoded meta. Raises RemoteProtocolError."""
        return self.known.get(raw) or self.learn(raw)

    def learn(self, raw: bytes) -> Schema:
        """Decode a meta, and keep it. Raises RemoteProtocolError for one that makes no sense: the connection is of no more use."""
        try:
            meta = self._decode(raw)
        except (schemas.MetaInvalid, schemas.MetaUndecodable) as error:
            raise RemoteProtocolError(f"{self._name}: {error}", CloseReason.PROTOCOL_ERROR) from error
        if len(raw) <= METAS_BYTES_MAX:
            if len(self.known) >= METAS_MAX:
                self.known.clear()
            self.known[raw] = meta
        return meta
