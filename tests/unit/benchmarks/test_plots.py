"""Figures are drawn from what the benchmarks write: the same each time, small, in both variants."""

import json
import re
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="installed by `make .venv/.bench`")

from benchmarks import fairness, growth, plots

FIGURES = ("growth", "latency", "memory", "newcomer", "path", "peers", "waits", "weights")
NAMES = [f"{name}-{look}.svg" for name in FIGURES for look in ("dark", "light")]
SVG_BYTES_MAX = 100 * 1024


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The three files, of small measurements. Made once: nobody writes to them."""
    tmp_path = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as monkeypatch:
        return measured(monkeypatch, tmp_path)


def measured(monkeypatch, tmp_path):
    monkeypatch.setattr(fairness, "ACTIVE", (1, 3))
    monkeypatch.setattr(fairness, "JOBS", 200)
    monkeypatch.setattr(growth, "JOBS", 5)
    monkeypatch.setattr(growth, "ROUNDS", 3)
    monkeypatch.setattr(growth, "JOBS_OF_KEYS", 100)
    monkeypatch.setattr(growth, "MEMORY_JOBS", (100, 1_000))
    files = tmp_path / "fairness.json", tmp_path / "growth.json", tmp_path / "peers.json"
    assert fairness.main(["--quick", "--json", str(files[0])]) == 0
    assert growth.main(["--quick", "--json", str(files[1])]) == 0
    spread = {"median": 2.0, "low": 1.0, "high": 4.0, "count": 3}
    systems = [name for name in plots.NAMES if name != "rabbitmq"]
    closed = [{"workload": f"{name}-tcp-{shape}", "cpu_us_per_job": spread} for name in systems for shape, _ in plots.SHAPES]
    opened = [
        {"system": name, "rate": rate, "percentiles_ms": dict.fromkeys("abcde", spread)}
        for name in ("relay", "compiled", "nats")
        for rate in (1000, 50_000)
    ]
    opened += [{**opened[0], "system": "gearman", "taken": False}, {**opened[-1], "system": "gearman", "taken": True}]
    opened += [{**opened[0], "system": "redis", "taken": False}]
    failed = {"workload": "rabbitmq-tcp-1x1-100B", "cpu_us_per_job": None}
    files[2].write_text(json.dumps({"closed": [*closed, failed], "open": opened}))
    return ["--fairness", str(files[0]), "--growth", str(files[1]), "--peers", str(files[2])]


@pytest.fixture(scope="module")
def drawn(data, tmp_path_factory):
    """All figures of that. Made once: nobody writes to them."""
    folder = tmp_path_factory.mktemp("drawn")
    assert plots.main([*data, "--into", str(folder)]) == 0
    return folder


def test_every_figure_is_drawn_light_and_dark_and_the_same_each_time(data, drawn, tmp_path, capsys):
    capsys.readouterr()
    assert plots.main([*data, "--into", str(tmp_path / "again")]) == 0
    again = {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}
    assert sorted(again) == NAMES
    assert again == {path.name: path.read_bytes() for path in drawn.iterdir()}
    told = capsys.readouterr().out.splitlines()
    assert {line.split()[0].rpartition("/")[2] for line in told} == set(NAMES)


def test_a_figure_says_its_units_as_text_and_neither_when_nor_where_it_was_drawn(drawn):
    for path in drawn.iterdir():
        svg = path.read_text("utf-8")
        assert len(svg) < SVG_BYTES_MAX
        assert not re.search(r"dc:date|matplotlib\.org", svg)
    texts = texts_of(drawn / "waits-light.svg")
    assert {"waiting time (s)", "active keys", "1", "100"} <= texts, "numbers of an axis without an exponent"


def test_who_can_not_take_a_rate_is_left_out_of_it(drawn):
    texts = texts_of(drawn / "latency-light.svg")
    assert plots.NAMES["gearman"] in texts, "it takes the other rate"
    assert plots.NAMES["redis"] not in texts


def texts_of(path):
    return {"".join(element.itertext()).strip() for element in ElementTree.parse(path).iter() if element.tag.endswith("}text")}


def test_light_and_dark_differ_in_nothing_but_colours(drawn):
    for name in NAMES[::2]:
        dark, light = ((drawn / one).read_text("utf-8") for one in (name, name.replace("dark", "light")))
        assert dark != light
        assert texts_of(drawn / name) == texts_of(drawn / name.replace("dark", "light"))


@pytest.mark.parametrize("name", NAMES)
def test_the_documentation_has_every_figure_and_none_is_too_large(name):
    assert (plots.FIGURES / name).stat().st_size < SVG_BYTES_MAX
    pages = [(plots.FIGURES.parent / f"{page}.md").read_text("utf-8") for page in ("fairness", "performance")]
    page = "".join(pages)
    assert f"(figures/{name}#only-{'dark' if 'dark' in name else 'light'})" in page


def test_the_figures_of_the_documentation_are_of_whole_measurements():
    found = json.loads((plots.FIGURES / "fairness.json").read_text("utf-8"))
    assert [row["active"] for row in found["newcomer"]["waits"]] == list(fairness.ACTIVE)
    assert found["newcomer"]["story"]["queued"] == fairness.QUEUED
    found = json.loads((plots.FIGURES / "growth.json").read_text("utf-8"))
    assert [tuple(series["counts"]) for series in found["series"]] == [growth.WORKERS, growth.QUEUED, growth.KEYS]
