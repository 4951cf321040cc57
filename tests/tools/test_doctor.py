"""``minifo doctor``: what it says of machines and storages that something is wrong with; it changes none of them."""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from minifo.engine import Overlay
from minifo.fusefront.process.privileges import missing_capabilities
from minifo.tools.checkup.child import NoAnswer, answer_of
from minifo.tools.checkup.finding import Check, Finding, found_by, worst
from minifo.tools.checkup.software import helpers, required
from minifo.tools.cli import main
from minifo.tools.install_helpers import HELPERS, find_scripts
from tests.fsck.sample_storage import fingerprint
from tests.shared.old_formats import write_as_format

_CALL = "import sys; from minifo.tools.cli import main; sys.exit(main(sys.argv[1:]))"
PROGRAM = [sys.executable, "-c", _CALL, "doctor", "--json"]
Found = dict[str, dict[str, Any]]


def examined(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, Found]:
    """The exit code of doctor, and its findings by the names of the checks."""
    capsys.readouterr()
    code = main(["doctor", "--json", *map(str, words)])
    document = json.loads(capsys.readouterr().out)
    return code, {found["check"]: found for found in document["findings"]}


def on_machine(before: str, *more: Path) -> tuple[int, Found]:
    """The same on a machine that commands of the shell change, in a mount namespace of its own."""
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{before}\nexec "$@"', "sh", *PROGRAM]
    done = subprocess.run([*words, *map(str, more)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    return done.returncode, {found["check"]: found for found in json.loads(done.stdout)["findings"]}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """The storage of an overlay that was used, and its base."""
    (tmp_path / "base").mkdir()
    path = tmp_path / "sto"
    path.mkdir(mode=0o700)
    overlay = Overlay.open(str(tmp_path / "base"), str(path))
    overlay.close()
    return path


# -- what it prints


def test_json_has_stable_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """One object; the exit code follows the worst verdict, and only what is ok has no remedy."""
    code = main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document.keys() == {"format", "minifo", "verdict", "findings"}
    verdicts = [found["verdict"] for found in document["findings"]]
    assert document["verdict"] == max(verdicts, key=["ok", "note", "problem"].index)
    assert code == (document["verdict"] == "problem")
    for found in document["findings"]:
        assert found.keys() == {"section", "check", "verdict", "fact", "remedy"}
        assert (found["remedy"] is None) == (found["verdict"] == "ok")
    names = [found["check"] for found in document["findings"]]
    assert len(names) == len(set(names))
    assert {"kernel", "/dev/fuse", "session hook", "SQLite", "helpers", *required()} <= set(names)


def test_text_says_the_same(capsys: pytest.CaptureFixture[str], storage: Path) -> None:
    """Each finding is a line, its remedy below it; no colours where there is no terminal."""
    _, found = examined(capsys, storage)
    main(["doctor", str(storage)])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    stable = {name: one for name, one in found.items() if name not in ("memory", "memory for redo", "space")}
    for name, one in stable.items():
        assert f"{one['verdict']:7}  {name:16} {one['fact']}" in out
        assert one["remedy"] is None or one["remedy"].split()[0] in out
    assert f"{sum(one['verdict'] == 'ok' for one in found.values())} ok" in out.splitlines()[-1]


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_on_a_terminal(variables: dict[str, str], coloured: bool) -> None:
    """Unless the user wants none."""
    reader, terminal = pty.openpty()
    words = [word for word in PROGRAM if word != "--json"]
    with subprocess.Popen(words, stdout=terminal, env={**os.environ, "TERM": "xterm", **variables}) as program:
        os.close(terminal)
        said = b""
        try:
            while data := os.read(reader, 65536):
                said += data
        except OSError:
            pass  # EIO: the program has closed its end
        os.close(reader)
    assert program.returncode in (0, 1)
    assert (b"\x1b[1;36mmachine\x1b[0m\r\n" in said) is coloured
    assert (b"\x1b" in said) is coloured


def test_required_packages_are_those_of_the_project() -> None:
    """Those for development are none of them."""
    assert {"apsw", "click", "pyfuse3", "trio"} <= set(required())
    assert "pytest" not in required()


def test_a_finding_has_a_remedy_unless_all_is_well() -> None:
    """Whoever writes a check is told."""
    with pytest.raises(ValueError, match="remedy"):
        Finding("a", "note", "b")
    with pytest.raises(ValueError, match="remedy"):
        Finding("a", "ok", "b", "c")
    assert worst([]) == "ok"


def test_a_check_that_fails_is_a_finding() -> None:
    """The others still say something."""

    def look() -> Finding:
        raise KeyError("odd")

    found = found_by(Check("odd", look))
    assert (found.verdict, found.fact) == ("problem", "the check failed (KeyError: 'odd')")


def test_a_child_that_crashes_or_hangs() -> None:
    """The error says how it ended, and what it wrote to stderr."""

    def crash() -> None:
        faulthandler.disable()  # pytest's
        os.write(2, b"last\nwords\n")
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(NoAnswer, match=r"ended by signal 11 \(.*\): last words$"):
        answer_of(crash)
    with pytest.raises(NoAnswer, match="no answer within 1 s"):
        answer_of(signal.pause, 1)
    with pytest.raises(NoAnswer, match=r"ValueError: .*what"):
        answer_of(lambda: int("what"))
    assert answer_of(lambda: [1, "two"]) == [1, "two"]


# -- the machine


def test_it_needs_neither_trio_nor_the_engine() -> None:
    """It says what is missing, where they are missing."""
    code = "import sys; from minifo.tools import cli; cli.main(['doctor', '--json']); "
    code += "print(*sorted({'trio', 'pyfuse3', 'apsw', 'minifo.engine.overlay'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.split() == []


@pytest.mark.root
def test_a_machine_that_fits(fuse_required: None) -> None:
    """Where the tests run, mounts are possible, and the extension fits libfuse."""
    _, found = on_machine("true")  # in a new process: here pyfuse3 may be loaded already, so the extension cannot be
    for name in ("FUSE", "/dev/fuse", "fusermount3", "session hook", "SQLite", "memory for redo", "pyfuse3"):
        assert found[name]["verdict"] == "ok", found[name]
    assert found["session hook"]["fact"].startswith("it fits libfuse 3.")
    assert all(name in found["user"]["fact"] for name in missing_capabilities())


@pytest.mark.root
def test_something_else_in_the_place_of_the_device() -> None:
    """It can be opened, but is not FUSE; or it is FUSE, where devices cannot be opened."""
    code, found = on_machine("mount --bind /dev/null /dev/fuse")
    assert code == 1
    assert found["/dev/fuse"]["fact"] == "/dev/fuse is not the device of FUSE"
    assert "mknod" in found["/dev/fuse"]["remedy"]
    _, found = on_machine(
        "mount -t tmpfs -o nodev none /mnt; mknod /mnt/fuse c 10 229; mount --bind /mnt/fuse /dev/fuse"
    )
    assert found["/dev/fuse"]["fact"] == "/dev/fuse cannot be opened by this user"
    assert "nodev" in found["/dev/fuse"]["remedy"]


@pytest.mark.root
def test_no_device_and_full_memory() -> None:
    """A container without /dev/fuse, whose /dev/shm has 64 KiB."""
    code, found = on_machine(
        "mount -t tmpfs none /dev; mknod /dev/null c 1 3; mkdir /dev/shm; ln -s /proc/self/fd /dev/fd\n"
        "mount -t tmpfs -o size=64k none /dev/shm; mount -t tmpfs -o size=64k none /run"
    )
    assert code == 1
    assert found["/dev/fuse"]["fact"] == "/dev/fuse is not available (No such file or directory)"
    assert found["memory for redo"]["verdict"] == "problem"
    assert "is full: 64.0 KiB free" in found["memory for redo"]["fact"]


@pytest.mark.root
def test_no_directory_in_memory(tmp_path: Path) -> None:
    """It is said, and none is made."""
    _, found = on_machine(f"mount --bind {tmp_path} /dev/shm; mount --bind {tmp_path} /run")
    assert found["memory for redo"]["verdict"] == "note"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_no_directory_is_made_in_memory() -> None:
    """The one that a mount would make is named, and not made."""
    words = "mount -t tmpfs none /dev/shm; mount -t tmpfs none /run; mkdir /run/here"
    after = '"$@"; ls /run /dev/shm >&2; exit 0'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{words}\n{after}", "sh", *PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = {found["check"]: found for found in json.loads(done.stdout)["findings"]}
    assert found["memory for redo"]["fact"].startswith("/run/minifo, ")
    assert done.stderr.split() == ["/dev/shm:", "/run:", "here"]


@pytest.mark.root
def test_broken_extension_and_missing_libfuse(tmp_path: Path) -> None:
    """The extension is a file without content; then libfuse is."""
    spec = importlib.util.find_spec("minifo.fusefront.extension._hook")
    assert spec is not None
    empty = tmp_path / "empty"
    empty.touch()
    code, found = on_machine(f"mount --bind {empty} {spec.origin}")
    assert code == 1
    assert "the C extension cannot be loaded" in found["session hook"]["fact"]
    library = found["session hook"]["fact"].split("(")[1].split(")")[0]
    _, found = on_machine(f"mount --bind {empty} {library}")
    assert found["session hook"]["verdict"] == "problem"
    assert "ImportError" in found["session hook"]["fact"]
    assert found["trio"]["verdict"] == "ok"


@pytest.mark.root
def test_little_memory_and_low_limits() -> None:
    """A control group of 32 MiB, 128 descriptors, 480 MB of addresses; then files of 2 MiB at most."""
    group = "mount -t tmpfs none /sys/fs/cgroup; mkdir /sys/fs/cgroup/memory; echo 33554432 > /sys/fs/cgroup/memory.max"
    group += "; cp /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes"
    _, found = on_machine(f"{group}; ulimit -n 128; ulimit -v 480000")
    assert found["memory"]["fact"].endswith("; this control group may take 32.0 MiB")
    assert found["descriptors"]["fact"] == "128 for a daemon"
    assert found["limits"]["fact"] == "a process may map 468.8 MiB"
    assert {found[name]["verdict"] for name in ("memory", "descriptors", "limits")} == {"note"}
    _, found = on_machine("ulimit -f 4096")
    assert found["limits"]["fact"] == "a file may have 2.0 MiB"


@pytest.mark.root
def test_umount_that_calls_no_helper(tmp_path: Path) -> None:
    """That of busybox; one without libmount; none."""
    (tmp_path / "busybox").write_text("#!/bin/sh\n")
    (tmp_path / "busybox").chmod(0o755)
    (tmp_path / "umount").symlink_to("busybox")
    (tmp_path / "empty").touch()
    _, found = on_machine(f"PATH={tmp_path}:$PATH")
    assert f"{tmp_path}/umount is that of busybox" in found["umount"]["fact"]
    _, found = on_machine(
        f"library=$(ldconfig -p | sed -n 's/.*libmount.so.1.*=> //p' | head -1)\n"
        f"mount --bind {tmp_path}/empty $(readlink -f $library)"
    )
    assert "libmount is missing" in found["umount"]["fact"]
    _, found = on_machine(f"PATH={tmp_path}/nothing")
    assert found["umount"]["fact"] == "umount(8) is not installed"
    assert {found[name]["verdict"] for name in ("umount", "fusermount3")} == {"note"}


@pytest.mark.root
def test_root_of_a_user_namespace() -> None:
    """It is said, with what the kernel refuses there."""
    words = ["unshare", "--user", "--map-root-user", "--mount", *PROGRAM]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    found = {found["check"]: found for found in json.loads(done.stdout)["findings"]}
    assert found["user"]["fact"].startswith("root of a user namespace")
    assert found["base protection"]["verdict"] == "note"
    assert "user namespace" in found["base protection"]["remedy"]


@pytest.mark.root
def test_no_proc_and_no_sqlite(tmp_path: Path, storage: Path) -> None:
    """What cannot be looked at is said, with what to do; the rest is looked at."""
    _, found = on_machine("umount -l /proc")
    for name in ("FUSE", "mounts", "memory"):
        assert found[name]["remedy"] == "mount /proc: mount -t proc proc /proc", found[name]
    assert found["/dev/fuse"]["verdict"] == "ok"
    empty = tmp_path / "empty"
    empty.touch()
    code, found = on_machine(f"mount --bind {empty} {apsw.__file__}", storage)
    assert code == 1
    assert "apsw cannot be loaded (ImportError" in found["SQLite"]["fact"]
    assert found["trust"]["remedy"] == "install what is missing: see the findings about software"
    assert found["trio"]["verdict"] == "ok"


# -- the helpers


def installed(directory: Path, names: tuple[str, ...] = HELPERS, scripts: str | None = None) -> Finding:
    """What is found where some helpers lead to some scripts."""
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).symlink_to(os.path.join(scripts or find_scripts(), name))
    return helpers(str(directory))


def test_helpers(tmp_path: Path) -> None:
    """None, all, some, broken ones, foreign ones, those of another installation."""
    assert installed(tmp_path / "none", ()).verdict == "note"
    whole = installed(tmp_path / "whole")
    assert whole.verdict == "ok" or "other users may change" in whole.fact
    half = installed(tmp_path / "half", HELPERS[:5])
    assert half.verdict == "problem"
    assert half.fact.startswith(f"half installed: {', '.join(HELPERS[5:])} missing")
    broken = installed(tmp_path / "broken", HELPERS, str(tmp_path / "gone"))
    assert "is not there" in broken.fact
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / HELPERS[0]).touch()
    foreign = installed(tmp_path / "foreign", HELPERS[1:])
    assert foreign.fact == f"{tmp_path}/foreign/{HELPERS[0]} is no link of minifo"


