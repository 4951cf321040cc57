"""``minifo migrate``: import or upgrade many storages by one plan."""

from __future__ import annotations

import json

import click

from ..migrations.fleet import Fleet, read_plan
from . import _common


@click.command(
    "migrate",
    epilog="""\b
A plan:
  parallel = 2                     # number of storages migrated at the same time
  on_error = "stop"                # after a failure; or "continue" with the other storages
  reports = "/var/lib/reports"     # directory for one JSON file per storage, and summary.json
  [defaults]                       # values for every [[storage]] that does not set them
  base = "/srv/rom"
  [[storage]]
  each = "/srv/boxes/*/overlay"    # a pattern; or source = "/srv/boxes/17/overlay"
  action = "import"                # or "upgrade": bring the database to this version's format
  target = "{parent}/storage"      # or in_place = true; {parent} is the directory of the source,
  name = "{name}"                  # {name} the name of that directory
  refuse = ["broken"]              # kinds of notes for which the import is refused
  expect = ["etc/passwd"]          # paths that must exist in the migrated overlay
  before = "systemctl stop box@{name}"     # shell commands; their environment has MINIFO_NAME, MINIFO_SOURCE,
  after = "systemctl start box@{name}"     # MINIFO_BASE, MINIFO_TARGET, MINIFO_DIR and MINIFO_PARENT;
                                           # the last two hold {name} and {parent}, safe for the shell

\b
Examples:
  minifo migrate plan.toml --dry-run
  minifo migrate plan.toml          # run it again after an interruption: finished storages are skipped""",
)
@click.option("--dry-run", "-n", is_flag=True, help="Check every storage; change nothing and run no shell commands.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("plan")
def command(plan: str, dry_run: bool, as_json: bool) -> int:
    """Migrate the storages that PLAN, a TOML file, names.

    The exit code is 0 if all storages are migrated, 2 if one failed or was not started.
    """
    reports = Fleet(read_plan(plan), dry_run=dry_run).run()
    if as_json:
        click.echo(json.dumps({"storages": reports}))
    else:
        for report in reports:
            why = f": {report['error']}" if report["error"] else ""
            click.echo(_common.printable(f"{report['status']:8} {report['name']}{why}"))
    bad = any(report["status"] in ("failed", "stopped") for report in reports)
    return _common.SYSTEM if bad else 0
