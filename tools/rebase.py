"""``minifo rebase``: adapt an overlay to a base that was replaced, or prepare it before the base is replaced."""

from __future__ import annotations

import json
import os

import click

from ..engine import UsageError
from ..engine.rebase.drift_report import Became, Entry
from ..migrations.rebase.apply import Preparation, RebaseReport, rebase
from ..migrations.rebase.plan import Action, Decision
from . import _common
from ._output import plain
from ._progress import Progress
from ._size import size

CONFLICTS = 3  # exit code if the user must decide about a conflict

_BASE_WORDS = {
    Became.CHANGED: "changed",
    Became.IDENTICAL: "same bytes",
    Became.PARTIAL: "other version",
    Became.KIND: "other kind",
    Became.KEPT: "gone",
    Became.HIDDEN: "gone",
    Became.UNHIDING: "gone",
    Became.SHADOW: "new there",
}


@click.command(
    "rebase",
    epilog="""\b
Examples:
  minifo rebase --prepare /var/lib/usr-changes --base /usr       # before an update of /usr
  minifo rebase /var/lib/usr-changes --base /usr                 # after the update: print the plan
  minifo rebase /var/lib/usr-changes --base /usr --apply
  minifo rebase /var/lib/etc-changes --base /rom-b/etc --old-base /rom-a/etc \\
      --policy ours --policy 'merge:/*.conf' --policy theirs:/ssl --apply

\b
Policies (the last one that matches a path counts; the default is ours):
  ours       keep the overlay's version, as if it were made over the new base
  theirs     discard the overlay's version and show the base's
  keep-both  keep the overlay's version, and copy the base's beside it as NAME.minifo-new
  merge      if both changed a text file: three-way merge from the version in --old-base; else as ours
A pattern matches a path and all paths below it; * and ? in it also match slashes.

\b
Unmount the overlay first. An interrupted rebase has changed nothing: run the command again.
Exit codes: 0 no conflict, 3 conflicts (those entries are not changed), 1 wrong request, 2 failure.""",
)
@click.option("--base", metavar="DIR", required=True, help="The new base; with --prepare the present base.")
@click.option(
    "--old-base",
    metavar="DIR",
    help="The base before the update; merges and partly written files need it.",
)
@click.option("--policy", "policies", metavar="POLICY[:PATTERN]", multiple=True, help="Which version to keep.")
@click.option("--apply", is_flag=True, help="Change STO; without this option the plan is only printed.")
@click.option("--any-base", is_flag=True, help="Apply even if the base lacks most of the objects that STO refers to.")
@click.option("--prepare", is_flag=True, help="Before an update: copy the bytes of the base that STO needs into STO.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; bytes that are not UTF-8 as \\udcXX.")
@click.argument("storage", metavar="STO")
def command(
    storage: str,
    base: str,
    old_base: str | None,
    policies: tuple[str, ...],
    apply: bool,
    any_base: bool,
    prepare: bool,
    as_json: bool,
) -> int:
    """Adapt the overlay in STO to a base that was replaced.

    Lists every entry of the overlay for which the new base differs, and the action for it.
    """
    _common.log_to_stderr("minifo")
    if prepare:
        if apply or any_base or old_base is not None or policies:
            raise UsageError("--prepare goes with --base only", "give the other options after the update")
        return _prepare(storage, base, as_json)
    progress = Progress(None, storage, quiet=as_json)
    try:
        report = rebase(
            storage, base, old_base=old_base, policies=policies, apply=apply, any_base=any_base, progress=progress
        )
    finally:
        progress.clear()
    report.decisions.sort(key=lambda decision: decision.entry.path)
    if as_json:
        click.echo(json.dumps(_as_json(report, storage, base, old_base)))
    else:
        _print(report)
    return CONFLICTS if report.conflicts else 0


# -- the plan


def _print(report: RebaseReport) -> None:
    if report.decisions:
        click.echo(f"{'ours':12}{'base':15}{'settled' if report.applied else 'would settle':17}path")
    for decision in report.decisions:
        entry = decision.entry
        what = decision.action.value
        click.echo(f"{entry.held.value:12}{_BASE_WORDS[entry.became]:15}{what:17}{plain(entry.path)}")
        if decision.why:
            click.echo(f"{'':44}{_common.printable(decision.why)}")
    waiting = sum(decision.action is Action.WAIT for decision in report.decisions)
    settled = len(report.decisions) - len(report.conflicts) - waiting
    parts = [f"{settled} {'settled' if report.applied else 'to settle'}"]
    parts += [f"{len(report.conflicts)} conflicts"] if report.conflicts else []
    parts += [f"{waiting} waiting for the old base"] if waiting else []
    parts += [f"{report.counts[Became.UNCHANGED.value]} as before"]
    parts += [f"{report.size} bytes {'' if report.applied else 'to be '}copied"] if report.size else []
    click.echo(", ".join(parts))


def _as_json(report: RebaseReport, storage: str, base: str, old_base: str | None) -> dict[str, object]:
    return {
        "storage": storage,
        "base": base,
        "old_base": old_base,
        "applied": report.applied,
        "counts": {became.value: report.counts[became.value] for became in Became},
        "conflicts": len(report.conflicts),
        "bytes": report.size,
        "entries": [_entry(decision) for decision in report.decisions],
    }


def _entry(decision: Decision) -> dict[str, object]:
    entry = decision.entry
    return {
        "path": os.fsdecode(entry.path),
        "base_path": os.fsdecode(entry.base),
        "held": entry.held.name.lower(),
        "became": entry.became.value,
        "shows": entry.shows,
        "policy": decision.policy.value,
        "action": decision.action.name.lower(),
        "completed": decision.completes,
        "bytes": decision.size,
        "why": decision.why or None,
    }


# -- before an update


def _prepare(storage: str, base: str, as_json: bool) -> int:
    with Preparation(storage, base) as preparation:
        if not as_json and preparation.count:
            text = f"{_files(preparation.count)} to complete with {size(preparation.size)} of the base"
            click.echo(_common.printable(f"{text}; {size(preparation.free)} free in {storage}"))
        progress = Progress(None, storage, quiet=as_json)
        try:
            report = preparation.run(progress)
        finally:
            progress.clear()
    if as_json:
        found = {
            "storage": storage,
            "base": base,
            "bytes": report.size,
            "files": [os.fsdecode(entry.path) for entry in report.files],
            "conflicts": [os.fsdecode(entry.path) for entry in report.conflicts],
        }
        click.echo(json.dumps(found))
    else:
        _print_prepared(len(report.files), report.conflicts)
    return CONFLICTS if report.conflicts else 0


def _print_prepared(count: int, conflicts: list[Entry]) -> None:
    for entry in conflicts:
        click.echo(
            f"conflict: {plain(entry.path)}: blocks of it were written over a version that this base does not have"
        )
    if count:
        click.echo(f"completed: {_files(count)}")
    if not conflicts:
        click.echo("no file depends on this base now")


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"
