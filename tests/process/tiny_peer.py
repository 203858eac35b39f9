"""The smallest process that can hold a connection and be killed: `python -S -E tiny_peer.py URL ORDER…`.

Orders are `send=HEX:0` and `read=:COUNT` (so many whole frames), one after the other; when all are done it writes a dot and waits for
its end. It imports next to nothing, so that a thousand of them can be started in a test.
"""

import os
import sys
from _socket import AF_INET, AF_UNIX, SOCK_STREAM, socket


def read_exactly(sock: socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            os._exit(3)
        data += piece
    return data


def main() -> None:
    scheme, _, place = sys.argv[1].partition("://")
    if scheme == "unix":
        sock = socket(AF_UNIX, SOCK_STREAM)
        sock.connect(place)
    else:
        host, _, port = place.rpartition(":")
        sock = socket(AF_INET, SOCK_STREAM)
        sock.connect((host, int(port)))
    for order in sys.argv[2:]:
        what, _, rest = order.partition("=")
        data, _, frames = rest.rpartition(":")
        if what == "send":
            sock.sendall(bytes.fromhex(data))
        for _ in range(int(frames)):
            read_exactly(sock, int.from_bytes(read_exactly(sock, 4), "big"))
    os.write(1, b".")
    os.read(0, 1)  # until it is killed, or whoever started it has gone


main()
