"""The client library: what an application imports to have jobs run.

`Client` is for asyncio; `BlockingClient` and `ClientExecutor` are for everything else. The exceptions are those of
`reasonchip_broker.errors`, and can be had from here too.
"""

from typing import TYPE_CHECKING, Any

from reasonchip_broker.client.batch import Batch
from reasonchip_broker.client.client import Client
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
    OutcomeGone,
    Overloaded,
    PastAttempt,
    PipelineFailed,
    QueueTimeout,
    ReasonChipError,
    RemoteProtocolError,
    RequestRefused,
    TooLarge,
    UnsupportedPacketType,
    WorkerNotFound,
    WorkerWentAway,
)
from reasonchip_broker.peer.inflow import Chunks, Gap, NewAttempt
from reasonchip_broker.peer.job import Answer, Job, JobState
from reasonchip_broker.peer.options import Options
from reasonchip_broker.peer.queue import KeyStatus, LimitStatus, LineStatus, PoolStatus, QueueReport
from reasonchip_broker.peer.status import JobStatus

if TYPE_CHECKING:
    from reasonchip_broker.client.blocking import BlockingBatch, BlockingClient
    from reasonchip_broker.client.blocking_job import BlockingJob
    from reasonchip_broker.client.executor import ClientExecutor

__all__ = [
    "Answer",
    "BadPacket",
    "Batch",
    "BlockingBatch",
    "BlockingClient",
    "BlockingJob",
    "BrokerWentAway",
    "Chunks",
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
    "Gap",
    "Job",
    "JobCancelled",
    "JobException",
    "JobFailed",
    "JobState",
    "JobStatus",
    "KeyStatus",
    "LimitStatus",
    "LineStatus",
    "NewAttempt",
    "NoCapacity",
    "NotAllowed",
    "NotServed",
    "Options",
    "OutcomeGone",
    "Overloaded",
    "PastAttempt",
    "PipelineFailed",
    "PoolStatus",
    "QueueReport",
    "QueueTimeout",
    "ReasonChipError",
    "RemoteProtocolError",
    "RequestRefused",
    "TooLarge",
    "UnsupportedPacketType",
    "WorkerNotFound",
    "WorkerWentAway",
]


def __getattr__(name: str) -> Any:
    # An asyncio application need not load what is for others.
    if name in ("BlockingBatch", "BlockingClient"):
        from reasonchip_broker.client import blocking

        return getattr(blocking, name)
    if name == "BlockingJob":
        from reasonchip_broker.client.blocking_job import BlockingJob

        return BlockingJob
    if name == "ClientExecutor":
        from reasonchip_broker.client.executor import ClientExecutor

        return ClientExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
