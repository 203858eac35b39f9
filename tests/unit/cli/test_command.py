from importlib import import_module
from pathlib import Path

import click
import pytest

from reasonchip_broker.cli import app, main

PAGE = Path(__file__).parents[3] / "docs/reference/command-line.md"

COMMANDS = {name: import_module(f"reasonchip_broker.cli.{module}").command for name, (module, _) in app.COMMANDS.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_manual_names_every_option_of_every_command(name):
    section = PAGE.read_text("utf-8").partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert section
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            for option in (*parameter.opts, *parameter.secondary_opts):
                assert f"`{option}" in section, f"{name} {option}"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("worker",)])
def test_whatever_prints_something_can_print_json(name):
    assert "--json" in {option for parameter in COMMANDS[name].params for option in parameter.opts}


def test_every_option_says_what_it_is_for():
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


def test_examples_are_not_wrapped(capsys):
    main(["serve", "--help"])
    out = capsys.readouterr().out
    assert "  reasonchip-broker serve --clients unix:///run/broker/clients.sock --workers tcp://localhost:0\n" in out
