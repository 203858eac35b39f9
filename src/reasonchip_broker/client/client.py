"""The asyncio client."""

import os
from functools import cache
from typing import Self
from uuid import UUID

from reasonchip_broker.client.link import Link
from reasonchip_broker.client.submitter import Submitter
from reasonchip_broker.limits import FRAME_BYTES_SETTABLE, QUEUE_ROWS, QUEUE_ROWS_MAX, Limits
from reasonchip_broker.peer.exchange import PATIENCE_S, Exchange
from reasonchip_broker.peer.job import Answer, Job
from reasonchip_broker.peer.maker import JobMaker
from reasonchip_broker.peer.options import NONCE_BYTES, Options, id_bytes
from reasonchip_broker.peer.queue import QueueReport
from reasonchip_broker.peer.status import JobStatus
from reasonchip_broker.peer.turned_away import OVERLOAD_PATIENCE_S
from reasonchip_broker.protocol import schemas
from reasonchip_broker.protocol.codes import ENCODING_MSGPACK, Role
from reasonchip_broker.transports.endpoints import client_transport

DEFAULT_URL = "tcp://127.0.0.1:51500"
CONNECT_TIMEOUT_S = 10.0
SOFTWARE = "reasonchip-client"


def default_limits() -> Limits:
    """A client's own bounds: frames of any size that a broker may send, and an outbox with room for several of them."""
    return Limits(frame_bytes_max=FRAME_BYTES_SETTABLE, outbox_bytes_max=4 * FRAME_BYTES_SETTABLE)


