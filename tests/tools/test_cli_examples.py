"""The examples of every --help: each command has some, and each is a call that the command takes.

They are parsed here; tests/mount/test_cli_examples.py runs them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from minifo.tools.cli import cli


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its words, those of groups among them."""
    top = click.Context(cli)
    for name in cli.list_commands(top):
        found = cli.get_command(top, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from ((f"{name} {word}", inner) for word, inner in found.commands.items())
        else:
            yield name, found


COMMANDS = dict(commands())


def example_lines(command: click.Command) -> list[str]:
    """The examples of a command, without comments."""
    text = (command.epilog or "").replace("\\\n", " ")
    block = re.search(r"^Examples:\n((?:  .*\n?)+)", text, re.M)
    lines = block[1].splitlines() if block else []
    return [re.split(r"\s#\s", line)[0].strip() for line in lines]


def examples(command: click.Command) -> list[str]:
    """The calls of minifo in the examples of a command, without what the shell does with them."""
    lines = [re.split(r"\s\|\s|\s\|\|\s|\s>\s", line)[0] for line in example_lines(command)]
    found = (re.search(r"\bminifo .*", line) for line in lines)
    return [match[0].strip() for match in found if match]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples(name: str) -> None:
    """Every option in them exists, and no argument is missing."""
    calls = examples(COMMANDS[name])
    assert any(call.startswith(f"minifo {name}") for call in calls), "no example"
    for call in calls:
        words = shlex.split(call)[1:]
        word = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        # a command keeps the names of its help option from its first context, and they come from the parent
        COMMANDS[word].make_context(word, words[len(word.split()) :], parent=click.Context(cli, **cli.context_settings))
