"""What a job is asked for beside its pipeline and variables, and how that travels.

A client sends the same few options over and over, so the bytes of each distinct set are made once: that is cheap here, and lets
the broker recognise them without decoding them again.
"""

import difflib
import math
import numbers
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict

from reasonchip_broker.limits import ATTEMPTS_MAX, NAME_CHARS_MAX, PRIORITIES, PRIORITY_DEFAULT, RETRY_NAMES_MAX
from reasonchip_broker.peer.payloads import ENCODINGS
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.binary import NUMBER_MAX
from reasonchip_broker.protocol.codes import ENCODING_MSGPACK

METAS_MAX = 1024
"""Distinct pipelines of one set of options whose bytes are kept; more are the mark of names made up as one goes."""

NONCE_BYTES = 16
SECONDS_MAX = NUMBER_MAX / 1000
"""About 49 days: what a RUN can say in milliseconds."""

ANY_ERROR = "*"
"""In `retry_on`: any exception of the handler."""

_BACK = schemas.RunOptions(p="p").back
"""The very object of the default: an equal one is not recognised, and a plain job would say more than it must."""

Disconnect = Literal["continue", "cancel"] | float
NotBefore = datetime | timedelta | float


class ChildOptions(TypedDict, total=False):
    """The options of a job that a handler submits, as keywords; see `Options`."""

    timeout: float | None
    deadline_s: float | None
    queue: bool
    cookie: uuid.UUID | None
    encoding: str
    detach: bool
    follow: bool
    attempts: int
    backoff_s: float
    retry_on: str | type[BaseException] | Iterable[str | type[BaseException]]
    on_disconnect: Disconnect
    retention_s: float | None
    queue_limit_s: float | None
    run_limit_s: float | None
    not_before: NotBefore | None
    priority: int
    fairness_key: str
    affinity_key: str
    require: Mapping[str, str] | None
    prefer: Mapping[str, str] | None
    only_served: bool
    batch: uuid.UUID | None
    loose: bool


