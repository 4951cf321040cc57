"""Random damage: bytes flipped, zeroed or cut in the database, its log, the copy of names and content objects.

Whatever was damaged: no traceback, no hang, a second run finds nothing, the overlay mounts and its invariants hold; and
no content is lost but that of files whose rows lay on a changed page, or whose object was changed.  Nothing is found
("clean") where the end of the log is gone, as after a power cut, or where bytes of a file are other bytes now.

By hand, for thousands: ``MINIFO_FUZZ=3000 pytest tests/fsck/test_random_damage.py``.  ``MINIFO_FUZZ`` is the number of
seeds (default 240), ``MINIFO_FUZZ_FIRST`` the first one; a failure names its seed.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator

import apsw
import pytest

from minifo.engine import MinifoError, Overlay
from minifo.engine.fsck.rebuild import open_extraction
from minifo.engine.fsck.session import FsckSession
from tests.fsck.files_at_risk import FilesAtRisk
from tests.fsck.sample_storage import SampleStorage, Tree, tree_of, wrong

_SEEDS = int(os.environ.get("MINIFO_FUZZ", "240"))
_FIRST = int(os.environ.get("MINIFO_FUZZ_FIRST", "0"))
_BATCH = 20
_PAGE = 4096
_NO_ROWS = {"minifo.db", "minifo.db-wal", "minifo.names"}  # what is damaged beside content objects


class Model(SampleStorage):
    """The storage every seed starts from: with a log that was not moved into the database.

    Attributes:
        files_at_risk: where its rows lie.
    """

    files_at_risk: FilesAtRisk


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """One for all seeds."""
    sample = Model()
    _leave_log(sample)
    sample.healthy = _look(sample.base, sample.storage + "-look", sample.storage, sample.inos)
    sample.files_at_risk = FilesAtRisk(sample)
    yield sample
    shutil.rmtree(sample.top)


def _leave_log(sample: SampleStorage) -> None:
    """Commit something and die, so that it is in the log only."""
    from minifo.engine import ROOT, Process

    child = os.fork()
    if child == 0:
        overlay = sample.open()
        for number in range(20):
            attr = overlay.mknod(ROOT, b"late%d" % number, 0o100644, 0, Process())
            overlay.write(attr.ino, 0, b"late" * 50)  # type: ignore[arg-type]
        overlay.commit()
        os._exit(0)
    os.waitpid(child, 0)
    assert os.path.getsize(sample.database + "-wal") > 0


def _look(base: str, copy: str, storage: str, inos: dict[str, int] | None = None) -> Tree:
    """What a storage shows, seen through a copy."""
    shutil.copytree(storage, copy)
    overlay = Overlay.open(base, copy, clone=False)
    try:
        assert overlay.check() == []
        return tree_of(overlay, inos)
    finally:
        overlay.close()
        shutil.rmtree(copy)


def _objects(model: SampleStorage) -> dict[str, set[str]]:
    """The names of the object files that hold each file's bytes."""
    con = apsw.Connection(f"file:{model.database}?mode=ro", flags=apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READONLY)
    try:
        sql = "SELECT ino, object FROM inode WHERE object > 0 UNION SELECT ino, object FROM extent WHERE object > 0"
        rows = con.execute(sql).fetchall()
    finally:
        con.close()
    return {path: {f"{number:x}" for owner, number in rows if owner == ino} for path, ino in model.inos.items()}


def _victims(storage: str) -> list[str]:
    found = [os.path.join(storage, name) for name in ("minifo.db", "minifo.db", "minifo.db-wal", "minifo.names")]
    for holder, _, names in os.walk(os.path.join(storage, "content")):
        found += [os.path.join(holder, name) for name in sorted(names)]
    return found


