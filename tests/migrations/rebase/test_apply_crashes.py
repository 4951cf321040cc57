"""A rebase that is killed has not happened, or has; storage that is full keeps all of it."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from minifo.engine import StateError
from minifo.migrations.rebase.apply import rebase
from tests.migrations.kill_points import every_crash
from tests.migrations.rebase.test_apply_prepare import fill, names_of, small_disk
from tests.shared.rebase_sandbox import BIG, RebaseSandbox, rewrite

pytestmark = pytest.mark.logs(
    "is not the one of the last mount", "was replaced in the base after a part of it was written here", always=False
)

POLICIES = ["merge:/*text*", "keep-both:/both*", "theirs:/theirs*"]


def updated(rebase_sandbox: RebaseSandbox) -> None:
    """Something for every policy, in rows and in content."""
    text = b"".join(b"line %d\n" % number for number in range(1000))
    for name in ("text", "both", "theirs", "ours", "part", "gone/f"):
        rebase_sandbox.put(name, text if name == "text" else random.Random(name).randbytes(BIG))
    rebase_sandbox.write("text", b"LINE")
    for name in ("both", "theirs", "ours", "gone/f"):
        rebase_sandbox.set(name, size=0)
        rebase_sandbox.write(name, b"ours" * 1000)
    rebase_sandbox.write("part", b"ours", 4096)
    rebase_sandbox.create("both2", b"ours")

    def update(base: Path) -> None:
        rewrite(base, "text", text + b"more\n")
        for name in ("both", "theirs", "ours", "part"):
            rewrite(base, name, b"new" * 3000)
        (base / "both2").write_bytes(b"new")
        shutil.rmtree(base / "gone")

    rebase_sandbox.replace(update)


def test_killed_at_any_step(rebase_sandbox: RebaseSandbox) -> None:
    """All of it or nothing, each time; given again it comes to the same end, and leaves nothing behind."""
    updated(rebase_sandbox)
    before = rebase_sandbox.shown()
    rebase_sandbox.close()
    saved = rebase_sandbox.sto.with_name("saved")
    shutil.copytree(rebase_sandbox.sto, saved)

    def work() -> None:
        rebase(
            str(rebase_sandbox.sto),
            str(rebase_sandbox.base),
            old_base=str(rebase_sandbox.old),
            policies=POLICIES,
            apply=True,
            any_base=True,
        )

    def reset() -> None:
        rebase_sandbox.close()
        shutil.rmtree(rebase_sandbox.sto)
        shutil.copytree(saved, rebase_sandbox.sto)

    reset()
    work()
    after = still(rebase_sandbox)
    assert after != before
    states = []
    for _ in every_crash(reset, work, step=2):
        states.append(rebase_sandbox.shown())
        assert strip(states[-1]) in (strip(before), after)
        rebase_sandbox.check()
        work()
        assert still(rebase_sandbox) == after
        assert {path.name for path in (rebase_sandbox.sto / "content").glob("*/*")} == names_of(rebase_sandbox)
    assert strip(states[0]) == strip(before)
    assert any(strip(state) == after for state in states)


def still(rebase_sandbox: RebaseSandbox) -> dict[str, object]:
    """What shows, and the overlay is closed."""
    shown = strip(rebase_sandbox.shown())
    rebase_sandbox.close()
    return shown


def strip(shown: dict[str, tuple[object, ...]]) -> dict[str, object]:
    """Without the mtime of a file that was merged, which is the time of the merge."""
    return {path: facts[:4] + facts[5:] for path, facts in shown.items()}


@pytest.mark.root
def test_storage_that_is_full(rebase_sandbox: RebaseSandbox, tmp_path: Path) -> None:
    """What does not fit is refused before anything is changed."""
    updated(rebase_sandbox)
    before = rebase_sandbox.shown()
    rebase_sandbox.close()
    with small_disk(tmp_path / "disk", "2m") as disk:
        shutil.copytree(rebase_sandbox.sto, disk / "sto")
        rebase_sandbox.sto = disk / "sto"
        fill(disk, 150_000)
        with pytest.raises(StateError, match=r"bytes are needed in .*, \d+ are free"):
            rebase_sandbox.rebase(*POLICIES, old=True)
        assert rebase_sandbox.shown() == before
        rebase_sandbox.close()
        os.unlink(disk / "fill")
        assert rebase_sandbox.rebase(*POLICIES, old=True).conflicts == []
        rebase_sandbox.close()
