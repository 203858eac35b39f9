"""What a worker author imports: functions in, pipelines out.

    worker = Worker("tcp://127.0.0.1:51510", capacity=4)

    @worker.pipeline("greet")
    def greet(name: str) -> str:
        return f"hello {name}"

    worker.run()

Three loops take part, and each is in a thread of its own for a reason. The *connection's thread* talks with the broker and
holds the table of jobs, so that nothing that a handler does can cost the lease. The *main loop* runs `async def` handlers.
Plain functions run in threads or, asked for, in processes. Jobs and results go between them in batches (`mailbox`).
"""

from typing import TYPE_CHECKING, Any

from reasonchip_broker.errors import JobCancelled, PipelineFailed
from reasonchip_broker.worker.binding import InvalidVariables
from reasonchip_broker.worker.context import JobContext, current_job
from reasonchip_broker.worker.worker import Worker

if TYPE_CHECKING:
    from reasonchip_broker.peer.inflow import Gap
    from reasonchip_broker.worker.children import ChildJob, ChildSubmitter

__all__ = [
    "ChildJob",
    "ChildSubmitter",
    "Gap",
    "InvalidVariables",
    "JobCancelled",
    "JobContext",
    "PipelineFailed",
    "Worker",
    "current_job",
]


def __getattr__(name: str) -> Any:
    # What few handlers name is loaded for those that do.
    if name in ("ChildJob", "ChildSubmitter"):
        from reasonchip_broker.worker import children

        return getattr(children, name)
    if name == "Gap":
        from reasonchip_broker.peer.inflow import Gap

        return Gap
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
