"""The asyncio client."""

import os
from functools import cache
from typing import Self
from uuid import UUID

from reasonchip_broker.client.exchange import Exchange
from reasonchip_broker.client.job import Answer
from reasonchip_broker.client.link import Link
from reasonchip_broker.client.options import NONCE_BYTES, Options
from reasonchip_broker.client.submitter import JobMaker, Submitter
from reasonchip_broker.limits import FRAME_BYTES_SETTABLE, Limits
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
        print(await client.run("greet", name="Ada"))
    ```

    `url` is `tcp://host[:port]`, `tls://host[:port]?ca=FILE&cert=FILE&key=FILE`, `unix:///path` or `memory://name`; `token`
    says who is calling, `name` what to call this client in the broker's log. `encoding` is that of variables (see `Options`),
    `limits` this end's own bounds. When the connection ends, another is made in the background (unless `reconnect` is False);
    meanwhile jobs are held, each for at most `connect_timeout_s` seconds. Jobs that were sent and not finished fail at once
    with BrokerWentAway. Nothing waits for a broker that is gone.

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
        reconnect: bool = True,
        name: str | None = None,
    ) -> None:
        if not connect_timeout_s > 0:
            raise ValueError(f"connect_timeout_s must be over 0, not {connect_timeout_s}")
        transport = client_transport(url, Role.CLIENT)
        exchange = Exchange(transport.url, connect_timeout_s)
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

    async def connect(self) -> None:
        """Connect; `async with` does it too. Tried again until `connect_timeout_s` is over, or just once without `reconnect`.

        May be called at any time to wait until there is a connection again. Raises ConnectError, in one line that says what the last
        attempt met with.
        """
        await self._link.start(self._connect_timeout_s)

    async def close(self) -> None:
        """Disconnect, once the broker has taken what was sent. Jobs that are not over go on there, and are BrokerWentAway here."""
        await self._link.stop()

    async def cancel(self, cookie: UUID, *, at_once: bool = False, why: str = "") -> Answer:
        """Ask the broker to cancel a job, whoever submitted it, and return what it said.

        Raises ConnectError without a connection, ConnectionLost if it ends before the broker has answered.
        """
        return await self._exchange.cancel(cookie.bytes, at_once, why)

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
