"""What a job is asked for beside its pipeline and variables, and how that travels.

A client sends the same few options over and over, so the bytes of each distinct set are made once: that is cheap here, and lets
the broker recognise them without decoding them again.
"""

import os
import uuid
from dataclasses import dataclass

from reasonchip_broker.peer.payloads import ENCODINGS
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import NUMBER_MAX
from reasonchip_broker.protocol.codes import ENCODING_MSGPACK

METAS_MAX = 1024
"""Distinct pipelines of one set of options whose bytes are kept; more are the mark of names made up as one goes."""

NONCE_BYTES = 16
DEADLINE_S_MAX = NUMBER_MAX / 1000
"""About 49 days: what RUN's header can say in milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How jobs are to be run; set with `with_options`. Raises ValueError, or TypeError, for values that make no sense.

    `timeout`: seconds from submission after which this client gives the job up: it is cancelled, and TimeoutError raised. It
    needs no broker to fire. `deadline_s`: seconds from submission after which the broker ends the job, wherever it is
    (DeadlineExceeded). `queue`: whether the job may wait for a slot; without, it is refused at once (NoCapacity, NotServed).
    `cookie`: the job's UUID, to be chosen for one job at a time; None makes a random one for each. `encoding`: of the
    variables: msgpack, json (which existing workers need), bytes or text. `detach`: nobody waits for the outcome: the job's
    result is None as soon as the broker has taken it.
    """

    timeout: float | None = None
    deadline_s: float | None = None
    queue: bool = True
    cookie: uuid.UUID | None = None
    encoding: str = ENCODING_MSGPACK
    detach: bool = False

    def __post_init__(self) -> None:
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout must be over 0 seconds, not {self.timeout}")
        if self.deadline_s is not None and not 0 < self.deadline_s <= DEADLINE_S_MAX:
            raise ValueError(f"deadline_s must be over 0 and at most {DEADLINE_S_MAX:.0f} seconds, not {self.deadline_s}")
        if self.cookie is not None and not isinstance(self.cookie, uuid.UUID):
            raise TypeError(f"cookie must be a uuid.UUID, not {type(self.cookie).__name__}")
        if self.encoding not in ENCODINGS:
            raise ValueError(f"{self.encoding!r} is no encoding; known are {', '.join(ENCODINGS)}")


class RunMetas:
    """RUN's meta for each pipeline, under one set of options and the client's nonce; may be used from several threads."""

    __slots__ = ("_nonce", "_options", "_ready")

    def __init__(self, options: Options, nonce: bytes) -> None:
        self._options = options
        self._nonce = nonce
        self._ready: dict[tuple[str, str], bytes] = {}

    def of(self, pipeline: str, encoding: str) -> bytes:
        """The meta for a pipeline's name and its variables' encoding. Raises ValueError for a name that no broker takes."""
        meta = self._ready.get((pipeline, encoding))
        if meta is None:
            # A cookie that was chosen may be chosen again: only a nonce of its own tells the two submissions apart.
            nonce = self._nonce if self._options.cookie is None else os.urandom(NONCE_BYTES)
            meta = self._encode(pipeline, encoding, nonce)
            if self._options.cookie is None:
                if len(self._ready) >= METAS_MAX:
                    self._ready.clear()
                self._ready[pipeline, encoding] = meta
        return meta

    def _encode(self, pipeline: str, encoding: str, nonce: bytes) -> bytes:
        options = self._options
        meta = schemas.encode_meta(
            schemas.RunOptions(
                p=pipeline, enc=encoding, nonce=nonce, queue=options.queue, reply=options.detach, detach=options.detach
            )
        )
        try:
            schemas.run_options(meta)
        except (schemas.MetaInvalid, schemas.MetaUndecodable) as error:
            raise ValueError(f"{pipeline!r} can't be the name of a pipeline: {error}") from error
        return meta
