"""``minifo-fsck --verify-data``: bytes that changed by themselves are told by the paths that show them."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from minifo.engine.fsck.session import FsckSession
from minifo.engine.store.object_paths import object_name
from minifo.tools import fsck_helper
from tests.fsck.sample_storage import SampleStorage, fingerprint, kept, unprivileged, wrong
from tests.shared.digests import record_digests, recorded
from tests.shared.file_trees import change_rows
from tests.shared.overlay_sandbox import OverlaySandbox

BIG = os.urandom(300_000)


@pytest.fixture
def sandbox() -> Iterator[OverlaySandbox]:
    """A base file, and three files in storage, of which a checkpoint has frozen two; nothing is open."""
    top = Path(tempfile.mkdtemp(prefix="minifo-data-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    found = OverlaySandbox(top)  # not in pytest's directory, which only its owner may enter
    found.put("base", os.urandom(400_000))
    found.create("a", b"a" + BIG)
    found.write("base", b"ours" * 2000, 100_000)
    found.ov.checkpoints.create("one")
    found.create("later", BIG)
    found.close()
    yield found
    found.close()
    shutil.rmtree(top)


def flip(path: Path, at: int = 5000, bit: int = 1) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ bit]))


def place(sandbox: OverlaySandbox, path: str) -> Path:
    """The object with bytes of a file; the overlay is closed afterwards."""
    sql = "SELECT object FROM inode WHERE ino = ?1 AND object UNION SELECT object FROM extent WHERE ino = ?1 AND object"
    number = sandbox.ov.db.value(sql, (sandbox.ino(path),))
    sandbox.close()
    return sandbox.sto / object_name(number)


def verify(sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str], *options: str, code: int = 0) -> dict[str, Any]:
    """What fsck says."""
    capfd.readouterr()
    assert fsck_helper.main(["--verify-data", "--json", *options, str(sandbox.sto)]) == code
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def test_y_records_what_is_missing(sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """Only of what is frozen; -n and -p record nothing; a second -y has nothing to record."""
    before = kept(str(sandbox.sto))
    for option in ("-n", "-p"):
        data = verify(sandbox, capfd, option)["data"]
        assert (data["objects"], data["verified"], data["without_digest"], data["recorded"]) == (3, 0, 2, 0)
    assert kept(str(sandbox.sto)) == before
    data = verify(sandbox, capfd, "-y")["data"]
    assert (data["verified"], data["without_digest"], data["recorded"]) == (0, 0, 2)
    before = kept(str(sandbox.sto))
    data = verify(sandbox, capfd, "-y")["data"]
    assert (data["verified"], data["without_digest"], data["recorded"]) == (2, 0, 0)
    assert kept(str(sandbox.sto)) == before
    assert len(recorded(sandbox.ov)) == 2
    assert sandbox.ov.check() == []


def test_the_same_from_a_mount_and_from_fsck(sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """Both record the same digests."""
    verify(sandbox, capfd, "-y")
    mine = recorded(sandbox.ov)
    sandbox.close()
    change_rows(str(sandbox.sto / "minifo.db"), {}, ("DELETE FROM object_digest",))
    record_digests(sandbox.ov)
    assert recorded(sandbox.ov) == mine != {}


@pytest.mark.parametrize("name", ["a", "base"])
def test_changed_bytes_are_told(sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str], name: str) -> None:
    """With the path today, and in each checkpoint; nothing repairs them, and every other object is verified."""
    verify(sandbox, capfd, "-y")
    path = place(sandbox, name)
    flip(path, at=path.stat().st_size - 1000)
    sandbox.mkdir("d")
    sandbox.rename(name, "d/moved")
    sandbox.ov.checkpoints.create("two")
    sandbox.close()
    said = verify(sandbox, capfd, "-y", code=4)
    (found,) = said["findings"]
    assert (found["code"], found["path"], found["repair"]) == ("E307", "/d/moved", None)
    assert found["detail"].endswith(f"bytes; also in checkpoints two, one (/{name})")
    assert said["data"]["damaged"] == [
        {
            "object": int(found["detail"].split(":")[0].split()[1]),
            "path": "/d/moved",
            "checkpoints": [{"name": "two", "path": "/d/moved"}, {"name": "one", "path": f"/{name}"}],
        }
    ]
    assert (said["data"]["objects"], said["data"]["verified"], said["data"]["recorded"]) == (3, 1, 1)
    sandbox.unlink("d/moved")
    sandbox.close()
    (found,) = verify(sandbox, capfd, "-n", code=4)["findings"]
    assert found["path"] == "/d/moved"
    assert "; only in checkpoints two (/d/moved), one" in found["detail"]
    assert fsck_helper.main(["--verify-data", str(sandbox.sto)]) == 4
    out = capfd.readouterr().out
    assert "3 content objects read (" in out
    assert ", 2 as recorded" in out
    assert "minifo revert" in out
    sandbox.ov.checkpoints.delete(["one", "two"])
    sandbox.close()
    assert verify(sandbox, capfd, "-n")["clean"]


def test_each_flip_is_found(sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """Wherever the byte is, and in zeros too; one flipped back is none."""
    sandbox.set("a", size=700_000)
    sandbox.ov.checkpoints.create("two")
    sandbox.close()
    verify(sandbox, capfd, "-y")
    path = place(sandbox, "a")
    size = path.stat().st_size
    for seed in range(8):
        at, bit = random.Random(seed).randrange(size), 1 << seed
        flip(path, at, bit)
        assert [found["code"] for found in verify(sandbox, capfd, "-n", code=4)["findings"]] == ["E307"]
        flip(path, at, bit)
    assert verify(sandbox, capfd, "-n")["clean"]


def test_what_is_written_in_place_is_no_damage(sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """An object that no checkpoint has frozen has no digest, so its bytes may be any."""
    verify(sandbox, capfd, "-y")
    flip(place(sandbox, "later"))
    assert verify(sandbox, capfd, "-n")["clean"]


def test_an_object_that_cannot_be_read_is_told_and_the_others_verified(
    sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str]
) -> None:
    """Beside one with other bytes."""
    verify(sandbox, capfd, "-y")
    flip(place(sandbox, "base"), at=100_100)
    os.chmod(place(sandbox, "a"), 0)
    with unprivileged(str(sandbox.sto.parent)):
        said = verify(sandbox, capfd, "-n", code=4)
    assert {(found["code"], found["path"]) for found in said["findings"]} == {("E305", "/a"), ("E307", "/base")}
    assert said["data"]["objects"] == 2


def test_an_object_that_was_cut(sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """A repair lets its end read as zeros and marks the file; its digest is gone then, and a new one is recorded."""
    verify(sandbox, capfd, "-y")
    os.truncate(place(sandbox, "base"), 101_000)
    codes = [found["code"] for found in verify(sandbox, capfd, "-n", code=4)["findings"]]
    assert codes == ["E302", "E307"]
    verify(sandbox, capfd, "-y", code=1)
    # the repair has frozen all objects that there are
    assert verify(sandbox, capfd, "-y")["data"]["recorded"] == 2
    assert verify(sandbox, capfd, "-n")["clean"]


def test_a_read_only_medium_is_verified(sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is written, and fsck says why nothing is recorded."""
    place(sandbox, "a")
    before = fingerprint(str(sandbox.sto))
    subprocess.run(["mount", "--bind", "-o", "ro", sandbox.sto, sandbox.sto], check=True)
    try:
        data = verify(sandbox, capfd, "-y")["data"]
    finally:
        subprocess.run(["umount", sandbox.sto], check=True)
    assert (data["objects"], data["without_digest"], data["recorded"]) == (3, 2, 0)
    assert fingerprint(str(sandbox.sto)) == before


