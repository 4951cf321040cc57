"""minifo-fsck as a program: exit bits, words, JSON, mounted and read-only storages, and salvage by numbers."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minifo.engine import ROOT, Ino, Overlay, Process, StateError
from minifo.engine.fsck.session import FsckSession
from minifo.engine.store.backup_format import pack
from minifo.engine.store.database_file import SCHEMA_VERSION
from minifo.tools import cli, fsck_helper
from tests.fsck.sample_storage import SampleStorage, fingerprint, kept, unprivileged, without_lost_found, wrong

_FILES = 1000


def run(*arguments: str) -> int:
    """The program's exit code."""
    return fsck_helper.main(list(arguments))


def test_clean_storage_is_0(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """One line says so."""
    assert run(sample.storage) == 0
    assert capfd.readouterr().out == f"minifo-fsck: {sample.storage}: clean\n"


def test_exit_bits_of_a_repair(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """4 while something is left, 1 when it was mended; both where only the safe part was."""
    sample.sql("UPDATE inode SET nlink = 7 WHERE ino = {/large}", "DELETE FROM inode WHERE ino = {/empty}")
    assert run("-n", sample.storage) == 4
    assert run("-p", sample.storage) == 5
    assert run("-y", sample.storage) == 1
    assert run(sample.storage) == 0
    out, err = capfd.readouterr()
    assert "E010 error: /large: a link count is not the number of names" in out
    assert err == ""
    assert sum(name.startswith("minifo.db.bak-") for name in os.listdir(sample.storage)) >= 2
    sample.look()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-n", "-y", "STO"], 16, "-n and -y exclude each other"),
        (["-p", "-y", "STO"], 16, "exclude each other"),
        (["-x", "STO"], 16, "option -x not recognized"),
        ([], 16, "0 arguments instead of 1"),
        (["STO", "STO"], 16, "2 arguments instead of 1"),
        (["-Cx", "STO"], 16, "-C takes an open file descriptor"),
        (["-C999999", "STO"], 16, "-C takes an open file descriptor"),
        (["-y", "--rescue", "out", "STO"], 16, "--rescue changes nothing"),
        (["/nosuch"], 8, "/nosuch is not a directory"),
        (["EMPTY"], 8, "is not the storage of an overlay"),
        (["--base", "/nosuch", "STO"], 8, "base /nosuch does not exist"),
        (["--rescue", "STO", "STO"], 8, "is not empty"),
    ],
)
def test_wrong_requests_are_one_line(
    arguments: list[str], code: int, said: str, sample: SampleStorage, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """8 or 16, a plain sentence, and nothing is touched."""
    before = fingerprint(sample.storage)
    places = {"STO": sample.storage, "EMPTY": str(tmp_path)}
    assert run(*(places.get(argument, argument) for argument in arguments)) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert fingerprint(sample.storage) == before


@pytest.mark.parametrize("damage", [(), (4096, 65536), (0, 16)], ids=["whole", "pages", "header"])
@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, SCHEMA_VERSION + 7, 9999])
def test_newer_database_is_left_alone(
    version: int, damage: tuple[int, ...], sample: SampleStorage, capfd: pytest.CaptureFixture[str]
) -> None:
    """A program that went back to an older version changes nothing, in no mode, not even where pages are damaged."""
    sample.sql(f"PRAGMA user_version = {version}")
    if damage:
        with open(sample.database, "r+b") as file:
            file.seek(damage[0])
            file.write(bytes(damage[1] - damage[0]))
    before = kept(sample.storage)
    for mode in ("-n", "-p", "-y"):
        assert run(mode, "-f", sample.storage) == 8
        out, err = capfd.readouterr()
        assert out == ""
        assert f"has format {version}, this minifo knows up to {SCHEMA_VERSION}; install a newer minifo" in err
        assert err.count("\n") == 1
    assert kept(sample.storage) == before


