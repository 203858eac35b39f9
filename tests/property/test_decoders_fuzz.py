"""The fuzzer in short form, and the fuzzer itself: it finds what is broken on purpose, and gives the same input for the same seed."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import __main__ as command
from fuzz import decoders, engines, seeds, switchboard
from fuzz.choices import Choices
from reasonchip_broker.errors import InternalError
from reasonchip_broker.protocol import json_v0
from reasonchip_broker.protocol.frames import BinaryDecoder, Frame
from reasonchip_broker.routing.roster import Pool, Worker
from tests.unit.switchboard.interpreted import needs_interpreted_core

SEED = 20261123
SHORT = {"binary_decoder": 3000, "json_decoder": 3000, "switchboard": 300}


@pytest.mark.parametrize("name", SHORT)
def test_row_10_nothing_breaks_in_a_short_run(name: str) -> None:
    target, begin_with = command.load(name)
    engines.run_plainly(name, target, begin_with, SHORT[name], SEED, keep=None)


@given(data=st.binary(max_size=300))
def test_row_10_no_bytes_break_the_binary_decoder(data: bytes) -> None:
    decoders.binary_decoder(data)


@given(data=st.binary(max_size=300))
def test_row_10_no_bytes_break_the_json_decoder(data: bytes) -> None:
    decoders.json_decoder(data)


@given(data=st.binary(max_size=500))
def test_row_10_no_peers_break_the_switchboard(data: bytes) -> None:
    switchboard.switchboard(data)


# The fuzzer itself


def broken(name: str, runs: int = 3000) -> None:
    target, begin_with = command.load(name)
    with pytest.raises((decoders.BrokenInvariant, InternalError, IndexError)) as caught:
        engines.run_plainly(name, target, begin_with, runs, SEED, keep=None)
    assert any(f"target {name}, seed {SEED}" in note for note in caught.value.__notes__)


def test_a_decoder_that_loses_a_byte_between_two_pieces_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = BinaryDecoder.feed

    def lossy(self: BinaryDecoder, data: bytes) -> list[Frame]:
        return feed(self, data[1:] if self.incomplete else data)

    monkeypatch.setattr(BinaryDecoder, "feed", lossy)
    broken("binary_decoder")


@needs_interpreted_core
def test_a_decoder_that_takes_a_frame_for_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for end in ("", "_AT"):
        plain, detached = f"_RUN_TAIL{end}", f"_RUN_TAIL_DETACHED{end}"
        values = getattr(json_v0, plain), getattr(json_v0, detached)
        monkeypatch.setattr(json_v0, detached, values[0])
        monkeypatch.setattr(json_v0, plain, values[1])
    broken("json_decoder")


@needs_interpreted_core
def test_a_switchboard_that_forgets_a_slot_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    vacate: Callable[..., None] = Pool.vacate

    def forgetful(self: Pool, worker: Worker, slots: int = 1) -> None:
        if worker.busy < 2:
            vacate(self, worker, slots)

    monkeypatch.setattr(Pool, "vacate", forgetful)
    broken("switchboard", runs=300)


def test_the_same_seed_makes_the_same_input() -> None:
    def made(seed: int) -> list[bytes]:
        mutator = engines.Mutator(seeds.binary_streams(), Random(seed))
        return [mutator.next() for _ in range(50)]

    assert made(1) == made(1)
    assert made(1) != made(2)
    assert all(len(data) <= engines.INPUT_BYTES_MAX for data in made(3))


def test_the_same_bytes_make_the_same_decisions_and_none_are_left_at_the_end() -> None:
    choices = Choices(b"\x05\x01\x02ab")
    assert (choices.below(4), choices.below(1000), choices.bytes(9), choices.left) == (1, 258, b"ab", 0)
    assert (choices.below(4), choices.of("xyz"), choices.one_in(1), choices.bytes(1)) == (0, "x", False, b"")


def test_what_breaks_a_target_is_kept_and_can_be_replayed(tmp_path: Path) -> None:
    seen: list[bytes] = []

    def fragile(data: bytes) -> None:
        seen.append(data)
        if len(data) % 7 == 3:
            raise decoders.BrokenInvariant("as asked")

    with pytest.raises(decoders.BrokenInvariant):
        engines.run_plainly("fragile", fragile, [b"seed"], 1000, SEED, keep=tmp_path)
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes() == seen[-1]


def test_the_command_runs_a_target_and_says_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--target", "binary_decoder", "--runs", "20", "--seed", "7", "--engine", "plain"]) == 0
    said = capsys.readouterr().out
    assert "binary_decoder, 20 runs, seed 7, plain" in said
    assert "held" in said


def test_the_command_replays_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "input"
    path.write_bytes(seeds.binary_streams()[-1])
    assert command.main(["--target", "binary_decoder", "--replay", str(path)]) == 0
    assert "held" in capsys.readouterr().out


@pytest.mark.parametrize("asked", [["--replay", "x"], ["--target", "nothing"], ["--engine", "magic"]])
def test_the_command_says_what_it_does_not_understand(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(asked)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err