def test_with_problems_left_nothing_is_recorded(sandbox: OverlaySandbox) -> None:
    """Rows that are damaged may say of the wrong objects that they are frozen."""
    with FsckSession(str(sandbox.sto), write=True) as session:
        found = session.check(verify=True)
        assert wrong(found) == []
        assert session.data is not None
        assert len(session.data.new) == 2
        change_rows(str(sandbox.sto / "minifo.db"), {}, ("UPDATE overlay SET value = 1 WHERE key = 'next_object'",))
        left = session.check(verify=True)
        assert wrong(left) == ["E208"]
        session.data.record(session.storage, left)
        assert session.data.report.recorded == 0


def test_holes_cost_nothing(sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """An object of a terabyte, most of which is a hole; the rows of a stranger may say anything of it."""
    path = place(sandbox, "a")
    os.truncate(path, 1 << 40)
    data = verify(sandbox, capfd, "-y")["data"]
    assert data["bytes"] < 2_000_000
    assert data["recorded"] == 2
    os.truncate(path, (1 << 40) + 1)
    assert [found["code"] for found in verify(sandbox, capfd, "-n", code=4)["findings"]] == ["E307"]
    con = apsw.Connection(str(sandbox.sto / "minifo.db"))
    con.execute("UPDATE object_digest SET size = 9223372036854775807")
    con.close()
    said = verify(sandbox, capfd, "-y", code=1)
    assert [found["code"] for found in said["findings"]] == ["E020", "E020"]
    assert said["data"]["recorded"] == 2
    assert verify(sandbox, capfd, "-n")["data"]["verified"] == 2


def test_progress_is_told_within_a_large_object(sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """Not only after each."""
    sandbox.create("large", os.urandom(5 << 20))
    sandbox.ov.commit()
    sandbox.close()
    done: list[int] = []
    with FsckSession(str(sandbox.sto), write=False) as session:
        session.check(verify=True, progress=lambda what, now, total: done.append(now) if "content" in what else None)
        assert sorted(done) == done
        assert len([now for now in done if 600_000 < now < 5 << 20]) >= 4
        assert done[-1] == sum(session.inventory.sizes.values())


@pytest.mark.parametrize("lost", [False, True])
def test_a_rebuild_keeps_sound_digests_or_none(
    sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str], lost: bool
) -> None:
    """With the checkpoints; if pages of their table are lost, others may be older than their objects."""
    verify(sandbox, capfd, "-y")
    database = sandbox.sto / "minifo.db"
    con = apsw.Connection(str(database))
    page = con.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'object_digest'").fetchall()[0][0]
    con.close()
    with database.open("r+b") as file:
        file.seek((page - 1) * 4096 if lost else 0)
        file.write(b"\xff" * (4096 if lost else 16))
    said = verify(sandbox, capfd, "-y", code=1)
    assert said["salvage"]["checkpoints_kept"] == ["one"]
    data = verify(sandbox, capfd, "-n")["data"]
    assert (data["verified"], data["without_digest"]) == (2, 0)
    assert said["data"]["recorded"] == (2 if lost else 0)


def test_a_killed_daemon_comes_first(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """While its last operations wait in memory for the next mount, nothing is recorded."""
    from tests.fsck.test_problems import _kill

    _kill(sample)
    assert fsck_helper.main(["-y", "--verify-data", "--json", sample.storage]) == 0
    data = json.loads(capfd.readouterr().out)["data"]
    assert data["recorded"] == 0
    assert data["without_digest"] > 0