def test_copy_of_names_of_a_newer_database_is_left_alone(
    sample: SampleStorage, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where only the copy of names is left of it, rows that mean something else are not made ours."""
    os.unlink(sample.database)
    copy = Path(sample.storage, "minifo.names")
    copy.write_bytes(pack(SCHEMA_VERSION + 1, "overlay", [("uuid", "x")]) + copy.read_bytes())
    before = kept(sample.storage)
    assert run("-y", sample.storage) == 8
    assert "install a newer minifo" in capfd.readouterr().err
    assert kept(sample.storage) == before


def test_copy_of_names_that_cannot_be_read_is_made_anew(sample: SampleStorage) -> None:
    """Whatever stands in it, a mount does not mind, and writes another."""
    copy = Path(sample.storage, "minifo.names")
    copy.write_bytes(b"anything")
    sample.look()
    os.unlink(sample.database)
    assert run("-y", sample.storage) == 1
    assert without_lost_found(sample.look()) == sample.healthy


def test_older_database_is_left_alone(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """A format of before is brought over by its own command."""
    sample.sql(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")
    before = kept(sample.storage)
    assert run("-y", sample.storage) == 8
    assert "minifo upgrade" in capfd.readouterr().err
    with pytest.raises(StateError, match="minifo upgrade"):
        sample.open()
    assert kept(sample.storage) == before


def test_foreign_database_is_left_alone(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """-y does not make it ours."""
    os.unlink(sample.database)
    sample.sql("CREATE TABLE songs (title TEXT)")
    assert run("-y", sample.storage) == 8
    assert "not one of minifo's" in capfd.readouterr().err


def test_json_is_one_document(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """With the codes, whether something was repaired, and names of any bytes."""
    sample.sql(
        "UPDATE created SET name = x'ff0a' WHERE ino = {/large}", "UPDATE inode SET nlink = 7 WHERE ino = {/large}"
    )
    assert run("--json", "-n", sample.storage) == 4
    document = json.loads(capfd.readouterr().out)
    assert [(f["code"], f["path"], f["repaired"]) for f in document["findings"]] == [("E010", "/\udcff\n", False)]
    assert (document["format"], document["clean"], document["exit"]) == (1, False, 4)
    assert run("--json", "-y", sample.storage) == 1
    document = json.loads(capfd.readouterr().out)
    assert [(f["code"], f["repaired"]) for f in document["findings"]] == [("E010", True)]
    assert document["clean"]


def test_subcommand_is_the_same(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """``minifo fsck`` takes the same options."""
    assert cli.main(["fsck", "-n", "-f", sample.storage]) == 0
    assert capfd.readouterr().out == f"minifo fsck: {sample.storage}: clean\n"
    assert cli.main(["fsck", "-n", "-y", sample.storage]) == 16


def test_source_text_of_a_mount_is_taken(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """fsck(8) passes what stands first in fstab."""
    assert run("-a", "-C0", f"base={sample.base},sto={sample.storage}") == 0
    assert sample.storage in capfd.readouterr().out


def test_held_storage_is_only_read(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """While a writer has it, even -y changes nothing, and says who holds it."""
    sample.sql("UPDATE inode SET nlink = 7 WHERE ino = {/large}")
    overlay = sample.open()
    try:
        overlay.mkdir(ROOT, b"now", 0o755, Process())
        assert run("-y", sample.storage) == 4
        assert f"in use by process {os.getpid()}" in capfd.readouterr().out
        assert run("-n", sample.storage) == 4
        assert f"mounted (process {os.getpid()})" in capfd.readouterr().out
        overlay.commit()
    finally:
        overlay.close()


def test_what_a_mount_does_meanwhile_is_no_finding(sample: SampleStorage) -> None:
    """Objects come and go between a look at content/ and the rows that are read."""
    gone = sample.object_of("/large")
    overlay = sample.open()
    overlay.checkpoints.delete(list(sample.healthy_states))  # they would keep the object
    try:
        with FsckSession(sample.storage, write=False) as examination:
            attr = overlay.mknod(ROOT, b"later", 0o100644, 0, Process())
            overlay.write(Ino(attr.ino), 0, bytes(range(250)) * 40)
            large = overlay.lookup(ROOT, b"large")
            assert large is not None
            overlay.unlink(ROOT, b"large")
            overlay.forget([Ino(large.ino)])
            overlay.commit()
            assert not os.path.exists(gone)
            assert wrong(examination.check(verify=True)) == []
    finally:
        overlay.close()


@pytest.mark.usefixtures("fuse_required")
def test_medium_that_cannot_be_written_is_checked(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """Also after a crash, with a log beside the database: nothing is made there."""
    child = os.fork()
    if child == 0:
        overlay = sample.open()
        overlay.mkdir(ROOT, b"late", 0o755, Process())
        overlay.commit()
        os._exit(0)
    os.waitpid(child, 0)
    target = os.path.join(sample.top, "ro")
    os.mkdir(target)
    subprocess.run(["mount", "--bind", sample.storage, target], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", target], check=True)
        assert run("-n", "-f", target) == 0
        assert run("-y", target) == 0
    finally:
        subprocess.run(["umount", target], check=True)
    assert "clean" in capfd.readouterr().out


def test_questions_are_asked_on_a_terminal(sample: SampleStorage) -> None:
    """Without an option each repair is asked for; only what is agreed to is done."""
    sample.sql("UPDATE inode SET nlink = 7 WHERE ino = {/large}", "UPDATE inode SET nlink = 8 WHERE ino = {/empty}")
    master, slave = pty.openpty()
    code = "import sys; from minifo.tools.fsck_helper import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", code, sample.storage], stdin=slave, stdout=slave, stderr=slave
    ) as process:
        os.close(slave)
        os.write(master, b"y\nn\n")
        assert process.wait(60) == 5
    os.close(master)
    assert len(sample.examine()) == 1


def test_progress_goes_to_a_descriptor(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """Lines that fsck(8) turns into a bar."""
    reader, writer = os.pipe()
    assert run(f"-C{writer}", "--verify-data", sample.storage) == 0
    os.close(writer)
    with os.fdopen(reader) as file:
        lines = file.read().splitlines()
    assert all(line.startswith("1 ") and line.endswith(sample.storage) for line in lines)
    assert lines


def test_rescue_writes_plain_files(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """All that was changed comes out at its path, the base's part of it included, and nothing in storage changes."""
    before = fingerprint(sample.storage)
    target = Path(sample.top, "out")
    assert run("--rescue", str(target), "--base", sample.base, sample.storage) == 0
    for path in ["small", "made/hard", "large", "made/one", "made/sub/two", "big", "holed", "copied", "newfile"]:
        assert (target / path).read_bytes() == sample.healthy[f"/{path}"][1], path
    assert os.readlink(target / "made-link") == "small"
    assert os.getxattr(target / "made/one", "user.colour") == b"blue"
    assert os.stat(target / "small").st_ino == os.stat(target / "made/hard").st_ino
    assert fingerprint(sample.storage) == before


def test_rescue_that_lacks_something_says_so(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """Without the base what only the base holds is missing: that is not 0."""
    assert run("--rescue", os.path.join(sample.top, "out"), sample.storage) == 4
    assert "incomplete: /big: its bytes are in the base; give the base with --base" in capfd.readouterr().out


def test_private_data_stays_private_and_the_owners(sample: SampleStorage) -> None:
    """Copies of the database and what root's repair makes are the owner's, and nobody else's to read."""
    sample.sql("UPDATE inode SET nlink = 7 WHERE ino = {/large}")
    os.unlink(sample.object_of("/big"))
    os.chmod(sample.top, 0o755)  # the owner can get there
    with unprivileged(sample.storage):
        owner = os.geteuid()
    assert run("-y", sample.storage) == 1
    with open(sample.database, "r+b") as file:
        file.write(bytes(100))
    assert run("-y", sample.storage) == 1
    for holder, _, names in os.walk(sample.storage):
        for name in names:
            st = os.stat(os.path.join(holder, name))
            assert (st.st_uid, st.st_mode & 0o077) == (owner, 0), name


def test_reader_of_the_progress_may_leave(sample: SampleStorage) -> None:
    """The work goes on without one."""
    reader, writer = os.pipe()
    os.close(reader)
    assert run(f"-C{writer}", "--verify-data", sample.storage) == 0
    os.close(writer)


def test_rescue_does_not_leave_its_directory(sample: SampleStorage) -> None:
    """Names of a damaged database may say ../ : they stay inside."""
    sample.sql("UPDATE created SET name = CAST('../../escaped' AS BLOB) WHERE ino = {/large}")
    assert run("--rescue", os.path.join(sample.top, "deep/out"), sample.storage) == 4
    assert not os.path.exists(os.path.join(sample.top, "escaped"))


def _thousand(top: str) -> dict[tuple[bytes, bytes], bytes]:
    """A storage of 1,000 files, half of them small enough for a row, unmounted cleanly."""
    for name in ("base", "sto"):
        os.mkdir(os.path.join(top, name))
    overlay = Overlay.open(os.path.join(top, "base"), os.path.join(top, "sto"), clone=False)
    wanted = {}
    for number in range(_FILES):
        holder = b"d%d" % (number % 10)
        found = overlay.lookup(ROOT, holder) or overlay.mkdir(ROOT, holder, 0o755, Process())
        attr = overlay.mknod(found.ino, b"f%d" % number, 0o100644, 0, Process())  # type: ignore[arg-type]
        data = b"%d " % number * (20 if number % 2 else 2000)
        overlay.write(attr.ino, 0, data)  # type: ignore[arg-type]
        wanted[holder, b"f%d" % number] = data
    overlay.close()
    return wanted


def _came_back(top: str, wanted: dict[tuple[bytes, bytes], bytes]) -> tuple[int, int]:
    """How many files have name and content, and how many are in lost+found."""
    overlay = Overlay.open(os.path.join(top, "base"), os.path.join(top, "sto"), clone=False)
    try:
        count = 0
        for (holder, name), data in wanted.items():
            directory = overlay.lookup(ROOT, holder)
            attr = overlay.lookup(directory.ino, name) if directory else None  # type: ignore[arg-type]
            count += attr is not None and overlay.read(attr.ino, 0, 1 << 20) == data  # type: ignore[arg-type]
        lost = overlay.lookup(ROOT, b"lost+found")
        return count, sum(1 for _ in overlay.readdir(lost.ino)) - 2 if lost else 0  # type: ignore[arg-type]
    finally:
        overlay.close()


@pytest.mark.parametrize(
    ("what", "copy", "expected"),
    [
        ("header", True, (_FILES, 0)),
        ("header", False, (_FILES, 0)),
        ("gone", True, (_FILES, 0)),
        ("gone", False, (0, _FILES // 2)),
        ("half", True, (_FILES, 0)),
    ],
)
def test_salvage_of_a_thousand_files(what: str, copy: bool, expected: tuple[int, int], tmp_path: Path) -> None:
    """How many come back with the header zeroed, the database gone or cut in half; with or without the copy."""
    wanted = _thousand(str(tmp_path))
    storage = tmp_path / "sto"
    database = storage / "minifo.db"
    if what == "header":
        with open(database, "r+b") as file:
            file.write(bytes(4096))
    elif what == "half":
        os.truncate(database, database.stat().st_size // 2)
    else:
        database.unlink()
    if not copy:
        (storage / "minifo.names").unlink()
    assert run("-y", str(storage)) == 1
    assert run("-f", str(storage)) == 0
    assert _came_back(str(tmp_path), wanted) == expected
    shutil.rmtree(tmp_path)


def test_lost_files_are_told_by_name(sample: SampleStorage, capfd: pytest.CaptureFixture[str]) -> None:
    """Where a row is gone for good, its name is said."""
    os.unlink(os.path.join(sample.storage, "minifo.names"))
    sample.sql("DELETE FROM inode WHERE ino = {/large}")
    with open(sample.database, "r+b") as file:
        file.write(bytes(100))
    assert run("-y", sample.storage) == 1
    assert "lost: /large\n" in capfd.readouterr().out
    assert sample.look()["/lost+found/object-1"][1] == sample.healthy["/large"][1]


def test_copy_of_names_costs_nothing_when_nothing_changed(sample: SampleStorage) -> None:
    """A mount that changes nothing does not write it again."""
    path = os.path.join(sample.storage, "minifo.names")
    before = os.stat(path).st_ino
    sample.open().close()
    assert os.stat(path).st_ino == before


def test_missing_lock_file_is_no_obstacle(sample: SampleStorage) -> None:
    """A storage that was copied without it can be looked at."""
    os.unlink(os.path.join(sample.storage, "lock"))
    with FsckSession(sample.storage, write=False) as examination:
        assert examination.check() == []
    assert not os.path.exists(os.path.join(sample.storage, "lock"))


def test_rescue_to_a_path_deeper_than_python_recurses(sample: SampleStorage) -> None:
    """A hostile row may give a file thousands of directories: they are made, or the file is told to be missing."""
    deep = (b"/d" * 1900 + b"/x").hex()
    sample.sql(f"UPDATE origin SET path = x'{deep}' WHERE ino = (SELECT ino FROM modified WHERE content = 1 LIMIT 1)")
    rescued = os.path.join(sample.top, "rescued")
    try:
        assert run("--rescue", rescued, "--base", sample.base, sample.storage) == 4
        assert os.path.isdir(os.path.join(rescued, "d/d/d/d"))
    finally:
        subprocess.run(["rm", "-rf", rescued], check=True)  # shutil.rmtree recurses
