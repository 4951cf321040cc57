"""``minifo migrate``: many storages by one plan."""

from __future__ import annotations

import json

import click

from ..migrations.fleet import Fleet, read_plan
from . import _common


@click.command(
    "migrate",
    epilog="""\b
A plan:
  parallel = 2                     # how many at once
  on_error = "stop"                # or "continue" with the others
  reports = "/var/lib/reports"     # a JSON file for each storage, and summary.json
  [defaults]                       # any key of a storage
  base = "/srv/rom"
  [[storage]]
  each = "/srv/boxes/*/overlay"    # or source = "/srv/boxes/17/overlay"
  action = "import"                # or "upgrade", of a database to this version
  target = "{parent}/storage"      # or in_place = true
  name = "{name}"
  refuse = ["broken"]              # kinds of notes that are not accepted
  expect = ["etc/passwd"]          # paths that must show afterwards
  before = "systemctl stop box@{name}"     # shell commands; they see MINIFO_NAME, MINIFO_SOURCE,
  after = "systemctl start box@{name}"     # MINIFO_BASE, MINIFO_TARGET, MINIFO_DIR and MINIFO_PARENT;
                                           # the last two hold any {name} and {parent} safely

\b
Examples:
  minifo migrate plan.toml --dry-run
  minifo migrate plan.toml          # again, after it was cut short: goes on with what is not done""",
)
@click.option("--dry-run", "-n", is_flag=True, help="Check every storage; change nothing, run no hooks.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.argument("plan")
def command(plan: str, dry_run: bool, as_json: bool) -> int:
    """Migrate the storages of PLAN, a TOML file.

    Exits with 0 if all are done, with 2 if one failed or was not begun.
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
