"""Pages of the documentation, done as they say: files are written, commands are run, and what is shown is compared.

Shown output matches line by line; a line or an end of a line that is `…` matches anything. Commands that go on (`serve`, `worker`) run
in the background, and are waited for until they are ready. Addresses on the default ports become addresses of this test's own.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.process.cli.program import PATIENCE_S, Program, environment

BLOCK = re.compile(r"(<!-- not run[^>]*-->\n)?```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    language: str
    title: str
    text: str


@dataclass
class Step:
    command: str
    shown: list[str] = field(default_factory=list)


def blocks(page):
    """The fenced blocks of a page that are to be done, in order."""
    for skipped, language, title, text in BLOCK.findall(page.read_text("utf-8")):
        if not skipped:
            yield Block(language, title, text)


def steps(text):
    """The commands of a console block, each with the output that is shown for it."""
    found: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(Step(line[2:]))
        else:
            found[-1].shown.append(line)
    return found


def require_shown(step, output):
    """Fail unless the output is what is shown."""
    pattern = "\n".join(".*" if line == "…" else re.escape(line).replace("…", ".*") for line in step.shown)
    assert re.fullmatch(pattern, output.strip(), re.DOTALL), f"$ {step.command}\nshown:\n{pattern}\nprinted:\n{output}"


class Reader:
    """Somebody who does what a page says, in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.programs: list[Program] = []
        clients, workers = f"unix://{folder}/c.sock", f"unix://{folder}/w.sock"
        self._addresses = {"tcp://localhost:51500": clients, "tcp://localhost:51510": workers}
        self._changes = {
            "REASONCHIP_CLIENTS": clients,
            "REASONCHIP_WORKERS": workers,
            "REASONCHIP_CLIENT_URL": clients,
            "REASONCHIP_LOG_FORMAT": "json",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=environment(**self._changes),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def close(self):
        for program in self.programs:
            program.__exit__()
        self._shell.kill()
        self._shell.communicate()

    def do(self, block: Block):
        """Do what one block says."""
        text = block.text
        for default, own in self._addresses.items():
            text = text.replace(default, own)
        if block.title:
            (self.folder / block.title).write_text(text)
        elif block.language == "console":
            for step in steps(text):
                self._run(step)

    def _run(self, step):
        words = step.command.split()
        if words[:2] in (["reasonchip-broker", "serve"], ["reasonchip-broker", "worker"]):
            self._start(step, words[1:])
            return
        output = self._say(step.command)
        if words[-1] != "&" and "=$(" not in words[0]:
            require_shown(step, output)

    def _start(self, step, arguments):
        log = self.folder / f"{len(self.programs)}.log"
        options = ["--log-format", "json"]
        self.programs.append(program := Program(log, *arguments, *options, cwd=self.folder, **self._changes))
        if arguments[0] == "serve":
            require_shown(step, program.read_line())
        else:
            program.wait_until(lambda: "registered" in program.errors)

    def _say(self, command):
        """What a shell prints for a command."""
        shell = self._shell
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(f'{command}\necho "=== $?"\n' if not command.startswith("echo $?") else "echo $LAST; echo '=== 0'\n")
        shell.stdin.flush()
        lines: list[str] = []
        while not (line := shell.stdout.readline()).startswith("=== "):
            assert line, "the shell has ended"
            lines.append(line)
        shell.stdin.write(f"LAST={line.split()[1]}\n")
        return "".join(lines)


__all__ = ["PATIENCE_S", "Block", "Reader", "Step", "blocks", "require_shown", "steps"]
