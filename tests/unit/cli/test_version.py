import json
from importlib.metadata import version

from reasonchip_broker.cli import main


def test_it_prints_what_one_reports_with_a_bug(capsys):
    assert main(["version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"reasonchip-broker {version('reasonchip-broker')}"
    assert [line.split()[0] for line in lines] == ["reasonchip-broker", "protocol", "python", "event", "core"]


def test_the_same_as_json(capsys):
    assert main(["version", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["protocol"] == "1"
    assert facts["core"] in ("interpreted", "compiled")
