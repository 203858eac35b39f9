"""The smallest processes that can hold a connection and be killed: `python -S -E tiny_peer.py`.

Each line of its standard input is one of them, in words: a number, a URL, and orders, which are `send=HEX` and `read=COUNT` (so many
whole frames). It is forked off, does one order after the other, says its number and its process id in a line when all are done (an id
of 0 if it could not do them), and waits for its end: to be killed, or the end of standard input, which is that of everybody. Nothing is
imported that is not needed and nothing is started anew, so that a thousand of them can be killed in a test.
"""

import os
import signal
import sys
from _socket import AF_INET, AF_UNIX, SOCK_STREAM, socket


def read_exactly(sock: socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise OSError("the broker hung up")
        data += piece
    return data


def connected(url: str) -> socket:
    scheme, _, place = url.partition("://")
    if scheme == "unix":
        sock = socket(AF_UNIX, SOCK_STREAM)
        sock.connect(place)
    else:
        host, _, port = place.rpartition(":")
        sock = socket(AF_INET, SOCK_STREAM)
        sock.connect((host, int(port)))
    return sock


def live(number: str, url: str, orders: list[str], until: int) -> None:
    """Do what was ordered, and wait until `until` ends."""
    try:
        sock = connected(url)
        for order in orders:
            what, _, data = order.partition("=")
            if what == "send":
                sock.sendall(bytes.fromhex(data))
            else:
                for _ in range(int(data)):
                    read_exactly(sock, int.from_bytes(read_exactly(sock, 4), "big"))
    except OSError:
        os.write(1, f"{number} 0\n".encode())
    else:
        os.write(1, f"{number} {os.getpid()}\n".encode())
        os.read(until, 1)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # they are buried at once
    until, ours = os.pipe()
    for line in sys.stdin:
        number, url, *orders = line.split()
        if not os.fork():
            os.close(ours)
            live(number, url, orders, until)
            os._exit(0)


main()
