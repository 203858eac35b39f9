"""`reasonchip-broker status`."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from reasonchip_broker.cli import loop
from reasonchip_broker.cli.command import Command, broker_option, json_option
from reasonchip_broker.cli.exits import Exit
from reasonchip_broker.cli.outcome import code_name, request_refused, unknown_job
from reasonchip_broker.cli.output import emit, emit_json
from reasonchip_broker.cli.text import duration, printable
from reasonchip_broker.client import Client, JobStatus
from reasonchip_broker.errors import CookieNotFound, RequestRefused

if TYPE_CHECKING:
    from rich.tree import Tree

TREE_COLUMNS_MAX = 1000


@click.command(
    "status",
    cls=Command,
    examples=[
        ("reasonchip-broker status 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52", "where it is and, if it waits, why"),
        ("reasonchip-broker status 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52 --tree", "and all jobs that it is made of"),
        ("reasonchip-broker status 5f0c54a5-6c3e-4a0e-9c1e-0d4a4f0f3a52 --tree --json", "all of it for a program"),
    ],
)
@click.argument("cookie", type=click.UUID, metavar="COOKIE")
@click.option("--tree", is_flag=True, help="Also the jobs that it has started, and theirs.")
@broker_option
@json_option
def command(cookie: UUID, tree: bool, broker: str, as_json: bool) -> Exit:
    """Say where a job is and, if it waits, why.

    The exit code is 4 if the broker knows no such job. That a job has failed is no failure of this command.
    """
    try:
        status = loop.run(_status(broker, cookie, tree))
    except RequestRefused as error:
        sentence = unknown_job(cookie) if isinstance(error, CookieNotFound) else f"the broker refused: {error}"
        return request_refused(error, sentence, as_json=as_json, cookie=cookie)
    if as_json:
        emit_json(facts(status, tree=tree))
    else:
        emit("\n".join(lines(status)))
        if tree:
            _print_tree(status)
    return Exit.OK


async def _status(broker: str, cookie: UUID, tree: bool) -> JobStatus:
    async with Client(broker, reconnect=False) as client:
        return await client.status(cookie, tree=tree)


def facts(status: JobStatus, *, tree: bool) -> dict[str, Any]:
    """All that was told, for programs."""
    found: dict[str, Any] = {
        "cookie": status.cookie,
        "state": status.state,
        "why": status.why,
        "sentence": status.sentence,
        "pipeline": status.pipeline,
        "attempt": status.attempt,
        "attempts": status.attempts,
        "age_s": status.age_s,
        "left_s": status.left_s,
        "due_s": status.due_s,
        "worker": status.worker,
        "progress": status.progress,
        "inputs": status.inputs,
        "outcome": None if status.outcome is None else code_name(status.outcome),
        "parent": status.parent,
    }
    if tree:
        found["children"] = [facts(child, tree=True) for child in status.children]
    return found


def lines(status: JobStatus) -> Iterator[str]:
    """The same for people: a sentence, then what there is to say."""
    sentence = printable(status.sentence)
    yield f"{printable(status.state)}: {sentence}" if sentence else printable(status.state)
    for name, value in _details(status):
        yield f"  {name:<10}{printable(value)}"


def _details(status: JobStatus) -> Iterator[tuple[str, str]]:
    yield "job", str(status.cookie)
    if status.outcome is not None:
        yield "outcome", code_name(status.outcome)
    if status.pipeline:
        yield "pipeline", status.pipeline
        yield "attempt", f"{status.attempt} of {status.attempts}" if status.attempt else f"none yet, of {status.attempts}"
        yield "age", duration(status.age_s)
    if status.due_s is not None:
        yield "starts in", duration(status.due_s)
    if status.left_s is not None:
        yield "time left", duration(status.left_s)
    if status.worker:
        yield "worker", status.worker
    if status.progress:
        yield "progress", str(status.progress)
    if status.inputs:
        yield "inputs", str(status.inputs)
    if status.parent is not None:
        yield "parent", str(status.parent)


def _print_tree(status: JobStatus) -> None:
    from rich.console import Console

    # As wide as it gets: a terminal wraps what is too long, and a cookie that is cut is of no use.
    console = Console(file=sys.stdout, highlight=False, width=TREE_COLUMNS_MAX)
    with console.capture() as drawn:
        console.print(drawn_tree(status), crop=False)
    emit("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def drawn_tree(status: JobStatus) -> "Tree":
    """A job and its children, and theirs, as rich draws them."""
    from rich.tree import Tree

    tree = Tree(_label(status))
    rest = [(tree, child) for child in reversed(status.children)]
    while rest:
        branch, child = rest.pop()
        below = branch.add(_label(child))
        rest.extend((below, grandchild) for grandchild in reversed(child.children))
    return tree


def _label(status: JobStatus) -> Any:
    from rich.text import Text

    why = f" ({status.why.replace('_', ' ')})" if status.why else ""
    words = [f"{status.state if status.outcome is None else code_name(status.outcome)}{why}"]
    if status.worker:
        words.append(f"on {status.worker}")
    if status.attempts > 1:
        words.append(f"attempt {status.attempt} of {status.attempts}")
    about = ", ".join([*words, duration(status.age_s)])
    return Text.assemble((printable(status.pipeline or "job"), "bold"), f"  {printable(about)}  ", (str(status.cookie), "dim"))
