"""``minifo doctor``: whether minifo runs well on this machine, and what to do where it does not."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import click

from ..engine import VERSION
from ..engine.errors import MinifoError
from . import _colour, _common
from ._complete import targets
from .checkup import finding, machine, software
from .checkup.finding import Check, Finding, found_by, worst

_STYLES = {"ok": "added", "note": "modified", "problem": "bad"}
_WIDTH = 16  # of the names of checks
_LINE = 100  # characters of a line


@click.command(
    "doctor",
    epilog="""\b
Examples:
  minifo doctor                           # this machine, for this user
  minifo doctor --try                     # and mount a throw-away overlay
  minifo doctor /var/lib/usr-changes      # and a storage
  minifo doctor --json /var/lib/usr-changes | jq .verdict

\b
Put the output into a bug report: it has the versions, and no content of files.
Exit codes: 0 all is well (there may be notes), 1 there are problems.""",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.option("--try", "with_try", is_flag=True, help="Also mount an overlay in a temporary directory, and remove it.")
@click.argument("storage", metavar="[STO]", required=False, shell_complete=targets)
def command(as_json: bool, with_try: bool, storage: str | None) -> int:
    """Check whether minifo runs well on this machine.

    With STO, a storage directory or a path in a mounted overlay, it checks that storage as well, as minifo-fsck -n
    does. It changes nothing, and mounts nothing without --try.
    """
    _common.log_to_stderr("minifo")
    found: dict[str, list[Finding]] = {}
    for section, checks in _sections(storage, with_try=with_try, quiet=as_json):
        if not as_json:
            click.echo(_painted("head", section))
        found[section] = []
        for check in checks:
            result = found_by(check)
            found[section].append(result)
            if not as_json:
                _print(result)
    every = [result for results in found.values() for result in results]
    verdict = worst(every)
    if as_json:
        click.echo(json.dumps(_document(found, verdict)))
    else:
        counts = {word: sum(result.verdict == word for result in every) for word in finding.VERDICTS}
        told = [f"{counts[word]} {word}" + "s" * (counts[word] != 1) for word in ("problem", "note")]
        click.echo("\n" + _painted(_STYLES[verdict], f"{', '.join(told)}, {counts['ok']} ok"))
    return 1 if verdict == "problem" else 0


def _sections(storage: str | None, *, with_try: bool, quiet: bool) -> Iterator[tuple[str, Iterable[Check]]]:
    yield "machine", machine.checks()
    yield "software", software.checks()
    if storage is not None:
        from ._target import place_of
        from .checkup import storage as of_storage

        try:
            place = place_of(storage).storage
        except MinifoError:
            place = storage  # its first check says what is wrong
        yield "storage", of_storage.checks(place, quiet=quiet)
    if with_try:
        from .checkup import attempt

        yield "try", attempt.checks()


def _print(result: Finding) -> None:
    """Print a finding: what it is about, and the remedy below it."""
    told = f"  {result.check:{_WIDTH}} {_common.printable(result.fact)}"
    click.echo(f"  {_painted(_STYLES[result.verdict], f'{result.verdict:7}')}{told}")
    if result.remedy:
        start = " " * (2 + 7 + 2 + _WIDTH + 1)
        for line in textwrap.wrap(
            _common.printable(result.remedy), _LINE - len(start), break_long_words=False, break_on_hyphens=False
        ):
            click.echo(f"{start}{_painted('bold', line)}")


def _painted(style: str, text: str) -> str:
    return _colour.painted(style, text) if _colour.are_wanted() else text


def _document(found: dict[str, list[Finding]], verdict: str) -> dict[str, Any]:
    findings = [
        {
            "section": section,
            "check": result.check,
            "verdict": result.verdict,
            "fact": result.fact,
            "remedy": result.remedy or None,
        }
        for section, results in found.items()
        for result in results
    ]
    return {"format": 1, "minifo": VERSION, "verdict": verdict, "findings": findings}
