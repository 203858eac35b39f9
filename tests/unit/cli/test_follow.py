import json
from typing import Any

import pytest

from reasonchip_broker.cli import follow
from reasonchip_broker.client import Gap, NewAttempt
from reasonchip_broker.errors import JobException, RemoteProtocolError


class Progress:
    """A job whose progress comes in these portions; an exception is raised in its turn."""

    def __init__(self, *portions):
        self.portions = list(portions)
        self.last_chunk = 0

    def chunks(self):
        return self

    async def take(self, most):
        portion = self.portions.pop(0) if self.portions else []
        if isinstance(portion, Exception):
            self.last_chunk += 1
            raise portion
        self.last_chunk += sum(not isinstance(item, NewAttempt) for item in portion)
        return portion


def job(*portions) -> Any:
    return Progress(*portions)


async def test_a_text_is_a_line_as_it_is_and_all_else_a_line_of_json(capfd):
    await follow.follow(job(["Zoë\x1b"], [{"a": 1}, None, b"raw"]), as_json=False)
    assert capfd.readouterr() == ('Zoë\x1b\n{"a":1}\nnull\nraw', "")


async def test_as_json_each_has_its_number_and_its_attempt(capfd):
    await follow.follow(job(["a", Gap(5, 9), "b"], [NewAttempt(2), "c"]), first=4, as_json=True)
    out, err = capfd.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [
        {"progress": 4, "attempt": 1, "value": "a"},
        {"gap": [5, 9]},
        {"progress": 10, "attempt": 1, "value": "b"},
        {"progress": 11, "attempt": 2, "value": "c"},
    ]
    assert err == ""


async def test_what_is_missing_and_a_new_attempt_are_told_on_stderr(capfd):
    await follow.follow(job(["a", Gap(2, 2), Gap(3, 7), NewAttempt(2), "b"]), as_json=False)
    out, err = capfd.readouterr()
    assert out == "a\nb\n"
    assert err.splitlines() == [
        "progress 2 is missing, and will not come",
        "progress 3 to 7 is missing, and will not come",
        "attempt 2:",
    ]


async def test_what_can_not_be_read_is_told_and_counted(capfd):
    await follow.follow(job(["a"], RemoteProtocolError("chunk 2 can't be read: no JSON"), ["c"]), as_json=True)
    out, err = capfd.readouterr()
    assert [json.loads(line)["progress"] for line in out.splitlines()] == [1, 3]
    assert err == "chunk 2 can't be read: no JSON\n"


async def test_what_the_job_ends_with_is_raised_after_the_last_of_it(capfd):
    with pytest.raises(JobException):
        await follow.follow(job(["a"], JobException("no")), as_json=False)
    assert capfd.readouterr().out == "a\n"


def test_a_terminal_gets_nothing_that_it_would_obey():
    printer = follow.Printer(1, as_json=False, on_terminal=True)
    assert printer.add("a\x1b[2J\nb") == ""
    assert printer.add({"a": "\x9b\u202e"}) == ""
    assert printer.add(b"\x1b[2J").startswith("progress 3 is 4 bytes")
    assert printer._pending == [b"a\\x1b[2J\nb\n", b'{"a":"\\u009b\\u202e"}\n']
