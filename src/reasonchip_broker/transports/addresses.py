"""Where a peer is, for people to read."""

import asyncio


def address_of(transport: asyncio.BaseTransport) -> str:
    """The other end of a transport, as it is written in logs; `local` where it has no name."""
    name = transport.get_extra_info("peername")
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"
    return str(name) if name else "local"
