"""docs/how-to/write-a-worker.md: its code is run as one file, and its commands must print what it says they print."""

import asyncio
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from reasonchip_broker.broker import Broker
from reasonchip_broker.protocol.codes import Role
from reasonchip_broker.transports.endpoints import server_transport
from tests.unit.worker.harness import soon, until

pytestmark = pytest.mark.process

PAGE = Path(__file__).parents[2] / "docs/how-to/write-a-worker.md"
URL_ON_THE_PAGE = "tcp://127.0.0.1:51510"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Each command of the page with the line that it prints; one that begins with `! ` is the end of a complaint on stderr."""
    lines = "".join(blocks("console")).splitlines()
    return [(lines[n].removeprefix("$ "), lines[n + 1]) for n in range(0, len(lines), 2)]


async def run(command: str, folder: Path, url: str) -> tuple[int, str, str]:
    program, *arguments = shlex.split(command)
    assert program == "reasonchip-broker"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "reasonchip_broker", *arguments),
        cwd=folder,
        env=os.environ | {"REASONCHIP_CLIENT_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await soon(process.communicate())
    assert process.returncode is not None
    return process.returncode, out.decode().strip(), err.decode().strip()


async def test_the_page_does_what_it_says(tmp_path) -> None:
    broker = Broker(
        [server_transport(f"unix://{tmp_path}/clients.sock", Role.CLIENT)],
        [server_transport(f"unix://{tmp_path}/workers.sock", Role.WORKER)],
    )
    await broker.start()
    code = "\n\n".join(blocks("python"))
    assert code.count(URL_ON_THE_PAGE) == 1
    (tmp_path / "jobs.py").write_text(code.replace(URL_ON_THE_PAGE, broker.worker_urls[0]))
    (tmp_path / "words.txt").write_text("to be or not to be")
    worker = await asyncio.create_subprocess_exec(sys.executable, "jobs.py", cwd=tmp_path)
    try:
        await until(lambda: broker.switchboard.free_slots("greet") == 4 or worker.returncode is not None)
        told = commands()
        assert len(told) == 5
        # What the page's handlers do that it shows no output of.
        told += [
            ("reasonchip-broker run fetch.page --set seconds=0", "this was fetch.page"),
            ("reasonchip-broker run count --set path=words.txt", '{"words":6,"different":4}'),
            ('reasonchip-broker run read --set \'texts=["a", "b"]\'', "2"),
            ("reasonchip-broker run watch --set seconds=0.01", "nothing happened"),
        ]
        for command, expected in told:
            exit_code, out, err = await run(command, tmp_path, broker.client_urls[0])
            if expected.startswith("! "):
                assert exit_code == 1, command
                assert expected.removeprefix("! ") in err
                assert out == ""
            else:
                assert (exit_code, out) == (0, expected), f"{command}: {err}"
        worker.send_signal(signal.SIGTERM)
        assert await soon(worker.wait()) == 0
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
        await broker.stop()
