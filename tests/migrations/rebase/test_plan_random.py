"""Overlays and new bases made by chance: what every policy promises holds for all of them.

How many of them is set by REBASE_SEEDS.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from minifo.engine import FsError
from minifo.engine.rebase.drift_report import Held
from minifo.migrations.rebase.plan import Action
from tests.shared.overlay_sandbox import PAST
from tests.shared.rebase_sandbox import BIG, RebaseSandbox, Shown, remove, rewrite

pytestmark = pytest.mark.logs(
    "is not the one of the last mount", "was replaced in the base after a part of it was written here", always=False
)

_SEEDS = range(int(os.environ.get("REBASE_SEEDS", "12")))
_OPERATIONS = 40


def fill(rebase_sandbox: RebaseSandbox, rng: random.Random) -> None:
    """A base of some directories and files, large ones and linked ones among them."""
    places = ["", "a", "a/b", "c", "c/d"]
    for place in places[1:]:
        (rebase_sandbox.base / place).mkdir()
    for number in range(14):
        path = os.path.join(rng.choice(places), f"f{number}")
        rebase_sandbox.put(path, rng.randbytes(BIG) if number % 4 == 0 else b"base %d\n" % number * 9)
    files = [path for path in rebase_sandbox.base.rglob("*") if path.is_file()]
    os.link(rng.choice(files), rebase_sandbox.base / "hard")
    (rebase_sandbox.base / "soft").symlink_to("a")


def scramble(rebase_sandbox: RebaseSandbox, rng: random.Random) -> None:
    """Do things by chance; what is not possible is left out."""
    for number in range(_OPERATIONS):
        shown = rebase_sandbox.shown()
        paths = sorted(shown)
        directories = ["", *(path for path in paths if stat.S_ISDIR(shown[path][0]))]  # type: ignore[arg-type]
        files = [path for path in paths if stat.S_ISREG(shown[path][0])]  # type: ignore[arg-type]
        if not files:
            return
        path, file = rng.choice(paths), rng.choice(files)
        new, place = os.path.join(rng.choice(directories), f"n{number}"), rng.choice(directories)
        todo: list[Callable[[], object]] = [
            lambda f=file: rebase_sandbox.write(f, b"ours", rng.choice([0, 5000])),  # type: ignore[misc]
            lambda f=file: rebase_sandbox.set(f, size=rng.choice([0, 3, 9000])),  # type: ignore[misc]
            lambda p=path: rebase_sandbox.set(p, mode=0o700),  # type: ignore[misc]
            lambda p=path, n=new: rebase_sandbox.rename(p, n),  # type: ignore[misc]
            lambda p=path, q=file: rebase_sandbox.rename(p, q),  # type: ignore[misc]
            lambda f=file, n=new: [rebase_sandbox.create(n, b"saved"), rebase_sandbox.rename(n, f)],  # type: ignore[misc]
            lambda f=file, n=new: rebase_sandbox.link(f, n),  # type: ignore[misc]
            lambda f=file: rebase_sandbox.unlink(f),  # type: ignore[misc]
            lambda n=new: rebase_sandbox.create(n, b"made"),  # type: ignore[misc]
            lambda n=new: rebase_sandbox.mkdir(n),  # type: ignore[misc]
            lambda d=place: rebase_sandbox.rmdir(d),  # type: ignore[misc]
            lambda f=file: rebase_sandbox.ov.setxattr(rebase_sandbox.ino(f), b"user.x", b"1"),  # type: ignore[misc]
        ]
        with contextlib.suppress(FsError):
            rng.choice(todo)()


def update(base: Path, rng: random.Random, shown: Shown) -> None:
    """Another base: things gone, changed, of another kind, and new where the overlay has names."""
    for path in sorted(base.rglob("*"), reverse=True):
        name = str(path.relative_to(base))
        chance = rng.random()
        if chance < 0.25:
            remove(base, name)
        elif chance < 0.45 and path.is_file() and not path.is_symlink():
            rewrite(base, name, rng.choice([b"new\n" * 20, path.read_bytes() + b"!"]))
        elif chance < 0.6:
            is_dir = path.is_dir() and not path.is_symlink()
            remove(base, name)
            if is_dir:
                path.write_bytes(b"a file now")
            else:
                path.mkdir()
    for name in rng.sample(sorted(shown), min(4, len(shown))):
        path = base / name
        if path.parent.is_dir() and not os.path.lexists(path):
            path.write_bytes(b"new in the base")
            os.utime(path, ns=(PAST, PAST))


def readable(shown: Shown) -> Shown:
    """What shows and can be read, without link counts: of what is gone they count links in the old base."""
    return {path: (*facts[:3], *facts[4:]) for path, facts in shown.items() if facts[-1] != errno.EIO}


@pytest.mark.parametrize("seed", _SEEDS)
@pytest.mark.parametrize("policy", ["ours", "theirs", "keep-both", "merge", "mixed"])
def test_promises_of_policies(rebase_sandbox: RebaseSandbox, seed: int, policy: str) -> None:
    """The tables stay sound; only what a policy is for is another; a second time there is nothing to do."""
    rng = random.Random(seed)
    fill(rebase_sandbox, rng)
    scramble(rebase_sandbox, rng)
    shown = rebase_sandbox.shown()
    rebase_sandbox.replace(lambda base: update(base, rng, shown))
    before = rebase_sandbox.shown()
    rebase_sandbox.check()
    has_old = rng.random() < 0.5
    policies = ["theirs:/a", "keep-both:/c", "merge:/*1*"] if policy == "mixed" else [policy]
    plan = rebase_sandbox.rebase(*policies, old=has_old, apply=False)
    assert rebase_sandbox.shown() == before
    report = rebase_sandbox.rebase(*policies, old=has_old)
    assert len(report.decisions) == len(plan.decisions)
    after = rebase_sandbox.shown()
    if policy == "ours":
        assert after.keys() == before.keys()
        assert readable(after).items() >= readable(before).items()
        assert not has_old or readable(after).keys() == after.keys()
    elif policy == "keep-both":
        assert readable(after).items() >= readable(before).items()
        assert all(path.endswith(".minifo-new") for path in after.keys() - before.keys())
    again = rebase_sandbox.rebase(*policies, old=has_old)
    # of what was replaced nothing notes whether it is settled
    left = {decision.action for decision in again.decisions if decision.entry.held is not Held.REPLACED}
    assert left <= {Action.WAIT, Action.CONFLICT}
    # what was moved over a name of the base counts as replaced once it is ours
    fresh = {os.fsdecode(decision.entry.path)[1:] for decision in again.decisions}
    fresh -= {
        os.fsdecode(decision.entry.path)[1:] for decision in report.decisions if decision.entry.held is Held.REPLACED
    }
    settled = rebase_sandbox.shown()
    for path in fresh | {f"{path}.minifo-new" for path in fresh}:
        settled.pop(path, None)
        after.pop(path, None)
    assert settled == after
