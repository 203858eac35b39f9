"""Our worker, as a user writes one. Its arguments: the broker's URL, and how many jobs it takes at once."""

import sys

from reasonchip_broker.worker import Worker

worker = Worker(sys.argv[1], capacity=int(sys.argv[2]))


@worker.pipeline("bench")
async def bench(text: str) -> str:
    """Give back what comes."""
    return text


if __name__ == "__main__":
    worker.run()
