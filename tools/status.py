"""``minifo status``: how an overlay is, in a page; with ``--drift`` also how it stands to its base."""

from __future__ import annotations

import json
from typing import Any

import click

from . import _colour, _common
from ._complete import targets
from ._size import duration, size
from ._target import place_of, status

#: Free bytes below which a storage counts as full.
FULL = 1 << 20
_LISTS = ("created", "modified", "deleted", "renamed")


@click.command(
    "status",
    epilog="""\b
Examples:
  minifo status /mnt/usr                  # a mounted overlay, by any path in it
  minifo status /var/lib/usr-changes      # a storage directory, mounted or not
  minifo status --json /mnt/usr | jq .usage.content
  minifo status --drift /var/lib/usr-changes      # after an update of the base

\b
Exit codes: 0 all is well, 1 something needs attention (it says what), 2 failure.""",
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object: times in ns, sizes in bytes.")
@click.option("--drift", "with_drift", is_flag=True, help="Compare all it holds of the base with the base now, too.")
@click.option("--base", metavar="DIR", help="The base of an overlay that is not mounted, where it has moved.")
@click.argument("target", default=".", shell_complete=targets)
def command(target: str, as_json: bool, with_drift: bool, base: str | None) -> int:
    """Show how the overlay TARGET is.

    Who it is, what it holds and takes, how its commits go, and whether it needs attention.
    """
    _common.log_to_stderr("minifo")
    found, mounted = status(target, base)
    found["mounted"] = mounted
    found["at"] = place_of(target).at
    if with_drift:
        from . import _drift  # only where it is needed: the engine takes longer to load than a daemon to answer

        found["drift"] = _drift.compared(target, base, listed=as_json)
    found["attention"] = attention(found)
    if as_json:
        click.echo(json.dumps(found))
    else:
        _print(found)
    return 1 if found["attention"] else 0


def attention(found: dict[str, Any]) -> list[str]:
    """Return what needs attention, one sentence each, with the next step."""
    wrong = []
    if found["failure"] is not None:
        wrong.append(
            f"It takes no changes since a commit failed ({found['failure']}): unmount, and run minifo-fsck"
            f" {found['storage']}."
        )
    if found["usage"]["free"] < FULL:
        wrong.append("Its storage is full: delete something, or give it more room.")
    if found.get("mode") == "plain" and found.get("mode_reason") not in ("", "plain mode was asked for"):
        wrong.append(f"It runs in plain mode, which is slower: {found['mode_reason']}.")
    if unreadable := found.get("drift", {}).get("unreadable"):
        wrong.append(
            f"{unreadable:,} {'file needs' if unreadable == 1 else 'files need'} another version of the base to be read"
            f" as a whole:"
            f" minifo rebase {found['storage']} --base {found['base']}"
        )
    return wrong


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the figures as labels and texts for people.

    Args:
        found: what ``--json`` prints; what a daemon alone knows is in it if ``mounted`` is set.
    """
    usage, lists = found["usage"], found["lists"]
    where = f"mounted at {found['mountpoint']}" if found["mounted"] else "not mounted"
    if found.get("at") is not None:
        where = f"as it was at checkpoint {found['at']}"
    told = [
        ("overlay", f"{found['uuid']}, {where}"),
        ("base", found["base"]),
        ("storage", found["storage"]),
    ]
    if found["mounted"]:
        mode = "read-only" if found["read_only"] else "read-write"
        told.append(("daemon", f"process {found['pid']}, minifo {found['version']}, {mode}, {found['mode']}"))
    told.append(("changes", ", ".join(f"{lists[name]:,} {name}" for name in _LISTS)))
    told.append(("content", f"{size(usage['content'])}, database {size(usage['database'] + usage['log'])}"))
    limit = f" of {size(usage['limit'])}" if usage["limit"] is not None else ""
    told.append(("free", size(usage["free"]) + limit))
    if found["mounted"]:
        commits = found["commits"]
        age = "none yet" if commits["age_ns"] is None else f"{duration(commits['age_ns'])} ago"
        told.append(("last commit", age + (", changes wait for the next one" if commits["pending"] else "")))
        if commits["count"]:
            told.append(
                (
                    "commit pauses",
                    f"{duration(commits['median_ns'])} (median), {duration(commits['p99_ns'])} (99th percentile),"
                    f" {duration(commits['longest_ns'])} (longest of {commits['count']})",
                )
            )
        told.append(("memory", f"{size(found['memory'])}, {found['names']:,} names"))
    if found["orphans"]:
        told.append(("deleted, open", f"{found['orphans']:,}"))
    return told


def _print(found: dict[str, Any]) -> None:
    told = lines(found)
    width = max(len(label) for label, _ in told)
    for label, text in told:
        click.echo(f"{label + ':':{width + 2}}{_common.printable(str(text))}")
    if "drift" in found:
        from ._drift import table

        click.echo("\nWhat it holds of the base, and what the base has there now:")
        click.echo("\n".join(table(found["drift"]["counts"])))
    for sentence in found["attention"]:
        text = _common.printable(sentence)
        click.echo(_colour.painted("bad", text) if _colour.are_wanted() else text)