def test_helpers_of_another_version(tmp_path: Path) -> None:
    """It is named, and nothing of it is run."""
    scripts = tmp_path / "opt" / "bin"
    scripts.mkdir(parents=True)
    for name in HELPERS:
        (scripts / name).touch()
    (tmp_path / "opt/lib/python3.11/site-packages/minifo-0.0.7.dist-info").mkdir(parents=True)
    found = installed(tmp_path / "sbin", HELPERS, str(scripts))
    assert found.verdict == "note"
    assert found.fact == f"they belong to another installation: {scripts} (minifo 0.0.7)"


# -- a storage


def test_a_sound_storage(capsys: pytest.CaptureFixture[str], storage: Path) -> None:
    """Nothing in it is changed, not even where the lock is missing, as in a copy."""
    (storage / "lock").unlink()
    names, before = os.listdir(storage), fingerprint(str(storage))
    times = storage.stat().st_mtime_ns
    _, found = examined(capsys, storage)
    for name in ("file system", "trust", "format", "use", "fsck", "base"):
        assert found[name]["verdict"] == "ok", found[name]
    assert found["fsck"]["fact"] == "clean"
    assert found["base"]["fact"] == str(storage.parent / "base")
    assert (os.listdir(storage), fingerprint(str(storage)), storage.stat().st_mtime_ns) == (names, before, times)


