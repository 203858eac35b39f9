"""`python -m benchmarks.plots`: draws what `benchmarks.fairness`, `benchmarks.growth` and `benchmarks.peers` have written as JSON.

Each figure is an SVG in a light and a dark variant. Drawn twice from the same data it is the same file: so a difference in a commit is
one in what was measured. Text stays text, which is smaller, can be searched, and is in a font that the reader has."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator, NullLocator

from benchmarks.stats import middle_half

FIGURES = Path(__file__).parents[1] / "docs" / "explanation" / "figures"
FLAT = 1.2
"""Cost is flat while it is at most so many times that of the first row."""
MEMORY_BYTES_MAX = 500
"""At most so much a job that waits may take up beside its frame."""

_WIDE_IN = 7.6
_LOG_ROOM = 1.6


@dataclass(frozen=True, slots=True)
class Look:
    """One of the two variants."""

    name: str
    paper: str
    ink: str
    faint: str
    colours: tuple[str, str, str]
    """Of what the figure is about, of what it is compared with, and of a bound."""


LOOKS = (
    Look("light", "#ffffff", "#24292f", "#d5d9de", ("#0b62b8", "#b35900", "#c0272d")),
    Look("dark", "#0b0c0f", "#d7dae0", "#33373e", ("#6cb2ff", "#f0a050", "#ff7b72")),
)

Draw = Callable[[Figure, Look, Mapping[str, Any]], None]
"""Draws a figure from what a benchmark has written."""


def plain(value: float, _: int | None = None) -> str:
    """A number of an axis, without an exponent: 10,000 and 0.1."""
    return f"{value:,.0f}" if value >= 1 or value == 0 else f"{value:g}"


def in_log(axes: Axes, which: str) -> None:
    """A logarithmic axis, `x` or `y`, with whole numbers at its powers of ten."""
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_formatter(FuncFormatter(plain))
    axis.set_minor_locator(NullLocator())


def label(axes: Axes, x: str, y: str, title: str = "") -> None:
    """What is along the axes, with its unit."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title)


def newcomer(figure: Figure, look: Look, data: Mapping[str, Any]) -> None:
    """Each job that starts, around the time when a newcomer comes."""
    told = data["newcomer"]["story"]
    keys: list[str] = told["keys"]
    axes = figure.add_subplot()
    for row, key in enumerate(keys):
        at = [second for second, whose in told["starts"] if whose == key]
        about, other, _ = look.colours
        colour = about if key == keys[-1] else other if key == keys[0] else look.ink
        axes.plot(at, [row] * len(at), marker="|", markersize=13, markeredgewidth=2, linestyle="", color=colour)
    axes.axvline(0, color=look.colours[2], linewidth=1, linestyle="--")
    axes.set_yticks(range(len(keys)), [f"{told['queued']:,} jobs wait", *keys[1:-1], "the newcomer"])
    axes.set_ylim(len(keys) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MultipleLocator(5))
    axes.grid(visible=False, axis="y")
    label(
        axes,
        "seconds since the newcomer came",
        "",
        f"A stroke: a job of one second starts ({data['newcomer']['slots']} slots)",
    )


def waits(figure: Figure, look: Look, data: Mapping[str, Any]) -> None:
    """How long a newcomer's jobs wait, by how many keys are active."""
    slots, queued = data["newcomer"]["slots"], data["newcomer"]["story"]["queued"]
    rows = data["newcomer"]["waits"]
    active = [row["active"] for row in rows]
    about, other, bound = look.colours
    axes = figure.add_subplot()
    in_log(axes, "x")
    in_log(axes, "y")
    in_line_s = queued / slots
    axes.axhline(in_line_s, color=other, linestyle=":")
    in_line = "in the order of arrival: after all that waits"
    axes.text(active[0], in_line_s / _LOG_ROOM, in_line, color=other, va="top", backgroundcolor=look.paper)
    turn_s = [(count + 1) / slots for count in active]
    axes.plot(active, turn_s, color=bound, linestyle="--", label="one turn of each active key")
    further = [sum(row["later_s"]) / len(row["later_s"]) for row in rows]
    axes.plot(active, further, marker="s", markersize=5, linestyle="", color=look.ink, label="its further jobs, on the average")
    axes.plot(active, [max(row["first_s"]) for row in rows], marker="o", color=about, label="its first job, the slowest of all")
    axes.set_ylim(0.1, in_line_s * 3)
    label(
        axes,
        "active keys",
        "waiting time (s)",
        f"A newcomer, where {queued:,} jobs of one second wait ({slots} slots)",
    )
    axes.legend(loc="center left", bbox_to_anchor=(0.0, 0.6))


