"""``minifo status --drift``: how what an overlay holds stands to a base that was replaced."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from minifo.tools.cli import main
from tests.shared.rebase_sandbox import BIG, RebaseSandbox, remove, rewrite

pytestmark = pytest.mark.logs("is not the one of the last mount", always=False)

EXPECTED = {
    "unchanged": {"/same", "/hidden"},
    "base-changed": {"/part", "/metadata", "/whole"},
    "base-gone": {"/lost"},
    "base-added": {"/added"},
    "became-identical": {"/alike"},
    "orphan-whiteout": {"/deleted"},
    "kind-clash": {"/file", "/clash"},
}


@pytest.fixture
def updated(rebase_sandbox: RebaseSandbox) -> RebaseSandbox:
    """An overlay with something of every kind."""
    for name in ("same", "hidden", "metadata", "whole", "lost", "alike", "deleted", "file"):
        rebase_sandbox.put(name, b"base")
    rebase_sandbox.put("part", os.urandom(BIG))
    for name in ("same", "metadata"):
        rebase_sandbox.set(name, mode=0o600)
    for name in ("whole", "lost", "alike", "file", "part"):
        rebase_sandbox.write(name, b"ours")
    for name in ("hidden", "deleted"):
        rebase_sandbox.unlink(name)
    for name in ("added", "clash", "own"):
        rebase_sandbox.create(name, b"created")

    def update(base: Path) -> None:
        (base / "added").write_bytes(b"the base's")
        for name in ("metadata", "whole", "part"):
            rewrite(base, name, b"another version")
        rewrite(base, "alike", b"ours")
        for name in ("lost", "deleted", "file"):
            remove(base, name)
        for name in ("file", "clash"):
            (base / name).mkdir()

    rebase_sandbox.replace(update)
    return rebase_sandbox


def asked(sandbox: RebaseSandbox, *words: str) -> int:
    """Give the command."""
    sandbox.close()
    return main(["status", "--drift", *words, "--base", str(sandbox.base), str(sandbox.sto)])


def test_kinds(updated: RebaseSandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """Every entry is in one list; a file of two versions needs attention; the table has the counts."""
    assert asked(updated, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    drift = found["drift"]
    assert {kind: {entry["path"] for entry in entries} for kind, entries in drift["entries"].items()} == EXPECTED
    assert drift["counts"] == {kind: len(paths) for kind, paths in EXPECTED.items()}
    assert drift["unreadable"] == 1
    assert "1 file needs another version of the base" in found["attention"][0]
    assert asked(updated) == 1
    lines = capsys.readouterr().out.splitlines()
    for kind, paths in EXPECTED.items():
        assert any(line.split()[:2] == [str(len(paths)), kind] for line in lines), kind


def test_base_as_it_was(updated: RebaseSandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """With the old base in its place, all is unchanged."""
    updated.close()
    assert main(["status", "--drift", "--json", "--base", str(updated.old), str(updated.sto)]) == 0
    counts = json.loads(capsys.readouterr().out)["drift"]["counts"]
    assert counts.pop("unchanged") == 9
    assert set(counts.values()) == {0}
