"""The machine and the versions that the figures belong to."""

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from benchmarks import nats_server
from benchmarks.brokers import Commands
from benchmarks.errors import Missing
from benchmarks.process import Cores

_PROBE_TIMEOUT_S = 20.0
_PROBE = """
import importlib.metadata, importlib.util, json, platform
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
import reasonchip_broker
core = importlib.util.find_spec("reasonchip_broker.switchboard")
print(json.dumps({
    "version": version("reasonchip-broker"),
    "compiled": bool(core and core.origin and not core.origin.endswith(".py")),
    "path": reasonchip_broker.__file__,
    "python": platform.python_version(),
    "uvloop": version("uvloop"),
    "msgspec": version("msgspec"),
}))
"""


def describe_machine(cores: Cores) -> dict[str, Any]:
    """What was measured on. The load average tells how quiet it was."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "broker_core": cores.broker,
        "generator_core": cores.generator,
        "kernel": platform.release(),
        "load_average": os.getloadavg(),
    }


def describe_versions(python: str, commands: Commands) -> dict[str, Any]:
    """Which programs were measured, and with what. Raises Missing if one can't be run."""
    return {
        "broker": _probe_ours(python),
        "nats": nats_server.version(commands.nats) if commands.nats else None,
        "generator": {"python": platform.python_version(), "uvloop": _version("uvloop")},
    }


def _probe_ours(python: str) -> dict[str, Any]:
    """What our broker is as installed for the interpreter `python`, asked from outside the checkout's directory."""
    try:
        answer = subprocess.run([python, "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, cwd="/")
    except (OSError, subprocess.SubprocessError) as error:
        raise Missing(f"{python} can't be run: {error}") from error
    if answer.returncode != 0:
        reason = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Missing(
            f"our broker can't be started with {python} ({reason}); install it there, or name another --broker-python"
        )
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def _version(name: str) -> str:
    """The version of a distribution that the generator uses. Raises Missing without it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise Missing(f"{name} is not installed here: `pip install -r requirements/bench.txt`") from None


def _processor() -> str:
    """The processor's name as the kernel has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
