"""Where the input comes from."""

import os
import sys
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from random import Random

from reasonchip_broker.limits import KIB
from reasonchip_broker.protocol.frames import HEADER_BYTES

Target = Callable[[bytes], None]

FOUND = Path(".cache") / "fuzz"
"""Where input is kept that breaks something, to be replayed."""

INPUT_BYTES_MAX = 4 * KIB
_INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x1c",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x1c",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"null",
    b"-",
    b"--",
)


class Mutator:
    """Makes input out of seeds: bytes are changed, put in, taken out, repeated, taken from another seed. `random` decides it all."""

    def __init__(self, seeds: Sequence[bytes], random: Random) -> None:
        self._seeds = list(seeds) or [b""]
        self._random = random

    def next(self) -> bytes:
        """The next input."""
        random = self._random
        if random.random() < 0.1:
            return random.randbytes(random.randrange(INPUT_BYTES_MAX // 4))
        data = bytearray(random.choice(self._seeds))
        for _ in range(random.choice((1, 1, 2, 4, 8, 32))):
            self._change(data)
        return bytes(data[:INPUT_BYTES_MAX])

    def _change(self, data: bytearray) -> None:
        random = self._random
        at = random.randrange(len(data) + 1)
        what = random.randrange(7)
        if what == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif what == 1 and at < len(data):
            data[at] = random.randrange(256)
        elif what == 2:
            del data[at : at + random.choice((1, 2, 4, HEADER_BYTES))]
        elif what == 3:
            data[at:at] = random.choice(_INTERESTING)
        elif what == 4:
            new = random.choice(_INTERESTING)
            data[at : at + len(new)] = new
        elif what == 5:
            data[at:at] = data[at : at + random.randrange(1, 100)]
        else:
            other = random.choice(self._seeds)
            begin = random.randrange(len(other) + 1)
            data[at:at] = other[begin : begin + random.randrange(1, 200)]


def run_plainly(name: str, target: Target, seeds: Sequence[bytes], runs: int, seed: int, keep: Path | None = FOUND) -> None:
    """Run a target on `runs` inputs; the same seed makes the same ones. What breaks it is kept in the folder `keep`, and raised."""
    mutator = Mutator(seeds, Random(f"{name} {seed}"))
    for number in range(runs):
        data = mutator.next()
        try:
            target(data)
        except BaseException as error:
            error.add_note(f"fuzz: target {name}, seed {seed}, run {number}")
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                path = keep / f"{name}-{sha256(data).hexdigest()[:16]}.bin"
                path.write_bytes(data)
                error.add_note(f"fuzz: again with  python -m fuzz --target {name} --replay {path}")
            raise


def has_atheris() -> bool:
    """Whether coverage can guide the search."""
    return find_spec("atheris") is not None


def run_guided(name: str, target: Target, seeds: Sequence[bytes], runs: int, seed: int) -> None:
    """Let atheris choose the input; it ends the process when it is done, with 0 if nothing broke. Import the target under
    `atheris.instrument_imports()`, or there is nothing that guides it."""
    import atheris

    corpus = FOUND / f"{name}-corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds:
        (corpus / sha256(data).hexdigest()[:16]).write_bytes(data)
    prefix = f"{FOUND}{os.sep}{name}-"
    arguments = [sys.argv[0], f"-runs={runs}", f"-seed={seed}", f"-max_len={INPUT_BYTES_MAX}", f"-artifact_prefix={prefix}"]
    atheris.Setup([*arguments, str(corpus)], target)
    atheris.Fuzz()