def weights(figure: Figure, look: Look, data: Mapping[str, Any]) -> None:
    """How the ratio of slot-time comes to that of the weights."""
    found = data["weights"]
    weight, tolerance, ratios = found["weight"], found["tolerance"], found["ratios"]
    jobs = ratios[0]["jobs"]
    by_jobs = list(zip(*(one["ratio"] for one in ratios), strict=True))
    about, _, bound = look.colours
    axes = figure.add_subplot()
    in_log(axes, "x")
    for edge in (1 - tolerance, 1 + tolerance):
        name = f"{weight:g} : 1, {tolerance:.0%} more or less" if edge < 1 else None
        axes.axhline(weight * edge, color=bound, linestyle="--", linewidth=1, label=name)
    lowest, highest = [min(values) for values in by_jobs], [max(values) for values in by_jobs]
    axes.fill_between(jobs, lowest, highest, color=about, alpha=0.25, linewidth=0, label=f"all of {len(ratios)} seeds")
    axes.plot(jobs, [median(values) for values in by_jobs], color=about, label="median")
    axes.set_ylim(min(weight * 0.8, min(lowest) * 0.95), max(weight * 1.15, max(highest) * 1.03))
    label(axes, "jobs that have ended", f"slot-time of weight {weight:g} / of weight 1", "Slot-time goes by weight")
    axes.legend(loc="lower right")


def growth(figure: Figure, look: Look, data: Mapping[str, Any]) -> None:
    """What a job costs as there is more of everything, as a multiple of the first row."""
    panels: Any = figure.subplots(1, len(data["series"]), sharey=True)
    about, _, bound = look.colours
    for axes, series in zip(panels, data["series"], strict=True):
        ratios = [[figures[place] / figures[0] for figures in series["us"]] for place in range(len(series["counts"]))]
        middle = [median(values) for values in ratios]
        low, high = zip(*map(middle_half, ratios), strict=True)
        in_log(axes, "x")
        axes.axhline(1.0, color=look.ink, linewidth=0.8)
        axes.axhline(FLAT, color=bound, linestyle="--", linewidth=1)
        axes.fill_between(series["counts"], low, high, color=about, alpha=0.25, linewidth=0)
        axes.plot(series["counts"], middle, marker="o", color=about)
        axes.set_xlim(min(series["counts"]) / _LOG_ROOM, max(series["counts"]) * _LOG_ROOM)
        axes.set_xlabel(series["grows"])
        most = max(series["counts"])
        ticks = (1, 100, 10_000) if most <= 10_000 else (1, 1_000, 1_000_000)
        axes.set_xticks([count for count in ticks if count <= most])
    panels[0].set_ylim(0, 1.5)
    panels[0].set_ylabel("cost of a job (× that of the first row)")
    panels[0].text(1, FLAT + 0.03, f"the goal: at most {FLAT:g}", color=bound, va="bottom")


def memory(figure: Figure, look: Look, data: Mapping[str, Any]) -> None:
    """What a job that waits takes up beside its frame."""
    axes = figure.add_subplot()
    about, other, bound = look.colours
    in_log(axes, "x")
    in_log(axes, "y")
    for keys, colour in zip(sorted({row["keys"] for row in data["memory"]}), (about, other), strict=False):
        rows = [row for row in data["memory"] if row["keys"] == keys]
        name = f"of {keys:,} keys" if keys > 1 else "of one key"
        axes.plot([row["jobs"] for row in rows], [row["bytes"] for row in rows], marker="o", color=colour, label=name)
    axes.axhline(MEMORY_BYTES_MAX, color=bound, linestyle="--", linewidth=1)
    most = max(row["jobs"] for row in data["memory"])
    goal = f"the goal: at most {MEMORY_BYTES_MAX}"
    axes.text(most, MEMORY_BYTES_MAX * 1.05, goal, color=bound, va="bottom", ha="right")
    top = max(row["bytes"] for row in data["memory"])
    axes.set_ylim(100, max(1000, top * _LOG_ROOM))
    axes.set_yticks([100, 200, 500, 1000, 2000, 5000][: 4 + (top > 1000) + (top > 3000)])
    label(axes, "jobs that wait", "bytes a job beside its frame", "What a job that waits takes up in memory")
    axes.legend(loc="upper center")


