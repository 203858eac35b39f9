import pytest

from reasonchip_broker.cli.demo import stage
from reasonchip_broker.cli.demo.progress import PlainNarrator
from reasonchip_broker.cli.demo.survey import survey
from reasonchip_broker.cli.exits import Fault

pytestmark = pytest.mark.process


@pytest.fixture
def tree(tmp_path):
    for package in ("one", "two"):
        (tmp_path / package).mkdir()
        for number in range(20):
            (tmp_path / package / f"{number}.py").write_text(f"def {package}_{number}(socket):\n    return socket\n")
    return tmp_path


async def perform(root):
    with PlainNarrator() as narrator:
        return await stage.perform(survey(root), narrator)


async def test_each_file_is_measured_once_and_merged_into_its_package(tree):
    outcome = await perform(tree)
    assert outcome.adds_up, [check for check in outcome.checks() if not check.holds]
    assert sorted(file.path for file in outcome.files) == outcome.survey.files
    assert [(package.package, package.files, package.lines, package.functions) for package in outcome.packages] == [
        ("one", 20, 40, 20),
        ("two", 20, 40, 20),
    ]
    assert outcome.characteristic == {"one": ["one"], "two": ["two"]}
    assert outcome.ledger.outcomes("long job") == {"CANCELLED": 1}
    assert outcome.counted_by_broker == len(outcome.ledger.entries)


async def test_when_time_is_up_the_rest_is_left_out_and_counted(tree, monkeypatch):
    monkeypatch.setattr(stage, "FILES_S_MAX", -1.0)
    outcome = await perform(tree)
    assert outcome.left_out == 40
    assert outcome.packages == []
    assert outcome.adds_up


async def test_what_never_ends_is_ended(tree, monkeypatch):
    monkeypatch.setattr(stage, "ALL_S_MAX", 0.01)
    with pytest.raises(Fault, match="was ended"):
        await perform(tree)
