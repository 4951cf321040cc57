"""docs/undo.md, done as it stands: every command in it, one after the other, with what it says there."""

from __future__ import annotations

import pytest

from tests.docs.document import check, steps
from tests.mount.mount_sandbox import MountSandbox, run

DOCUMENT = "undo.md"


@pytest.mark.timeout(300)
def test_every_command(sandbox: MountSandbox) -> None:
    """Each succeeds, and prints what the reader is told."""
    root = sandbox.directory()
    for name in ("etc/cron.d", "mnt/etc", "var/lib/etc-changes"):
        (root / name).mkdir(parents=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/cron.d/job").write_text("job\n")
    sandbox.undo(
        lambda: [run("umount", "-l", "-i", root / "mnt" / name, check=False) for name in ("etc", "was", "fork")]
    )
    for command, expected in steps(DOCUMENT):
        check(root, command, expected)


def test_the_document_has_commands() -> None:
    """Each verb of the family is in it."""
    verbs = {tuple(command.split()[1:3]) for command, _ in steps(DOCUMENT) if command.startswith("minifo")}
    named = {"create", "list", "diff", "pin", "rename", "prune", "delete"}
    assert {second for first, second in verbs if first == "checkpoint"} == named
    verbs_of_going_back = {"rollback", "undo", "redo", "revert", "reset", "keep-list", "trial", "confirm", "clone"}
    assert verbs_of_going_back <= {first for first, _ in verbs}
