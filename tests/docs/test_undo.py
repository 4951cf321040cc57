"""docs/undo.md, done as it stands: every command in it, one after the other, with what it says there."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, minifo_program, run

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "undo.md"
_OURS = re.compile(r"(?<![\w./~-])/(?=(?:mnt|var/lib|etc)\b)")
#: What differs from run to run: times, ages, and estimated bytes with the blanks around them.
_VARIES = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d| +\d+ (?:s|min|h|bytes)(?= )|  +")


@pytest.fixture
def sandbox(fuse_required: None) -> Iterator[MountSandbox]:
    """A place to mount things in."""
    made = MountSandbox()
    try:
        yield made
    finally:
        made.close()


def steps() -> list[tuple[str, list[str]]]:
    """The commands of the document, each with the lines that it is to print."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


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
    env = {**os.environ, "PATH": f"{Path(minifo_program()).parent}:{os.environ['PATH']}", "TZ": "UTC"}
    for command, expected in steps():
        line = _OURS.sub(f"{root}/", command)
        done = subprocess.run(
            ["sh", "-c", line],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (command, done.stdout)
        said = done.stdout.replace(f"{root}/", "/").splitlines()
        assert [plain(text) for text in said] == [plain(text) for text in expected], command


def plain(line: str) -> str:
    """A line without what varies."""
    return " ".join(_VARIES.sub(" ", line).split())


def test_the_document_has_commands() -> None:
    """Each verb of the family is in it."""
    verbs = {tuple(command.split()[1:3]) for command, _ in steps() if command.startswith("minifo")}
    named = {"create", "list", "diff", "pin", "rename", "prune", "delete"}
    assert {second for first, second in verbs if first == "checkpoint"} == named
    assert {"rollback", "undo", "redo", "revert", "trial", "confirm", "clone"} <= {first for first, _ in verbs}
