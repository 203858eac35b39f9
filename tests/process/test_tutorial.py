import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.cli.program import Broker
from tests.process.pages import Reader, Step, blocks, require_shown, steps

pytestmark = pytest.mark.process

README = Path(__file__).parents[2] / "README.md"
TUTORIAL = Path(__file__).parents[2] / "docs/tutorial"


@pytest.fixture
def reader(tmp_path):
    reader = Reader(tmp_path)
    yield reader
    reader.close()


@pytest.mark.parametrize("page", sorted(path.name for path in TUTORIAL.glob("*.md")))
def test_whoever_does_what_the_page_says_sees_what_it_shows(reader, page):
    done = list(blocks(TUTORIAL / page))
    assert done
    for block in done:
        reader.do(block)


def test_the_readmes_example_works(tmp_path):
    example = README.read_text("utf-8").partition("<!-- example: begins")[2].partition("<!-- example: ends")[0]
    worker, client = re.findall(r"```python\n(.*?)```", example, re.DOTALL)
    with Broker(tmp_path / "broker.log") as broker:
        (tmp_path / "worker.py").write_text(worker.replace("tcp://127.0.0.1:51510", broker.workers[0]))
        (tmp_path / "client.py").write_text(client.replace("tcp://127.0.0.1:51500", broker.clients[0]))
        with subprocess.Popen([sys.executable, "worker.py"], cwd=tmp_path) as serving:
            done = subprocess.run([sys.executable, "client.py"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
            serving.terminate()
        assert (done.stdout, done.stderr, done.returncode) == ("Hello, Ada!\n", "", 0)


def test_what_is_shown_is_compared():
    with pytest.raises(AssertionError):
        require_shown(Step("x", ["a", "b"]), "a\nc\n")
    require_shown(Step("x", ["a …", "…", "d"]), "a b\nc\nc\nd\n")
    assert steps("$ one\na\nb\n$ two\n") == [Step("one", ["a", "b"]), Step("two", [])]