NAMES = {
    "relay": "a byte relay in C: the floor",
    "compiled": "ReasonChip broker, compiled",
    "binary": "ReasonChip broker, pure Python",
    "nats": "NATS (Go)",
    "gearman": "gearmand (C)",
    "redis": "Redis lists (C)",
    "rabbitmq": "RabbitMQ (Erlang)",
}
"""What is compared, in this order."""

SHAPES = (
    ("4x64-100B", "4 clients × 64 jobs at once, 100 B"),
    ("64x64-100B", "64 clients × 1 job at once, 100 B"),
    ("1x1-100B", "1 client × 1 job at once, 100 B"),
    ("4x8-64KiB", "4 clients × 8 jobs at once, 64 KiB"),
    ("4x2-1MiB", "4 clients × 2 jobs at once, 1 MiB"),
)


def peers(figure: Figure, look: Look, data: Mapping[str, Any]) -> None:
    """What a job costs each broker in processor time, by shape of the load."""
    found = {one["workload"]: one["cpu_us_per_job"] for one in data["closed"] if one["cpu_us_per_job"]}
    panels: Any = figure.subplots(3, 2)
    about, other, _ = look.colours
    for axes in panels.flat[len(SHAPES) :]:
        axes.set_axis_off()
    for place, (axes, (shape, title)) in enumerate(zip(panels.flat, SHAPES, strict=False)):
        names = [name for name in NAMES if f"{name}-tcp-{shape}" in found]
        values = [found[f"{name}-tcp-{shape}"] for name in names]
        middle = [value["median"] for value in values]
        errors = [[value["median"] - value["low"] for value in values], [value["high"] - value["median"] for value in values]]
        colours = [about if name in ("compiled", "binary") else look.faint if name == "relay" else other for name in names]
        rows = range(len(names))
        axes.barh(rows, middle, xerr=errors, color=colours, ecolor=look.ink, error_kw={"elinewidth": 1}, height=0.65)
        for row, value in zip(rows, values, strict=True):
            shown = f"{value['median']:,.0f}" if value["median"] >= 100 else f"{value['median']:.3g}"
            axes.text(value["high"] * 1.02, row, f" {shown}", va="center", color=look.ink)
        axes.set_yticks(rows, [NAMES[name] for name in names] if place % 2 == 0 else [""] * len(names))
        axes.invert_yaxis()
        axes.set_xlim(0, max((value["high"] for value in values), default=1) * 1.2)
        axes.grid(visible=False, axis="y")
        label(axes, "µs of the broker's processor a job" if place + 2 >= len(SHAPES) else "", "", title)


def latency(figure: Figure, look: Look, data: Mapping[str, Any]) -> None:
    """How late answers come at fixed rates, counted from the moment when a job was due."""
    rates = sorted({one["rate"] for one in data["open"]})
    panels: Any = figure.subplots(1, len(rates), sharey=True, squeeze=False)
    about, other, bound = look.colours
    styles = {
        "compiled": (about, "-"),
        "binary": (bound, "-"),
        "nats": (other, "-"),
        "gearman": (other, "--"),
        "redis": (look.ink, "--"),
        "rabbitmq": (look.ink, "-."),
        "relay": (look.ink, ":"),
    }
    for axes, rate in zip(panels.flat, rates, strict=True):
        for one in data["open"]:
            values = list(one["percentiles_ms"].values())
            # Who can't take a rate is the later the longer it is measured.
            if one["rate"] == rate and all(values) and one.get("taken", True):
                colour, style = styles[one["system"]]
                middle = [value["median"] for value in values]
                axes.plot(range(len(values)), middle, style, marker="o", color=colour, label=NAMES[one["system"]])
        axes.set_xticks(range(5), ["50%", "90%", "99%", "99.9%", "all"])
        in_log(axes, "y")
        label(axes, "of the jobs", "", f"{rate:,} jobs a second")
    panels[0][0].set_ylabel("at most so many ms late")
    # Some are in none but the first panels, or failed there.
    legends = [axes.get_legend_handles_labels() for axes in panels.flat]
    drawn = {name: handle for handles, names in legends for name, handle in zip(names, handles, strict=True)}
    names = [name for name in NAMES.values() if name in drawn]
    figure.legend([drawn[name] for name in names], names, loc="outside upper center", ncols=2)


