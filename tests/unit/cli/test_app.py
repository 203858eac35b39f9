import subprocess
import sys
from importlib import import_module

import click
import pytest

from reasonchip_broker import errors
from reasonchip_broker.cli import app, main


def fails_with(monkeypatch, error):
    def callback():
        raise error

    monkeypatch.setattr(app.LazyGroup, "get_command", lambda *_: click.Command("version", callback=callback))
    return main(["version"])


def test_every_command_says_in_the_list_what_it_says_of_itself():
    for name, (module, line) in app.COMMANDS.items():
        command = import_module(f"reasonchip_broker.cli.{module}").command
        assert command.name == name
        assert (command.help or "").splitlines()[0] == line


def test_every_command_has_help_with_examples_that_name_it(capsys):
    for name in app.COMMANDS:
        assert main([name, "--help"]) == 0
        out, err = capsys.readouterr()
        assert "Examples:" in out
        assert f"  reasonchip-broker {name}" in out or f"| reasonchip-broker {name}" in out
        assert err == ""


def test_options_in_examples_exist():
    for name, (module, _) in app.COMMANDS.items():
        command = import_module(f"reasonchip_broker.cli.{module}").command
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word for line, _ in command.examples for word in line.split() if word.startswith("--")}
        assert used <= known, name


def test_help_loads_no_command_and_nothing_heavy():
    code = (
        "import sys; from reasonchip_broker.cli import main; main(['--help'])\n"
        "heavy = {'asyncio', 'rich', 'structlog', 'msgspec', 'uvloop', 'reasonchip_broker.broker', 'reasonchip_broker.client'}\n"
        "sys.exit(', '.join(sorted(heavy & sys.modules.keys())) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    assert "Run one job and print its result." in done.stdout


def test_without_a_command_the_help_goes_to_stderr_and_the_exit_code_says_usage(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage: reasonchip-broker" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], ["frobnicate", "serve, worker, run", "reasonchip-broker --help"]),
        (["--frobnicate"], ["--frobnicate", "reasonchip-broker --help"]),
        (["run"], ["PIPELINE", "reasonchip-broker run --help"]),
        (["cancel", "not-a-cookie"], ["not-a-cookie", "UUID", "reasonchip-broker cancel --help"]),
        (["serve", "--log-level", "loud"], ["loud", "debug", "reasonchip-broker serve --help"]),
        (["run", "x", "--broker", "nowhere"], ["nowhere", "tcp://"]),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_that_says_what_to_do(capsys, arguments, words):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert all(word in err for word in words)


def test_a_mistake_that_holds_control_characters_stays_one_clean_line(capsys):
    assert main(["\x1b[31mred\r\nfake: line"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\x1b" not in err
    assert "\r" not in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.EndpointError("no endpoint"), 2),
        (errors.ListenError("taken"), 3),
        (errors.ConnectError("nobody there"), 3),
        (errors.ConnectionLost("gone"), 3),
        (errors.Overloaded("too much"), 4),
        (errors.WorkerWentAway("lost"), 1),
    ],
)
def test_each_kind_of_error_is_one_line_and_has_its_exit_code(monkeypatch, capsys, error, code):
    assert fails_with(monkeypatch, error) == code
    assert capsys.readouterr().err == f"reasonchip-broker: {error}\n"


def test_ctrl_c_is_told_in_one_line(monkeypatch, capsys):
    assert fails_with(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.strip() == "reasonchip-broker: interrupted"


def test_a_bug_of_ours_has_a_traceback_and_an_exit_code_of_its_own(monkeypatch, capsys):
    assert fails_with(monkeypatch, errors.InternalError("tables disagree")) == 70
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "please report it" in err


def test_a_reader_that_stops_reading_is_no_bug():
    code = "import sys; from reasonchip_broker.cli import main; sys.exit(main(['version']))"
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    assert reader.stdin is not None
    reader.wait()
    done = subprocess.run([sys.executable, "-c", code], stdout=reader.stdin, stderr=subprocess.PIPE, text=True, timeout=30)
    reader.stdin.close()
    assert done.stderr == ""
    assert done.returncode == 141
