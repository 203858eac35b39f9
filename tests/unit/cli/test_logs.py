import io
import json
import logging

import pytest

from reasonchip_broker.cli import logs

HOSTILE = 'evil\x1b[2J\r\n{"event": "fake"}\x9b\x7f\u2028\u202e\x00'


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.fixture(autouse=True)
def the_roots_own_handlers():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(style, act, level="info", stream=None):
    stream = stream or io.StringIO()
    act(logs.configure(level, style, stream))
    return stream.getvalue()


def test_a_json_event_is_one_line_with_when_how_bad_and_what_first():
    line = logged("json", lambda logger: logger.info("connection opened", connection="ab", address="127.0.0.1:1", n=3))
    assert line.endswith("}\n")
    event = json.loads(line)
    assert list(event)[:3] == ["timestamp", "level", "event"]
    assert event["timestamp"].endswith("Z")
    assert event["level"] == "info"
    assert event["connection"] == "ab"
    assert event["n"] == 3


def test_a_console_event_is_one_line_too():
    line = logged("console", lambda logger: logger.info("connection opened", connection="ab"))
    assert line.count("\n") == 1
    assert "connection opened" in line
    assert "connection=ab" in line
    assert "\x1b" not in line


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("place", ["value", "event", "nested"])
def test_row_28_nothing_that_a_peer_sent_adds_a_line_or_moves_the_cursor(style, place):
    act = {
        "value": lambda logger: logger.warning("protocol error", error=HOSTILE),
        "event": lambda logger: logger.warning(HOSTILE),
        "nested": lambda logger: logger.warning("worker registered", serves=[HOSTILE, {"x": HOSTILE}]),
    }[place]
    text = logged(style, act)
    assert text.isascii()
    assert text.endswith("\n")
    assert text[:-1].isprintable()


def test_json_gives_back_what_was_sent():
    assert json.loads(logged("json", lambda logger: logger.info("x", error=HOSTILE)))["error"] == HOSTILE


def test_auto_is_for_people_on_a_terminal_and_for_programs_elsewhere(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in logged("auto", lambda logger: logger.info("x"), stream=Terminal())
    assert json.loads(logged("auto", lambda logger: logger.info("x")))


def test_no_color_means_no_color(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in logged("auto", lambda logger: logger.info("x"), stream=Terminal())


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_below_its_level_nothing_is_logged_and_the_broker_can_ask_beforehand(level):
    def act(logger):
        for name in ("debug", "info", "warning", "error", "critical"):
            assert logger.isEnabledFor(getattr(logging, name.upper())) == (getattr(logging, name.upper()) >= logs.LEVELS[level])
            getattr(logger, name)(name)
            logging.getLogger("reasonchip_broker.worker").log(getattr(logging, name.upper()), name)

    lines = [json.loads(line) for line in logged("json", act, level=level).splitlines()]
    names = ["debug", "info", "warning", "error", "critical"]
    expected = [name for name in names[names.index(level) :] for _ in range(2)]
    assert [line["event"] for line in lines] == expected


def test_nothing_is_formatted_when_its_level_is_off():
    class Formatted:
        def __repr__(self):
            raise AssertionError("formatted")

    assert logged("console", lambda logger: logger.debug("x", value=Formatted())) == ""


@pytest.mark.parametrize("style", ["json", "console"])
def test_an_exception_is_one_line(style):
    def act(logger):
        try:
            raise ValueError(HOSTILE)
        except ValueError as error:
            logger.error("internal error", exc_info=error)
            logging.getLogger("asyncio").exception("never retrieved")

    text = logged(style, act)
    lines = text.splitlines()
    assert len(lines) == 2
    assert all("Traceback" in line and "ValueError" in line for line in lines)
    assert text.replace("\n", "").isprintable()


def test_the_standard_librarys_records_become_the_same_lines():
    def act(_):
        logging.getLogger("my.jobs").info("read %d files of %s", 3, HOSTILE, extra={"cookie": "ab"})

    event = json.loads(logged("json", act))
    assert event["event"] == f"read 3 files of {HOSTILE}"
    assert event["logger"] == "my.jobs"
    assert event["cookie"] == "ab"
    assert event["level"] == "info"


def test_a_record_that_can_not_be_formatted_is_told_as_such():
    text = logged("json", lambda _: logging.getLogger("my.jobs").info("%d files", "three"))
    assert text.count("\n") == 1
    assert "could not be formatted" in text


@pytest.mark.parametrize("stream", [Broken(), None])
def test_a_log_that_can_not_be_written_is_lost_and_nothing_else(stream):
    if stream is None:
        stream = io.StringIO()
        stream.close()
        logger = logs.configure("info", "json", type("Closed", (), {"isatty": lambda _: False, "write": stream.write})())
    else:
        logger = logs.configure("info", "json", stream)
    logger.info("x")
    logging.getLogger("y").warning("x")