def path(figure: Figure, look: Look, data: Mapping[str, Any]) -> None:
    """The way of a job through the compiled core, and what each step of it costs."""
    steps = data["steps"]
    values = [step["instructions"] for step in steps]
    axes = figure.add_subplot()
    axes.barh(range(len(steps)), values, height=0.65, color=look.colours[0])
    for row, value in enumerate(values):
        axes.text(value, row, f" {value:,}", va="center", color=look.ink)
    axes.set_yticks(range(len(steps)), [step["name"] for step in steps])
    axes.invert_yaxis()
    axes.set_xlim(0, max(values) * 1.15)
    axes.grid(visible=False, axis="y")
    label(axes, "instructions", "", f"{sum(values):,} in all, compiled")


PATH: tuple[tuple[str, float, Draw], ...] = (("path", 3.2, path),)
PEERS: tuple[tuple[str, float, Draw], ...] = (("peers", 7.6, peers), ("latency", 3.6, latency))
FAIRNESS: tuple[tuple[str, float, Draw], ...] = (("newcomer", 3.0, newcomer), ("waits", 4.0, waits), ("weights", 3.6, weights))
GROWTH: tuple[tuple[str, float, Draw], ...] = (("growth", 3.4, growth), ("memory", 3.4, memory))
"""Name, height in inches, and who draws it."""


def settings(look: Look) -> Any:  # matplotlib lists all names of settings in the type of its own
    """Of matplotlib, for one variant: the same file each time, and text as text."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "reasonchip-broker",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "legend.facecolor": look.paper,
        "legend.edgecolor": look.paper,
        "legend.framealpha": 1.0,
        "figure.constrained_layout.use": True,
        "figure.facecolor": look.paper,
        "axes.facecolor": look.paper,
        "savefig.facecolor": look.paper,
        "grid.color": look.faint,
        "text.color": look.ink,
        "axes.labelcolor": look.ink,
        "axes.edgecolor": look.ink,
        "xtick.color": look.ink,
        "ytick.color": look.ink,
    }


def draw(data: Mapping[str, Any], figures: Sequence[tuple[str, float, Draw]], folder: Path) -> list[Path]:
    """Write both variants of each figure into the folder. Raises OSError."""
    written = []
    for look in LOOKS:
        for name, height_in, draws in figures:
            with matplotlib.rc_context(settings(look)):
                figure = Figure(figsize=(_WIDE_IN, height_in))
                FigureCanvasSVG(figure)
                draws(figure, look, data)
                path = folder / f"{name}-{look.name}.svg"
                figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
            written.append(path)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Read both files, draw everything, and say what was written. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument(
        "--fairness", type=Path, metavar="FILE", default=FIGURES / "fairness.json", help="of benchmarks.fairness"
    )
    parser.add_argument("--growth", type=Path, metavar="FILE", default=FIGURES / "growth.json", help="of benchmarks.growth")
    parser.add_argument("--peers", type=Path, metavar="FILE", default=FIGURES / "peers.json", help="of benchmarks.peers")
    parser.add_argument("--path", type=Path, metavar="FILE", default=FIGURES / "path.json", help="of the steps of a job")
    parser.add_argument("--into", type=Path, metavar="FOLDER", default=FIGURES, help="where the figures go")
    options = parser.parse_args(arguments)
    options.into.mkdir(parents=True, exist_ok=True)
    sources = (options.fairness, FAIRNESS), (options.growth, GROWTH), (options.peers, PEERS), (options.path, PATH)
    for source, figures in sources:
        for path in draw(json.loads(source.read_text()), figures, options.into):
            print(f"{path} {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
