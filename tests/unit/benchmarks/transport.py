"""A transport for peers whose frames are looked at."""

import asyncio


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__()
        self.written = b""

    def write(self, data):
        self.written += data

    def writelines(self, parts):
        self.written += b"".join(parts)

    def take(self):
        written, self.written = self.written, b""
        return written


def connected(connection):
    """Connect one, and pass over what it says first."""
    transport = Transport()
    connection.connection_made(transport)
    transport.take()
    return transport
