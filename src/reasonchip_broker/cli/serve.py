"""`reasonchip-broker serve`."""

import asyncio
import os
import resource
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import click

from reasonchip_broker.broker import Broker
from reasonchip_broker.cli import logs, loop
from reasonchip_broker.cli.command import Command, json_option
from reasonchip_broker.cli.exits import Exit, Fault
from reasonchip_broker.cli.listeners import EXPOSE_FLAG, listeners, ready_urls
from reasonchip_broker.cli.memory import settle_memory
from reasonchip_broker.cli.output import emit, emit_json
from reasonchip_broker.cli.settings import (
    DEFAULTS,
    LIMIT_NAMES,
    LOG_FORMATS,
    LOG_LEVELS,
    Settings,
    from_environment,
    from_file,
    layered,
    limits_from_flags,
)
from reasonchip_broker.errors import ListenError

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@click.command(
    "serve",
    cls=Command,
    examples=[
        ("reasonchip-broker serve", "clients on port 51500 and workers on port 51510 of this machine"),
        ("reasonchip-broker serve --drop-in", "and wherever existing ReasonChip peers look"),
        (
            "reasonchip-broker serve --clients unix:///run/broker/clients.sock --workers tcp://localhost:0",
            "a Unix socket for clients, and any free port for workers: the ready line says which",
        ),
        ("reasonchip-broker serve --config broker.toml --limit drain_s=30", "settings from a file, and one limit by hand"),
    ],
)
@click.option(
    "--clients", metavar="URL", multiple=True, help="Listen for clients here. May be repeated. [default: tcp://localhost:51500]"
)
@click.option(
    "--workers", metavar="URL", multiple=True, help="Listen for workers here. May be repeated. [default: tcp://localhost:51510]"
)
@click.option("--drop-in/--no-drop-in", default=None, help="Also listen wherever existing ReasonChip peers look.")
@click.option(
    "--json-queue/--no-json-queue", default=None, help="Let jobs of existing clients wait for a slot instead of NO_CAPACITY."
)
@click.option(
    "--json-cancel/--no-json-cancel", default=None, help="Pass CANCEL on to existing workers, which ends their process."
)
@click.option(
    "--json-slot-rest-ms",
    metavar="N",
    type=click.IntRange(min=0),
    help="How long a slot of an existing worker rests after a job. [default: 25, or 5 for each slot, whichever is more]",
)
@click.option(
    "--limit",
    "limits",
    metavar="NAME=VALUE",
    multiple=True,
    help=f"Set a limit. May be repeated. There are {', '.join(LIMIT_NAMES)}.",
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="Log from this level on. [default: info]")
@click.option(
    "--log-format", type=click.Choice(LOG_FORMATS), help="auto: console on a terminal, JSON elsewhere. [default: auto]"
)
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="REASONCHIP_CONFIG",
    show_envvar=True,
    help="Read settings from a TOML file.",
)
@click.option(
    EXPOSE_FLAG,
    "exposed",
    is_flag=True,
    help="Listen where other machines can reach it, though nobody has to say who they are.",
)
@json_option
def command(config: Path | None, limits: tuple[str, ...], exposed: bool, as_json: bool, **flags: Any) -> Exit:
    """Run a broker, until SIGTERM or Ctrl-C.

    Once it answers, it prints one line on stdout: `ready clients=URL[,URL…] workers=URL[,URL…]`. Its log goes to stderr.

    With --config, SIGHUP makes it read the section [scheduling] of the file again, and nothing else happens.

    SIGTERM and Ctrl-C let running jobs finish, for at most the limit `drain_s`; a second one stops at once.

    What an option says can also be said by an environment variable (REASONCHIP_LOG_LEVEL, REASONCHIP_LIMITS_DRAIN_S, …) and in the
    file. Options win over the environment, and that over the file.
    """
    said: dict[str, Any] = {name: value for name, value in flags.items() if value not in (None, ())}
    settings = layered(
        Settings(**said, limits=limits_from_flags(limits)),
        from_environment(os.environ),
        from_file(config) if config is not None else Settings(),
        DEFAULTS,
    )
    return loop.run(_serve(settings, config, exposed=exposed, as_json=as_json))


async def _serve(settings: Settings, config: Path | None = None, *, exposed: bool, as_json: bool) -> Exit:
    clients, workers = listeners(settings, exposed=exposed)
    logger = logs.configure(settings.log_level or "info", settings.log_format or "auto")
    broker = Broker(
        clients,
        workers,
        limits=settings.checked_limits(),
        json_slot_rest_ms=settings.json_slot_rest_ms,
        json_cancel=bool(settings.json_cancel),
        scheduling=settings.checked_scheduling(),
        logger=logger,
    )
    stops = _Stops(asyncio.get_running_loop())
    if config is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _read_again, broker, config, logger)
    _raise_descriptor_limit()
    try:
        await broker.start()
    except ListenError as error:
        raise Fault(f"{error}; choose another address with --clients or --workers", Exit.UNREACHABLE) from error
    try:
        settle_memory()
        if as_json:
            emit_json({"ready": True, "clients": broker.client_urls, "workers": broker.worker_urls})
        else:
            emit(f"ready clients={ready_urls(broker.client_urls)} workers={ready_urls(broker.worker_urls)}")
        await _first(broker.failed.wait(), stops.first.wait())
        if not broker.failed.is_set():
            await _first(broker.failed.wait(), stops.second.wait(), _end(broker))
        if stops.second.is_set():
            logger.warning("stopping at once")
        unfinished = broker.switchboard.jobs
    finally:
        await broker.stop()
    if broker.failed.is_set():
        return Exit.BUG
    return Exit.FAILED if unfinished else Exit.OK


def _read_again(broker: Broker, config: Path, logger: Any) -> None:
    """SIGHUP: schedule by what the file says now. The rest of it is for the next start."""
    try:
        broker.configure(from_file(config).checked_scheduling())
    except click.UsageError as error:
        logger.error("settings not read again: all stays as it was", error=error.message)


async def _end(broker: Broker) -> None:
    """Let running jobs finish and then, if they did, everybody take their outcomes."""
    if not await broker.drain():
        await broker.stop(broker.limits.drain_s)


class _Stops:
    """The first and the second signal to stop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


async def _first(*waits: Coroutine[Any, Any, Any]) -> None:
    """Wait for the first of these to be done, and drop the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _raise_descriptor_limit() -> None:
    """Ten thousand connections need as many descriptors; the usual soft limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # Some systems refuse their own hard limit; the soft one then has to do.