class Client(Submitter):
    """A connection to a broker, for applications that use asyncio.

    ```python
    async with Client("tcp://127.0.0.1:51500") as client:
        print(await client.run("greet", {"name": "Ada"}))
    ```

    `url` is `tcp://host[:port]`, `tls://host[:port]?ca=FILE&cert=FILE&key=FILE`, `unix:///path` or `memory://name`; `token`
    says who is calling, `name` what to call this client in the broker's log. `encoding` is that of variables (see `Options`),
    `limits` this end's own bounds.

    When the connection ends, another is made in the background (unless `reconnect` is False); meanwhile new jobs are held, each
    for at most `connect_timeout_s` seconds (ConnectError). Jobs that were sent and are not over are found again over the next
    connection, and go on as if nothing had happened; if there is none within `patience_s` seconds, they fail with BrokerWentAway
    (0: at once).

    A job for which the broker has no room is sent again when the broker said that there should be, for at most `overload_patience_s`
    seconds, and is HELD meanwhile; then it fails (Overloaded; 0: at once). One that is not to wait for a slot is not sent again.

    Raises EndpointError for a URL that names no endpoint, ValueError for other values that make no sense.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        encoding: str = ENCODING_MSGPACK,
        limits: Limits | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        patience_s: float = PATIENCE_S,
        overload_patience_s: float = OVERLOAD_PATIENCE_S,
        reconnect: bool = True,
        name: str | None = None,
    ) -> None:
        if not connect_timeout_s > 0:
            raise ValueError(f"connect_timeout_s must be over 0, not {connect_timeout_s}")
        for what, seconds in (("patience_s", patience_s), ("overload_patience_s", overload_patience_s)):
            if not seconds >= 0:
                raise ValueError(f"{what} must be at least 0, not {seconds}")
        transport = client_transport(url, Role.CLIENT)
        exchange = Exchange(transport.url, connect_timeout_s, patience_s, overload_patience_s)
        super().__init__(exchange, JobMaker(exchange, Options(encoding=encoding), os.urandom(NONCE_BYTES)))
        hello = schemas.HelloMeta(sw=SOFTWARE, v=_version(), token=token, name=name)
        self._link = Link(transport, hello, limits or default_limits(), exchange, reconnect=reconnect)
        self._connect_timeout_s = connect_timeout_s
        self.url = transport.url
        """Where the broker is."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._link.connected

    async def connect(self, *, once: bool = False) -> None:
        """Connect; `async with` does it too. Tried again until `connect_timeout_s` seconds are over, or, `once` or without `reconnect`,
        just once: for an address that a person has typed. What `once` is about is the first connection: when that ends, another is
        made as ever.

        May be called at any time to wait until there is a connection again. Raises ConnectError, in one line that says what the last
        attempt met with.
        """
        await self._link.start(self._connect_timeout_s, once=once)

    async def close(self) -> None:
        """Disconnect, once the broker has taken what was sent. Jobs that are not over go on there, and are BrokerWentAway here."""
        await self._link.stop()

    async def cancel(self, cookie: UUID, *, at_once: bool = False, why: str = "") -> Answer:
        """Ask the broker to cancel a job, whoever submitted it, and return what it said.

        Raises ConnectError without a connection, ConnectionLost if it ends before the broker has answered, TypeError for a cookie that
        is no UUID.
        """
        return await self._exchange.cancel(id_bytes("cookie", cookie), at_once, why)

    async def cancel_batch(self, batch: UUID, *, at_once: bool = False, why: str = "") -> Answer:
        """Ask the broker to cancel every job of a batch that it has; the answer's `jobs` says how many that were. Whoever submits the
        batch goes on to (see `Batch.cancel`). Raises as `cancel`.
        """
        return await self._exchange.cancel_batch(id_bytes("batch", batch), at_once, why)

    async def status(self, cookie: UUID, *, tree: bool = False) -> JobStatus:
        """Ask the broker where a job is and, if it waits, why; `tree`: and its children.

        Raises CookieNotFound for a job that the broker does not know, or that is somebody else's; otherwise as `cancel` does.
        """
        return await self._exchange.status(id_bytes("cookie", cookie), tree)

    async def queue(self, *, rows: int = QUEUE_ROWS) -> QueueReport:
        """Ask the broker who waits for what: workers, fairness keys, waiting jobs and limits, in so many rows of each. For operators.

        Raises ValueError for more than 100 rows or less than none, UnsupportedPacketType at a broker that is older; ConnectError and
        ConnectionLost as `cancel` does.
        """
        if not 0 <= rows <= QUEUE_ROWS_MAX:
            raise ValueError(f"rows must be from 0 to {QUEUE_ROWS_MAX}, not {rows}")
        return await self._exchange.queue(rows)

    async def drain(self, worker: str) -> None:
        """Have a worker, by its name, get no more jobs; it finishes those that it has. For operators.

        Raises WorkerNotFound, NotAllowed; ConnectError and ConnectionLost as `cancel` does.
        """
        await self._exchange.drain(worker)

    def attach(self, cookie: UUID, *, follow: bool = False, first: int = 1, take: bool = True) -> Job:
        """A job by its cookie, whoever submitted it: to await its outcome, to iterate over its progress (`follow`, from chunk `first`
        on), to send to it.

        With `take` this client becomes the one that the job belongs to: what it does not take of the progress waits for it, and holds
        the handler up. Without, it looks on: it gets what there is, gaps are told, and nobody waits for it. Awaiting raises
        CookieNotFound for a job that the broker does not know, or that is somebody else's, OutcomeGone for one that is over and whose
        outcome is no longer kept, otherwise what the job ends with. Cancelling the task that awaits it does not cancel the job.

        Raises ValueError for a `first` below 1, TypeError for a cookie that is no UUID, and what `submit` raises.
        """
        if first < 1:
            raise ValueError(f"first must be at least 1, not {first}")
        self._check_here()
        return self._exchange.attach(id_bytes("cookie", cookie), self.options.encoding, first if follow else 0, take)

    def __repr__(self) -> str:
        return f"<Client of {self.url}, {'connected' if self.connected else 'not connected'}>"

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # A fifth of what importing the client would take.

    try:
        return version("reasonchip-broker")
    except PackageNotFoundError:
        return "unknown"
