"""The bytes that checkpoints take, compared with what their deletion frees on disk."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.engine import Overlay
from minifo.engine.queries.checkpoint_sizes import Sizes, oldest_beyond, sizes
from tests.shared.overlay_sandbox import OverlaySandbox

BIG = b"x" * 300_000
_ROWS = 40_000  # bytes that the rows of these checkpoints take at most: less than one content object


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """A base with a file, and an empty storage."""
    found = OverlaySandbox(tmp_path)
    found.put("f", BIG)
    yield found
    found.close()


def test_own_and_shared(sandbox: OverlaySandbox) -> None:
    """A file that is there still is shared; one that is gone belongs to the checkpoint that has it alone."""
    sandbox.create("stays", BIG)
    sandbox.create("goes", BIG)
    points = sandbox.ov.checkpoints
    one, two = points.create("one").id, points.create("two").id
    sandbox.unlink("goes")
    three = points.create("three").id
    found = sizes(sandbox.ov)
    assert found[three] == Sizes(0, 303_104)  # 74 blocks
    assert found[one] == Sizes(0, 2 * 303_104)
    assert found[two].shared == 2 * 303_104
    points.delete(["one"])
    found = sizes(sandbox.ov)
    assert 303_104 < found[two].own < 303_104 + 1000
    assert found[two].shared == 303_104
    assert sizes(sandbox.reopen()) == found


def test_no_checkpoint(sandbox: OverlaySandbox) -> None:
    """Nothing is taken."""
    sandbox.create("a", BIG)
    assert sizes(sandbox.ov) == {}
    sandbox.ov.commit()
    assert oldest_beyond(sandbox.ov, [], [], 0) == []


def test_a_lost_object_takes_nothing(sandbox: OverlaySandbox) -> None:
    """Damage keeps nobody from the list."""
    sandbox.create("a", BIG)
    one = sandbox.ov.checkpoints.create("one").id
    for path in (sandbox.sto / "content").glob("*/*"):
        path.unlink()
    assert sizes(sandbox.ov)[one] == Sizes(0, 0)


def _random_history(sandbox: OverlaySandbox, seed: int) -> None:
    """Seven checkpoints among random changes of large files."""
    chosen = random.Random(seed)
    points = sandbox.ov.checkpoints
    for turn in range(60):
        name = f"n{chosen.randrange(6)}"
        there = sandbox.find(name) is not None
        match chosen.randrange(6):
            case 0 if there:
                sandbox.unlink(name)
            case 1 if there:
                sandbox.set(name, size=chosen.choice([0, 100_000, 400_000]))
            case 2 if there:
                sandbox.write(name, BIG, chosen.choice([0, 200_000, 1_000_000]))
            case 3:
                sandbox.write("f", b"ours", chosen.choice([0, 8192, 100_000]))
            case _ if not there:
                sandbox.create(name, BIG)
        if turn % 9 == 4:
            points.create(f"c{turn}")
        if turn % 25 == 24:
            points.rollback(chosen.choice(points.all()).name)
    sandbox.ov.commit()


def _freed(sandbox: OverlaySandbox, copy: Path, ids: list[int]) -> int:
    """The bytes of content that go from a copy of storage with some checkpoints."""
    subprocess.run(["cp", "-a", sandbox.sto, copy], check=True)  # keeps holes
    Overlay.open(str(sandbox.base), str(copy)).close()
    before = _content(copy)
    overlay = Overlay.open(str(sandbox.base), str(copy))
    overlay.checkpoints.delete([point.name for point in overlay.checkpoints.all() if point.id in ids])
    overlay.close()
    return before - _content(copy)


def _content(storage: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in (storage / "content").glob("*/*"))


@pytest.mark.parametrize("seed", range(4))
def test_own_is_what_deletion_frees(sandbox: OverlaySandbox, tmp_path: Path, seed: int) -> None:
    """Of each checkpoint of a random history; and of as many as a limit makes go."""
    _random_history(sandbox, seed)
    found = sizes(sandbox.ov)
    sandbox.close()
    for number, (own, _) in found.items():
        freed = _freed(sandbox, tmp_path / f"without-{number}", [number])
        assert 0 <= own - freed < _ROWS, number
    ids = sorted(found)
    everything = _freed(sandbox, tmp_path / "without-all", ids)
    for limit in (everything // 2, everything // 4, 0):
        gone = oldest_beyond(sandbox.ov, [], ids, limit)
        freed = _freed(sandbox, tmp_path / f"limit-{limit}", gone)
        assert everything - freed <= limit
        fewer = _freed(sandbox, tmp_path / f"limit-less-{limit}", gone[:-1])
        assert everything - fewer > limit - _ROWS  # one less would not do
        for name in (f"limit-{limit}", f"limit-less-{limit}"):
            shutil.rmtree(tmp_path / name)