def _damage(rng: random.Random, storage: str) -> set[str]:
    """Do some damage; the names of the files it was done to."""
    victims = _victims(storage)
    done: set[str] = set()
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        path = rng.choice(victims)
        if not os.path.exists(path):
            continue
        size = os.path.getsize(path)
        done.add(os.path.basename(path))
        kind = rng.choice(("flip", "flip", "page", "page", "cut", "zero", "noise", "delete"))
        with open(path, "r+b") as file:
            if kind == "cut":
                file.truncate(rng.randrange(size + 1))
            elif kind == "flip":
                for _ in range(rng.choice((1, 10, 100))):
                    at = rng.randrange(max(size, 1))
                    file.seek(at)
                    old = file.read(1) or b"\0"
                    file.seek(at)
                    file.write(bytes([old[0] ^ 1 << rng.randrange(8)]))
            elif kind == "page":
                file.seek(rng.randrange(size // _PAGE + 1) * _PAGE)
                file.write(rng.choice((bytes(_PAGE), rng.randbytes(_PAGE))))
            elif kind in ("zero", "noise"):
                length = rng.randrange(1, 2000)
                file.seek(rng.randrange(max(size, 1)))
                file.write(bytes(length) if kind == "zero" else rng.randbytes(length))
        if kind == "delete" and rng.random() < 0.3:
            os.unlink(path)
    return done


def _outcome(seed: int, model: Model, directory: str) -> str:
    """Damage, examine, rescue, repair and mount one copy; what came of it."""
    rng = random.Random(seed)
    storage = os.path.join(directory, "sto")
    shutil.copytree(model.storage, storage)
    damaged = _damage(rng, storage)
    at_risk = model.files_at_risk.of(storage)
    with FsckSession(storage, model.base, write=False) as examination:
        try:
            found = examination.check(full=True, verify=True)
        except MinifoError as error:
            # refused with a reason: whatever it is, rescue still works
            result = open_extraction(examination, []).run(os.path.join(directory, "out"))
            return f"refused: {type(error).__name__}, {'rescued' if result.written else 'nothing to rescue'}"
        open_extraction(examination, found).run(os.path.join(directory, "out"))
    sample = SampleStorage.__new__(SampleStorage)
    sample.base, sample.storage = model.base, storage
    left, result = sample.repair(base=True)
    assert wrong(left) == [], [(f.code, f.path, f.detail) for f in left]
    again = [finding for finding in sample.examine(base=True) if not finding.is_note]
    assert not again, [(f.code, f.path, f.detail) for f in again]
    tree = _look(model.base, storage + "-look", storage)
    whole = sum(tree.get(path) == what for path, what in model.healthy.items())
    lost = {path for path, what in model.healthy.items() if tree.get(path) != what}
    if damaged <= {"minifo.names"}:
        assert not lost
    elif damaged <= {"minifo.names", "minifo.db-wal"}:
        assert all(path.startswith("/late") for path in lost), lost
    spoilt = {path for path, numbers in _objects(model).items() if numbers & damaged}
    if "minifo.db" not in damaged and "minifo.db-wal" not in damaged:
        assert lost <= spoilt, lost
    shown = set(tree.values())
    gone = {path for path in lost & model.files_at_risk.owners if model.healthy[path] not in shown}
    gone = {path for path in gone if model.healthy[path][0] == "file"}
    gone = {path for path in gone if "minifo.db-wal" not in damaged or not path.startswith("/late")}
    assert gone <= spoilt | at_risk, gone - spoilt - at_risk
    kept = _see_checkpoints(model, sample, bool(damaged - _NO_ROWS))
    return (
        ("salvaged" if result is not None else "repaired" if wrong(found) else "clean")
        + (", all there" if whole == len(model.healthy) else ", partly there")
        + f", {kept} checkpoints"
    )


def _see_checkpoints(model: Model, sample: SampleStorage, has_damaged_objects: bool) -> int:
    """Whatever checkpoint is left is what it was, but for what damaged content objects held; how many there are."""
    shutil.copytree(sample.storage, sample.storage + "-states")
    seen = SampleStorage.__new__(SampleStorage)
    seen.base, seen.storage = model.base, sample.storage + "-states"
    states = seen.states()
    shutil.rmtree(seen.storage)
    for name, tree in states.items():
        differs = {path for path, what in model.healthy_states[name].items() if tree.get(path) != what}
        assert has_damaged_objects or not differs, (name, differs)
    return len(states)


@pytest.mark.logs("", always=False)  # whatever the engine says of the damage
@pytest.mark.parametrize("batch", range(max(1, _SEEDS // _BATCH)))
def test_random_damage_is_survived(batch: int, model: Model, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every seed ends in a mounted overlay, or is refused with a reason and rescued."""
    outcomes: Counter[str] = Counter()
    for seed in range(_FIRST + batch * _BATCH, _FIRST + (batch + 1) * _BATCH):
        directory = os.path.join(model.top, f"seed{seed}")
        os.mkdir(directory)
        try:
            outcomes[_outcome(seed, model, directory)] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        finally:
            shutil.rmtree(directory)
    _TOTAL.update(outcomes)


_TOTAL: Counter[str] = Counter()


def test_outcomes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Says how many seeds ended how."""
    with capsys.disabled():
        print("\n" + "\n".join(f"fuzz: {count:5} {what}" for what, count in _TOTAL.most_common()))
