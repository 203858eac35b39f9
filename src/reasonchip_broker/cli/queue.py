"""`reasonchip-broker queue`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import click

from reasonchip_broker.cli import loop
from reasonchip_broker.cli.command import Command, broker_option, json_option
from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.cli.outcome import request_refused
from reasonchip_broker.cli.output import emit, emit_json
from reasonchip_broker.cli.table import table
from reasonchip_broker.cli.text import duration
from reasonchip_broker.client import Client, KeyStatus, LimitStatus, LineStatus, PoolStatus, QueueReport
from reasonchip_broker.errors import RequestRefused, UnsupportedPacketType
from reasonchip_broker.limits import QUEUE_ROWS, QUEUE_ROWS_MAX

_HOUR_S, _MINUTE_S = 3600, 60


@click.command(
    "queue",
    cls=Command,
    examples=[
        ("reasonchip-broker queue", "who waits for what, and whose turn it is"),
        ("reasonchip-broker queue --rows 100", "more of it"),
        ("watch reasonchip-broker queue", "as it changes"),
        ("reasonchip-broker queue --json", "all of it for a program"),
    ],
)
@click.option(
    "--rows",
    type=click.IntRange(0, QUEUE_ROWS_MAX),
    default=QUEUE_ROWS,
    show_default=True,
    metavar="N",
    help="Of each table no more than so many rows.",
)
@broker_option
@json_option
def command(rows: int, broker: str, as_json: bool) -> Exit:
    """Show who waits for what: workers, fairness keys, jobs that wait and limits.

    Of each the rows that matter most: workers that most jobs wait for, the key and the jobs whose turn is next, limits that hold most
    jobs back.
    """
    try:
        report = loop.run(_queue(broker, rows))
    except RequestRefused as error:
        is_old = isinstance(error, UnsupportedPacketType)
        sentence = "this broker is older, and can't tell" if is_old else f"the broker refused: {error}"
        return request_refused(error, sentence, as_json=as_json)
    if as_json:
        emit_json(asdict(report))
    else:
        emit("\n".join(lines(report)))
    return Exit.OK


async def _queue(broker: str, rows: int) -> QueueReport:
    async with Client(broker, reconnect=False) as client:
        return await client.queue(rows=rows)


def lines(report: QueueReport) -> Iterator[str]:
    """The report for people: a sentence, and a table of each kind of which there is something."""
    yield summary(report)
    tables: list[tuple[str, Sequence[str], list[Sequence[str | int]], int]] = [
        ("kinds of workers", _POOL_HEADS, [_pool(pool) for pool in report.pools], report.pools_there),
        ("fairness keys", _KEY_HEADS, [_key(key) for key in report.keys], report.keys_there),
        ("kinds of jobs that wait", _LINE_HEADS, [_line(line) for line in report.lines], report.lines_there),
        ("limits", _LIMIT_HEADS, [_limit(limit) for limit in report.limits], report.limits_there),
    ]
    for what, heads, rows, there in tables:
        if rows:
            yield ""
            yield from table(heads, rows)
        if there > len(rows):
            yield f"… and {there - len(rows):,} more" if rows else f"{what}: {there:,}"


def summary(report: QueueReport) -> str:
    """What there is in all, in a sentence."""
    verb = "waits" if report.waiting == 1 else "wait"
    parts = [f"{_count(report.waiting, 'job')} {verb} for a slot"]
    if report.others:
        parts[0] += f" ({report.others:,} of them somebody else's)"
    if report.scheduled:
        parts.append(f"{report.scheduled:,} for {'its' if report.scheduled == 1 else 'their'} time")
    if report.left_per_hour and report.waiting:
        parts.append(f"lately {_rate(report.left_per_hour)} left the queue")
    return ", ".join(parts)


def _rate(per_hour: int) -> str:
    for seconds, unit in ((1, "second"), (_MINUTE_S, "minute")):
        if per_hour * seconds >= _HOUR_S:
            return f"{per_hour * seconds / _HOUR_S:,.0f} a {unit}"
    return f"{per_hour:,} an hour"


_POOL_HEADS = ("workers that offer", "workers", "slots", "running", "free", "waiting", "notes")


def _pool(pool: PoolStatus) -> Sequence[str | int]:
    offer = [*pool.serves, *_labels(pool.labels), *([f"… {pool.more} more"] if pool.more else [])]
    notes = [
        f"{count:,} {what}"
        for count, what in (
            (pool.draining, "draining"),
            (pool.slow, "too slow"),
            (pool.set_aside, "set aside for a job that takes several slots"),
            (pool.withheld, "slots withheld until their worker reports"),
            (pool.resting, "slots resting"),
        )
        if count
    ]
    if pool.is_json:
        notes.insert(0, "JSON protocol")
    return " ".join(offer), pool.workers, pool.slots, pool.running, pool.free, pool.waiting, ", ".join(notes)


_KEY_HEADS = ("fairness key", "weight", "slots", "waiting", "used lately", "a job takes")


def _key(key: KeyStatus) -> Sequence[str | int]:
    name = f"connection {key.name}" if key.is_connection else key.name
    return name, f"{key.weight:g}", key.running, key.waiting, duration(key.used_s), duration(key.turn_s)


_LINE_HEADS = ("jobs that wait", "jobs", "priority", "fairness key", "oldest", "why")


def _line(line: LineStatus) -> Sequence[str | int]:
    wishes = [*_labels(line.need), *(f"({label})" for label in _labels(line.like))]
    priority = str(line.priority) if line.level == line.priority else f"{line.priority}, by age {line.level}"
    why = line.sentence or line.why.replace("_", " ")
    return " ".join([line.pipeline, *wishes]), line.jobs, priority, line.key, duration(line.age_s), why


_LIMIT_HEADS = ("limit", "for", "running", "at most", "waiting", "now")


def _limit(limit: LimitStatus) -> Sequence[str | int]:
    now = "open" if not limit.is_shut else "reached"
    if limit.opens_s is not None:
        now += f", the next in {duration(limit.opens_s)}"
    most = "" if limit.most is None else f"{limit.most:,}"
    return limit.name, limit.of or "all", limit.running, most, limit.waiting, now


def _labels(labels: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in labels.items()]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
