"""The client library: what an application imports to have jobs run.

`Client` is for asyncio; `BlockingClient` and `ClientExecutor` are for everything else. The exceptions are those of
`reasonchip_broker.errors`, and can be had from here too.
"""

from typing import TYPE_CHECKING, Any

from reasonchip_broker.client.client import Client
from reasonchip_broker.client.job import Answer, Job, JobState
from reasonchip_broker.client.options import Options
from reasonchip_broker.errors import (
    BadPacket,
    BrokerWentAway,
    ConnectError,
    ConnectionLost,
    CookieCollision,
    CookieNotFound,
    DeadLettered,
    DeadlineExceeded,
    Draining,
    EndpointError,
    JobCancelled,
    JobException,
    JobFailed,
    NoCapacity,
    NotAllowed,
    NotServed,
    Overloaded,
    PipelineFailed,
    QueueTimeout,
    ReasonChipError,
    RemoteProtocolError,
    RequestRefused,
    TooLarge,
    UnsupportedPacketType,
    WorkerWentAway,
)

if TYPE_CHECKING:
    from reasonchip_broker.client.blocking import BlockingClient, BlockingJob
    from reasonchip_broker.client.executor import ClientExecutor

__all__ = [
    "Answer",
    "BadPacket",
    "BlockingClient",
    "BlockingJob",
    "BrokerWentAway",
    "Client",
    "ClientExecutor",
    "ConnectError",
    "ConnectionLost",
    "CookieCollision",
    "CookieNotFound",
    "DeadLettered",
    "DeadlineExceeded",
    "Draining",
    "EndpointError",
    "Job",
    "JobCancelled",
    "JobException",
    "JobFailed",
    "JobState",
    "NoCapacity",
    "NotAllowed",
    "NotServed",
    "Options",
    "Overloaded",
    "PipelineFailed",
    "QueueTimeout",
    "ReasonChipError",
    "RemoteProtocolError",
    "RequestRefused",
    "TooLarge",
    "UnsupportedPacketType",
    "WorkerWentAway",
]


def __getattr__(name: str) -> Any:
    # An asyncio application need not load what is for others.
    if name in ("BlockingClient", "BlockingJob"):
        from reasonchip_broker.client import blocking

        return getattr(blocking, name)
    if name == "ClientExecutor":
        from reasonchip_broker.client.executor import ClientExecutor

        return ClientExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
