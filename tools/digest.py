"""``minifo digest``: one hash of all that an overlay changed."""

from __future__ import annotations

import json

import click

from ..engine.queries import digest
from . import _common
from ._complete import targets
from ._listing import AT
from ._output import json_name, plain
from ._target import opened

_KIND = "minifo1"  # what is hashed and how; another number if that ever changes


@click.command(
    "digest",
    epilog="""\b
Same changes, same digest, on any machine over the same base.  Types, modes, owners, bytes, symlink
targets, device numbers and extended attributes count; times, inode numbers and link counts do not.

\b
Examples:
  minifo digest /var/lib/usr-changes
  minifo digest --at night /mnt/etc              # as it was at a checkpoint
  minifo digest --paths /mnt/usr > here          # compare with diff(1) where two digests differ
  minifo digest --expect "$(cat /etc/attested)" /mnt/usr || logger 'not as attested'""",
)
@click.option("--paths", "by_path", is_flag=True, help="A digest of every path that differs from the base, too.")
@click.option("--expect", metavar="DIGEST", help="Exit with 1 if the digest is another one.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --paths one for each path before it.")
@click.option("--base", metavar="DIR", help="The base, where it is not the one of the last mount.")
@AT
@click.argument("target", default=".", shell_complete=targets)
def command(target: str, by_path: bool, expect: str | None, as_json: bool, base: str | None, at: str | None) -> int:
    """Print one hash of all that the overlay TARGET changed."""
    _common.log_to_stderr("minifo")
    with opened(target, base, at=at) as overlay:
        found = list(digest.differences(overlay))
    whole = f"{_KIND}:{digest.digest(found).hex()}"
    for path, of_path in found if by_path else ():
        value = of_path.hex() if any(of_path) else None
        if as_json:
            click.echo(json.dumps({"digest": value, **json_name("path", path)}))
        else:
            click.echo(f"{value or 'absent':64}  {plain(path)}")
    click.echo(json.dumps({"digest": whole, "paths": len(found)}) if as_json else whole)
    if expect is not None and expect.strip() != whole:
        click.echo(
            "minifo: the digest is another one than expected; minifo digest --paths tells of which path", err=True
        )
        return 1
    return 0