class OptionChanges(ChildOptions, total=False):
    """The options of a job that a client submits, as keywords; see `Options`."""

    parent: uuid.UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How jobs are to be run: keywords of `submit`, `run` and the like, and of `with_options`. Raises ValueError, or TypeError, for
    values that make no sense.

    `timeout`: seconds from submission after which this client gives the job up: it is cancelled, and TimeoutError raised. It
    needs no broker to fire. `deadline_s`: seconds from submission after which the broker ends the job, wherever it is
    (DeadlineExceeded). `queue`: whether the job may wait for a slot; without, it is refused at once (NoCapacity, NotServed).
    `queue_limit_s`: for how many seconds it may wait, each time that it does (QueueTimeout). `run_limit_s`: how long an attempt
    may run, unless its handler asks for more (DeadlineExceeded).

    `attempts`: how often the job may be tried: again when its worker is lost, and when its handler raises one of `retry_on`,
    names of exceptions or their classes ("*", or the class Exception: any). `backoff_s`: seconds before the second attempt, twice
    as many before each further one. With attempts over 1 a job may run more than once.

    `not_before`: when the job may run: a datetime that has a time zone, or how long from its submission, as a timedelta or a number of
    seconds. Until then it is scheduled, at the broker; what is past is now. At most 49 days ahead, and a broker may allow less
    (BadPacket). With `queue` False it needs a slot at that time, or ends (QueueTimeout).

    `priority`: 0 to 9; among jobs that wait for the same workers, those of the highest go first. `fairness_key`: with whose jobs it
    takes turns: those of a key that has used less of the workers' time lately go first. Without one, they are this client's (or its
    principal's).

    `affinity_key`: jobs of the same one go to the worker that had the last of them, if it has a slot free or soon has, and is not much
    more loaded than others.

    `require`: labels that a worker must have to run it, `prefer`: those that it better has; names and values. `only_served`: it is
    refused (NotServed) if no connected worker may run it, instead of waiting for one.

    `cookie`: the job's UUID, to be chosen for one job at a time; None makes a random one for each. `encoding`: of the
    variables: msgpack, json (which existing workers need), bytes or text. `follow`: whether its progress is sent here as it
    comes, for `async for`. `detach`: nobody waits for the outcome: the job's result is None as soon as the broker has taken it.

    `on_disconnect`: what becomes of the job when this client is gone and nobody else attaches to it: "continue", "cancel", or
    a number of seconds after which it is cancelled. `retention_s`: how long its outcome can be fetched (None: as the broker
    has it). `parent`: the cookie of the live job that it is a part of: it is over no later than that one's deadline, and is cancelled
    when that one is cancelled, fails, or is tried again; but goes on if it is `loose`. `batch`: the id of the batch that it is part of.
    """

    timeout: float | None = None
    deadline_s: float | None = None
    queue: bool = True
    cookie: uuid.UUID | None = None
    encoding: str = ENCODING_MSGPACK
    detach: bool = False
    follow: bool = False
    attempts: int = 1
    backoff_s: float = 0.5
    retry_on: str | type[BaseException] | Iterable[str | type[BaseException]] = ()
    on_disconnect: Disconnect = "continue"
    retention_s: float | None = None
    queue_limit_s: float | None = None
    run_limit_s: float | None = None
    not_before: NotBefore | None = None
    priority: int = PRIORITY_DEFAULT
    fairness_key: str = ""
    affinity_key: str = ""
    require: Mapping[str, str] | None = None
    prefer: Mapping[str, str] | None = None
    only_served: bool = False
    parent: uuid.UUID | None = None
    loose: bool = False
    batch: uuid.UUID | None = None

    def __post_init__(self) -> None:
        for name in ("queue", "detach", "follow", "loose", "only_served"):
            _require(name, getattr(self, name), bool, "True or False")
        if self.timeout is not None:
            _require("timeout", self.timeout, numbers.Real, "a number of seconds")
            if not self.timeout > 0:
                raise ValueError(f"timeout must be over 0 seconds, not {self.timeout}")
        for name in ("deadline_s", "queue_limit_s", "run_limit_s"):
            _require_seconds(name, getattr(self, name), zero=False)
        for name in ("backoff_s", "retention_s"):
            _require_seconds(name, getattr(self, name), zero=True)
        _require_moment(self.not_before)
        for name in ("cookie", "parent", "batch"):
            if getattr(self, name) is not None:
                id_bytes(name, getattr(self, name))
        if self.loose and self.parent is None:
            raise ValueError("loose is for a job that has a parent, and outlives it: say which, with parent")
        if self.encoding not in ENCODINGS:
            raise ValueError(f"{self.encoding!r} is no encoding; known are {', '.join(ENCODINGS)}")
        _require("attempts", self.attempts, int, "a whole number")
        if not 1 <= self.attempts <= ATTEMPTS_MAX:
            raise ValueError(f"attempts must be from 1 to {ATTEMPTS_MAX}, not {self.attempts}")
        _require("priority", self.priority, int, "a whole number")
        if not 0 <= self.priority < PRIORITIES:
            raise ValueError(f"priority must be from 0 to {PRIORITIES - 1}, not {self.priority}")
        for name in ("require", "prefer"):
            _require_labels(name, getattr(self, name))
        for name in ("fairness_key", "affinity_key"):
            _require(name, getattr(self, name), str, "a text")
        if isinstance(self.on_disconnect, str):
            if self.on_disconnect not in ("continue", "cancel"):
                raise ValueError(f'on_disconnect is "continue", "cancel", or a number of seconds, not {self.on_disconnect!r}')
        else:
            _require("on_disconnect", self.on_disconnect, numbers.Real, '"continue", "cancel", or a number of seconds')
            _require_seconds("on_disconnect", self.on_disconnect, zero=True)
        object.__setattr__(self, "retry_on", _error_names(self.retry_on))


_NAMES = frozenset(field.name for field in fields(Options))
_SAID = tuple(sorted(_NAMES - {"timeout", "deadline_s", "not_before", "encoding"}))
"""What RUN's meta says. Of the others `timeout` is this client's alone, times travel as what is left of them when a job is sent, and
the encoding is that of the variables that there are."""


def say_the_same(options: Options, others: Options) -> bool:
    """Whether RUN's meta is the same for both."""
    return all(getattr(options, name) == getattr(others, name) for name in _SAID)


def changed(options: Options, changes: Mapping[str, Any]) -> Options:
    """Options that differ in what is named. Raises TypeError for a name that is no option, and what `Options` raises."""
    unknown = changes.keys() - _NAMES
    if unknown:
        raise TypeError(_no_option(min(unknown)))
    return replace(options, **changes)


def _no_option(name: str) -> str:
    close = difflib.get_close_matches(name, _NAMES, 1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{name!r} is no option{meant}; a job's variables are given as one value: {{{name!r}: ...}}"


def id_bytes(name: str, value: uuid.UUID) -> bytes:
    """The bytes of a job's or a batch's id. Raises TypeError, with its `name`, for what is none: a text, say, that was stored."""
    if not isinstance(value, uuid.UUID):
        raise TypeError(f"{name} must be a uuid.UUID, not {type(value).__name__}")
    return value.bytes


def _require(name: str, value: object, kind: type, what: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} must be {what}, not {value!r}")


def _require_labels(name: str, labels: Mapping[str, str] | None) -> None:
    if labels is None:
        return
    _require(name, labels, Mapping, "a map of names to values")
    for each in (*labels, *labels.values()):
        _require(name, each, str, "a map of names to values, both texts")


def _require_seconds(name: str, value: float | None, *, zero: bool) -> None:
    if value is None:
        return
    _require(name, value, numbers.Real, "a number of seconds")
    if not (0 < value <= SECONDS_MAX or (zero and value == 0)):
        least = "at least" if zero else "over"
        raise ValueError(f"{name} must be {least} 0 and at most {SECONDS_MAX:.0f} seconds, not {value}")


def _require_moment(not_before: NotBefore | None) -> None:
    """Whatever is not too far off now will not be later."""
    kinds = (datetime, timedelta, numbers.Real)
    naive = isinstance(not_before, datetime) and not_before.utcoffset() is None
    if not_before is not None and (naive or isinstance(not_before, bool) or not isinstance(not_before, kinds)):
        what = "a datetime with a time zone (a local time gets one from .astimezone()), a timedelta, or a number of seconds"
        raise TypeError(f"not_before must be {what}, not {not_before!r}")
    if not delay_s(not_before) <= SECONDS_MAX:
        raise ValueError(f"not_before must be at most {SECONDS_MAX:.0f} seconds ahead, not {not_before!r}")


def delay_s(not_before: NotBefore | None) -> float:
    """How many seconds from now a job may run that is submitted now; 0 or less: at once."""
    if isinstance(not_before, datetime):
        not_before -= datetime.now(UTC)
    if isinstance(not_before, timedelta):
        return not_before.total_seconds()
    return 0.0 if not_before is None else not_before


def _error_names(errors: str | type[BaseException] | Iterable[str | type[BaseException]]) -> tuple[str, ...]:
    """The names that a RUN says: exceptions travel by name, so a base class names only itself, but Exception, which is any."""
    if not isinstance(errors, str | type | Iterable):
        raise TypeError(f"retry_on takes exceptions and their names, not {errors!r}")
    each = [errors] if isinstance(errors, str | type) else errors
    names = []
    for error in each:
        if isinstance(error, type) and issubclass(error, BaseException):
            names.append(ANY_ERROR if error in (Exception, BaseException) else error.__name__)
        elif error and isinstance(error, str):
            names.append(error)
        else:
            raise TypeError(f"retry_on takes exceptions and their names, not {error!r}")
    if len(names) > RETRY_NAMES_MAX:
        raise ValueError(f"retry_on takes at most {RETRY_NAMES_MAX} names, not {len(names)}")
    return tuple(names)


def _ms(seconds: float | None) -> int:
    return 0 if seconds is None else min(NUMBER_MAX, math.ceil(seconds * 1000))


def _orphan_ms(on_disconnect: Disconnect) -> int | None:
    if isinstance(on_disconnect, str):
        return 0 if on_disconnect == "cancel" else None
    return _ms(on_disconnect)


class RunMetas:
    """RUN's meta for each pipeline, under one set of options and the client's nonce; may be used from several threads."""

    __slots__ = ("_nonce", "_options", "_ready")

    def __init__(self, options: Options, nonce: bytes) -> None:
        self._options = options
        self._nonce = nonce
        self._ready: dict[tuple[str, str], bytes] = {}

    def of(self, pipeline: str, encoding: str) -> bytes:
        """The meta for a pipeline's name and its variables' encoding. Raises ValueError for a name that no broker takes, TypeError for
        what is no text.
        """
        if not isinstance(pipeline, str):
            raise TypeError(f"a pipeline is asked for by its name, a text, not {pipeline!r:.100}")
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
                p=pipeline,
                enc=encoding,
                nonce=nonce,
                queue=options.queue,
                reply=options.detach,
                detach=options.detach,
                follow=options.follow,
                att=options.attempts,
                back=_BACK if options.backoff_s == _BACK / 1000 else _ms(options.backoff_s),
                again=list(options.retry_on),  # type: ignore[arg-type]  # names, since __post_init__
                orphan=_orphan_ms(options.on_disconnect),
                keep=None if options.retention_s is None else _ms(options.retention_s),
                qlim=_ms(options.queue_limit_s),
                rlim=_ms(options.run_limit_s),
                prio=options.priority,
                key=options.fairness_key,
                need=dict(options.require or ()),
                like=dict(options.prefer or ()),
                served=options.only_served,
                aff=options.affinity_key,
                parent=None if options.parent is None else options.parent.bytes,
                loose=options.loose,
                batch=None if options.batch is None else options.batch.bytes,
            )
        )
        try:
            schemas.run_options(meta)
        except (schemas.MetaInvalid, schemas.MetaUndecodable) as error:
            if str(error).endswith("`$.p`"):
                rule = f"1 to {NAME_CHARS_MAX} characters, none of which is a control character or ends a line"
                raise ValueError(f"{pipeline!r:.100} can't be the name of a pipeline: that is {rule}") from error
            raise ValueError(f"an option is wrong: {error}") from error
        return meta
