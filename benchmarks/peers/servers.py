"""The servers: found on this machine, started for one measurement on addresses of their own, pinned to one core, and ended.

Each runs with the defaults of its package, but for what writes to disk: nothing here is to survive.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.errors import Missing
from benchmarks.process import Child, pinned
from benchmarks.workloads import Socket, System

START_TIMEOUT_S = 60.0
_POLL_S = 0.02
RELAY_SOURCE = Path(__file__).with_name("relay.c")
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

SYSTEMS = (System.RELAY, System.GEARMAN, System.REDIS, System.RABBITMQ)
PACKAGES = {System.GEARMAN: "gearman-job-server", System.REDIS: "redis-server", System.RABBITMQ: "rabbitmq-server"}
"""Which package of Debian has a server."""


def missing(system: System) -> str:
    """Why a peer can't be measured on this machine; nothing if it can."""
    if system is System.RELAY:
        return "" if shutil.which("cc") else "there is no C compiler"
    if system is System.RABBITMQ:
        found = RABBITMQ.exists()
    else:
        found = shutil.which({System.GEARMAN: "gearmand", System.REDIS: "redis-server"}[system]) is not None
    return "" if found else f"it is not installed: apt-get install {PACKAGES[system]}"


def version(system: System) -> str:
    """What a server says of itself; nothing if it does not."""
    commands = {
        System.GEARMAN: ["gearmand", "--version"],
        System.REDIS: ["redis-server", "--version"],
        System.RABBITMQ: ["dpkg-query", "--show", "--showformat=${Version}", "rabbitmq-server"],
        System.RELAY: ["cc", "--version"],
    }
    try:
        said = subprocess.run(commands[system], capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)
    except OSError:
        return ""
    return (said.stdout.strip().splitlines() or [""])[0]


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def running(system: System, kind: Socket, core: int, directory: Path) -> Iterator[tuple[Child, str, str]]:
    """A fresh server on `core`: its process, and the URLs for clients and workers. Files go to `directory`, which must be empty.

    Raises Missing if it is not there, BenchError if it does not come up."""
    why = missing(system)
    if why:
        raise Missing(f"{system}: {why}")
    start = {System.RELAY: _relay, System.GEARMAN: _gearmand, System.REDIS: _redis, System.RABBITMQ: _rabbitmq}[system]
    with start(kind, core, directory) as started:
        yield started


@contextmanager
def _relay(kind: Socket, core: int, directory: Path) -> Iterator[tuple[Child, str, str]]:
    program = directory / "relay"
    built = subprocess.run(["cc", "-O2", "-o", program, RELAY_SOURCE], capture_output=True, text=True, check=False)
    if built.returncode:
        raise Missing(f"the relay can't be built: {built.stderr.strip().splitlines()[0]}")
    with Child(
        "the relay", pinned(core, [str(program), kind, str(directory)]), directory / "broker.log", cwd=directory
    ) as child:
        words = dict(word.split("=") for word in child.read_line(START_TIMEOUT_S, "that it listens").split()[1:])
        yield child, words["clients"], words["workers"]


@contextmanager
def _gearmand(kind: Socket, core: int, directory: Path) -> Iterator[tuple[Child, str, str]]:
    port = free_port()
    command = ["gearmand", "--listen=127.0.0.1", f"--port={port}", "--log-file=stderr"]
    with Child("gearmand", pinned(core, command), directory / "broker.log", cwd=directory) as child:
        yield child, *_listening(child, port)


@contextmanager
def _redis(kind: Socket, core: int, directory: Path) -> Iterator[tuple[Child, str, str]]:
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with Child("redis-server", pinned(core, command), directory / "broker.log", cwd=directory) as child:
        yield child, *_listening(child, port)


@contextmanager
def _rabbitmq(kind: Socket, core: int, directory: Path) -> Iterator[tuple[Child, str, str]]:
    port, epmd_port = free_port(), free_port()
    (directory / "enabled_plugins").write_text("[].\n")
    environment = {
        "HOME": str(directory),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"bench{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "logs"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        # The Erlang machine takes the place of the script then, so that its process is the one that is known here.
        "RABBITMQ_ALLOW_INPUT": "true",
        "RABBITMQ_SERVER_START_ARGS": "-noinput",
    }
    settings = [f"{name}={value}" for name, value in environment.items()]
    command = pinned(core, ["env", *settings, str(RABBITMQ)])
    try:
        with Child("rabbitmq-server", command, directory / "broker.log", cwd=directory) as child:
            yield child, *_listening(child, port)
    finally:
        # Erlang's port mapper goes its own way once it is started. This one has a port of its own, and is ours.
        subprocess.run(["epmd", "-port", str(epmd_port), "-kill"], capture_output=True, check=False)


def _listening(child: Child, port: int) -> tuple[str, str]:
    """The URLs of a server that listens on one port, once it does. Raises BenchError if it ends first or does not come up."""
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until and child.alive:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                url = f"tcp://127.0.0.1:{port}"
                return url, url
        time.sleep(_POLL_S)
    raise child.failed("did not listen in time" if child.alive else "ended before it listened")


def install() -> list[str]:
    """Install what of the servers is not there, as far as this machine lets us; returns the names of the packages that are still
    missing.

    Debian starts a server that it has installed; a policy keeps it from that while this goes on."""
    wanted = [package for system, package in PACKAGES.items() if missing(system)]
    if not wanted or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return wanted
    policy = Path("/usr/sbin/policy-rc.d")
    mine = not policy.exists()
    if mine:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *wanted]):
            subprocess.run(["apt-get", *command], capture_output=True, env=environment, check=False)
    finally:
        if mine:
            policy.unlink()
    return [package for system, package in PACKAGES.items() if missing(system)]