def test_an_empty_storage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It is as it should be before the first mount."""
    (tmp_path / "sto").mkdir()
    _, found = examined(capsys, tmp_path / "sto")
    assert found["format"]["fact"].startswith("it is empty")
    assert "fsck" not in found


def test_a_storage_that_needs_fsck(capsys: pytest.CaptureFixture[str], storage: Path) -> None:
    """Its problems are named, with the command."""
    con = apsw.Connection(str(storage / "minifo.db"))
    con.execute("UPDATE overlay SET value = 7 WHERE key = 'next_ino'")
    con.close()
    code, found = examined(capsys, storage)
    assert code == 1
    assert found["fsck"]["verdict"] == "problem"
    assert "E20" in found["fsck"]["fact"]
    assert found["fsck"]["remedy"] == f"minifo-fsck {storage}"


def damage(storage: Path, how: str) -> None:
    """Make something of a storage that no mount takes."""
    if how == "foreign":
        shutil.rmtree(storage)
        storage.mkdir()
        (storage / "letter").touch()
    elif how == "lost":
        (storage / "minifo.db").unlink()
        (storage / "minifo.names").write_text("x")
    elif how == "garbled":
        (storage / "minifo.db").write_text("x" * 5000)
    elif how == "fifo":
        (storage / "minifo.db").unlink()
        os.mkfifo(storage / "minifo.db")
    elif how == "missing":
        shutil.rmtree(storage)
    elif how == "open":
        storage.chmod(0o777)
    else:
        (storage.parent / "base").rmdir()


@pytest.mark.parametrize(
    ("how", "check", "fact", "remedy"),
    [
        ("foreign", "format", "holds foreign files ('letter')", "give an empty directory"),
        ("lost", "format", "has lost its database", "minifo-fsck"),
        ("garbled", "format", "is not an SQLite database", "minifo-fsck"),
        ("fifo", "trust", "minifo.db is a FIFO", "nothing in a storage may lead out of it"),
        ("missing", "file system", "cannot be reached (No such file or directory)", "check the path"),
        ("open", "trust", "can be written by everybody", "chmod"),
        ("base", "base", "the base of its last mount, is not there", "base="),
    ],
)
def test_storages_that_cannot_be_mounted(
    capsys: pytest.CaptureFixture[str], storage: Path, how: str, check: str, fact: str, remedy: str
) -> None:
    """One finding says it; what rests on it is left out."""
    damage(storage, how)
    code, found = examined(capsys, storage)
    assert code == 1
    assert found[check]["verdict"] == "problem"
    assert fact in found[check]["fact"]
    assert remedy in found[check]["remedy"]
    of_storage = [one for one in found.values() if one["section"] == "storage"]
    assert of_storage[-1] == found[check]


@pytest.mark.parametrize(("number", "verdict", "remedy"), [(99, "problem", "newer minifo"), (4, "note", "upgrade")])
def test_other_formats(
    capsys: pytest.CaptureFixture[str], storage: Path, number: int, verdict: str, remedy: str
) -> None:
    """A newer one cannot be mounted; an older one is upgraded by the next mount."""
    if number > 5:
        con = apsw.Connection(str(storage / "minifo.db"))
        con.execute(f"PRAGMA user_version = {number}")
        con.close()
    else:
        write_as_format(storage, number)
    _, found = examined(capsys, storage)
    assert found["format"]["verdict"] == verdict
    assert f"has format {number}" in found["format"]["fact"]
    assert remedy in found["format"]["remedy"]
    assert "fsck" not in found


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,noexec,mode=700", "none", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.root
def test_file_systems_that_are_full_or_read_only(capsys: pytest.CaptureFixture[str], small: Path) -> None:
    """What the mount below says, and what a storage there can do."""
    (small / "filler").write_bytes(bytes(900 << 10))
    _, found = examined(capsys, small)
    assert found["space"]["verdict"] == "problem"
    assert found["file system"]["verdict"] == "note"
    assert "noexec" in found["file system"]["remedy"]
    assert "holes" in found["abilities"]["fact"]
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    _, found = examined(capsys, small)
    assert found["file system"]["verdict"] == "problem"
    assert "remount,rw" in found["file system"]["remedy"]
    assert "Read-only file system" in found["abilities"]["fact"]
