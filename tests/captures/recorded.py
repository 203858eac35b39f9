"""The recorded traffic, cut into frames."""

from pathlib import Path

DATA = Path(__file__).with_name("data")


def cut(stream: bytes) -> list[bytes]:
    """The frames of a stream, each with its length."""
    frames: list[bytes] = []
    while stream:
        end = 4 + int.from_bytes(stream[:4], "big")
        frames.append(stream[:end])
        stream = stream[end:]
    return frames


def recorded(case: str, direction: str) -> list[bytes]:
    """What went one way in a case: `direction` is `client1-to-broker`, `broker-to-worker1`… Nothing, if there is no such file."""
    path = DATA / f"{case}.{direction}.bin"
    return cut(path.read_bytes()) if path.exists() else []


def all_recorded() -> dict[str, list[bytes]]:
    """Every direction of every case, by file name."""
    return {path.stem: cut(path.read_bytes()) for path in sorted(DATA.glob("*.bin"))}
