"""Programs with a blocking client that end, fork, or are interrupted, without ever having closed it: none hangs, none complains."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from tests.process.broker_process import BrokerProcess

pytestmark = pytest.mark.process

EXIT_S = 20.0
"""How long a program may take to end on a busy machine; what is tested is that it ends."""

LOOPS = {"uvloop": "", "asyncio": "import sys; sys.modules['uvloop'] = None\n"}


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with BrokerProcess(workers="echo") as process:
        yield process


def start(script: str, loop: str, *arguments: str) -> "subprocess.Popen[str]":
    code = LOOPS[loop] + "import sys\nurl = sys.argv[1]\n" + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: "subprocess.Popen[str]") -> tuple[str, str, int]:
    """What a program said on stdout and stderr, and its exit code; it must end by itself."""
    try:
        out, err = process.communicate(timeout=EXIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return out, err, process.returncode


@pytest.mark.parametrize("loop", LOOPS)
def test_a_program_ends_though_jobs_are_under_way(broker: BrokerProcess, loop: str) -> None:
    script = """
        from reasonchip_broker.client import BlockingClient, ClientExecutor
        client = BlockingClient(url)
        print(client.run("echo", "hello"))
        job = client.submit("hold")
        executor = ClientExecutor(url)
        future = executor.submit("hold")
    """
    assert ended(start(script, loop, broker.clients)) == ("hello\n", "", 0)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_program_ends_though_its_broker_is_gone(loop: str) -> None:
    script = """
        from reasonchip_broker.client import BlockingClient
        client = BlockingClient(url)
        client.run("echo", "hello")
        print("ready", flush=True)
        sys.stdin.readline()
        job = client.submit("hold")
    """
    with BrokerProcess(workers="echo") as gone:
        process = subprocess.Popen(
            [sys.executable, "-c", LOOPS[loop] + "import sys\nurl = sys.argv[1]\n" + textwrap.dedent(script), gone.clients],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        gone.kill()
        out, err = process.communicate("go on\n", timeout=EXIT_S)
        assert (out, err, process.returncode) == ("", "", 0)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("leave", ["sys.exit(0)", "os._exit(0)"])
def test_after_a_fork_each_process_has_a_connection_of_its_own(broker: BrokerProcess, loop: str, leave: str) -> None:
    script = f"""
        import os
        from reasonchip_broker.client import BlockingClient, BrokerWentAway
        client = BlockingClient(url)
        view = client.with_options(encoding="json")
        job = client.submit("hold")
        print(client.run("echo", "parent, before"), flush=True)
        pid = os.fork()
        if not pid:
            print(client.run("echo", "child"), view.run("echo", "and its view"), flush=True)
            try:
                job.result()
            except BrokerWentAway as error:
                print("forked" in str(error), flush=True)
            {leave}
        assert os.waitpid(pid, 0)[1] == 0
        print(client.run("echo", "parent, after"), job.done(), flush=True)
    """
    out, err, code = ended(start(script, loop, broker.clients))
    assert (out.splitlines(), err, code) == (
        ["parent, before", "child and its view", "True", "parent, after False"],
        "",
        0,
    )


@pytest.mark.parametrize("loop", LOOPS)
def test_ctrl_c_interrupts_a_run(broker: BrokerProcess, loop: str) -> None:
    script = """
        from reasonchip_broker.client import BlockingClient
        client = BlockingClient(url)
        client.connect()
        try:
            print("ready", flush=True)
            client.run("hold")
        except KeyboardInterrupt:
            print("interrupted", client.run("echo", "and well"), flush=True)
    """
    process = start(script, loop, broker.clients)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGINT)
    out, err, code = ended(process)
    assert (out, err, code) == ("interrupted and well\n", "", 0)
