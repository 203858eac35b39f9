"""The worker of `reasonchip-broker bench`: it sends back what it gets."""

from reasonchip_broker.worker import Worker

PIPELINE = "reasonchip-broker.bench"

worker = Worker()


@worker.pipeline(PIPELINE)
async def echo(payload: bytes) -> bytes:
    """The payload."""
    return payload
