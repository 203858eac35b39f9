"""`reasonchip-broker version`."""

import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import click

from reasonchip_broker.cli.command import Command, json_option
from reasonchip_broker.cli.output import emit, emit_json
from reasonchip_broker.protocol.frames import VERSIONS


@click.command(
    "version",
    cls=Command,
    examples=[
        ("reasonchip-broker version", "for a person"),
        ("reasonchip-broker version --json", "for a program"),
    ],
)
@json_option
def command(as_json: bool) -> None:
    """Print the versions of this program.

    Besides its own: the versions of the binary protocol that it speaks, the Python that runs it, the event loop that `serve` uses, and
    whether its core is compiled.
    """
    facts = {
        "reasonchip-broker": _installed("reasonchip-broker") or "unknown",
        "protocol": ", ".join(map(str, VERSIONS)),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "event loop": f"uvloop {uvloop}" if (uvloop := _installed("uvloop")) else "asyncio",
        "core": "compiled" if _is_compiled() else "interpreted",
    }
    if as_json:
        emit_json(facts)
    else:
        emit("\n".join(f"{name} {value}" for name, value in facts.items()))


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _is_compiled() -> bool:
    spec = find_spec("reasonchip_broker.switchboard")
    return spec is not None and Path(spec.origin or "").suffix != ".py"
