"""A worker on nats-py, as a user writes one. Its argument: the server's URL."""

import asyncio
import sys

import nats  # type: ignore[import-not-found]


async def main() -> None:
    """Answer requests until the end."""
    connection = await nats.connect(sys.argv[1])

    async def bench(message: nats.aio.msg.Msg) -> None:
        await message.respond(message.data)

    await connection.subscribe("bench", queue="workers", cb=bench)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
