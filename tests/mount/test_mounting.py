"""Mounting: every way to mount and unmount, every place base and storage may lie, every refusal, every way to end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import (
    USER,
    MountSandbox,
    OverlayMount,
    attempt,
    await_end,
    daemon_of,
    differences,
    fingerprint,
    in_child,
    is_alive,
    is_mounted,
    minifo,
    minifo_program,
    mount_lines,
    populate,
    run,
    tree,
)
from tests.mount.unprivileged import as_user

ODD_PATHS = ["with space", "a,b", "tab\tnewline\n", "back\\slash", "h#sh", "\u00fcnic\u00f6de", "\udcff\udcfe"]
LEGACY_META = "META_dAfFgHE39ktF3HD2sr"


def filled(overlay: OverlayMount) -> OverlayMount:
    """The overlay with a small base."""
    (overlay.base / "dir").mkdir()
    (overlay.base / "dir/file").write_text("base\n")
    (overlay.base / "other").write_text("other\n")
    return overlay


def use(overlay: OverlayMount) -> None:
    """Change something of every kind through the mount, and check that it is there."""
    mnt = overlay.mnt
    assert (mnt / "dir/file").read_text() == "base\n"
    (mnt / "dir/file").write_text("changed\n")
    (mnt / "new").write_text("new\n")
    os.rename(mnt / "other", mnt / "renamed")
    (mnt / "made").mkdir()
    (mnt / "made/inside").write_bytes(b"x" * 10_000)
    check(overlay)


def check(overlay: OverlayMount) -> None:
    """Check that what ``use`` did is there, and that the base is what it was."""
    assert (overlay.mnt / "dir/file").read_text() == "changed\n"
    assert sorted(name for name in os.listdir(overlay.mnt) if name != "lost+found") == ["dir", "made", "new", "renamed"]
    assert (overlay.mnt / "made/inside").read_bytes() == b"x" * 10_000


def use_twice(overlay: OverlayMount) -> None:
    """Mount, change, mount again, check; storage is sound and the base untouched afterwards."""
    before = fingerprint(overlay.base)
    overlay.mount()
    use(overlay)
    overlay.remount()
    check(overlay)
    overlay.umount()
    assert not is_mounted(overlay.mnt)
    assert fingerprint(overlay.base) == before
    assert overlay.violations() == []


# -- ways to mount


@pytest.mark.parametrize("kind", ["mini_fo", "minifo", "fuse.minifo"])
def test_mount_and_umount(sandbox: MountSandbox, helpers: None, kind: str) -> None:
    """The line of 2005, ``mount -t mini_fo -o base=B,sto=S ANY MNT``, mounts; umount(8) ends it, and again."""
    overlay = filled(sandbox.overlay())
    run("mount", "-t", kind, "-o", f"base={overlay.base},sto={overlay.sto}", "anything", overlay.mnt)
    overlay.pid = daemon_of(overlay.sto)
    use(overlay)
    assert (f"base={overlay.base},sto={overlay.sto}", str(overlay.mnt), "fuse.minifo") in mount_lines()
    run("umount", overlay.mnt)
    assert not is_mounted(overlay.mnt)
    assert daemon_of(overlay.sto) == 0
    run("mount", "-t", kind, "-o", f"lowerdir={overlay.base},upperdir={overlay.sto}", "none", overlay.mnt)
    check(overlay)
    run("umount", overlay.mnt)


def test_from_fstab(sandbox: MountSandbox, helpers: None) -> None:
    """A line in an fstab mounts by its mount point alone, also with ``mount -a``, read-only and with generic words."""
    overlay = filled(sandbox.overlay())
    table = sandbox.directory() / "fstab"
    words = f"base={overlay.base},sto={overlay.sto},rw,noatime,nofail,_netdev,x-systemd.automount"
    table.write_text(f"none {overlay.mnt} mini_fo {words} 0 0\n")
    run("mount", "-T", table, overlay.mnt)
    use(overlay)
    run("umount", overlay.mnt)
    run("mount", "-T", table, "-a")
    check(overlay)
    run("umount", overlay.mnt)
    run("mount", "-T", table, "-o", "ro", overlay.mnt)
    check(overlay)
    assert attempt(os.mkdir, overlay.mnt / "x") == "EROFS"
    run("umount", overlay.mnt)


def test_fake_and_verbose(sandbox: MountSandbox, helpers: None) -> None:
    """``mount -f`` mounts nothing and changes nothing, ``mount -v`` says what it did."""
    overlay = filled(sandbox.overlay())
    words = f"base={overlay.base},sto={overlay.sto}"
    run("mount", "-f", "-t", "mini_fo", "-o", words, "none", overlay.mnt)
    assert not is_mounted(overlay.mnt)
    assert os.listdir(overlay.sto) == []
    said = run("mount", "-v", "-t", "mini_fo", "-o", words, "none", overlay.mnt).stdout
    assert str(overlay.mnt) in said
    run("umount", "-v", overlay.mnt)


def test_minifo_mount_and_umount(sandbox: MountSandbox) -> None:
    """``minifo mount`` returns when the mount answers, ``minifo umount`` when the daemon has ended."""
    overlay = filled(sandbox.overlay())
    minifo("mount", "--base", overlay.base, "--sto", overlay.sto, overlay.mnt)
    use(overlay)
    pid = daemon_of(overlay.sto)
    assert pid
    minifo("umount", overlay.mnt)
    assert not is_alive(pid)
    minifo("mount", "-o", f"base={overlay.base}", "-o", f"sto={overlay.sto}", overlay.mnt)
    check(overlay)
    minifo("umount", overlay.mnt)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("files_open", [False, True])
def test_foreground(sandbox: MountSandbox, number: signal.Signals, files_open: bool) -> None:
    """``minifo mount -f`` stays until a signal, then commits and unmounts, also while files are open."""
    overlay = filled(sandbox.overlay())
    words = [minifo_program(), "mount", "-f", "--base", overlay.base, "--sto", overlay.sto, overlay.mnt]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "is mounted" in process.stderr.readline()
        use(overlay)
        held = open(overlay.mnt / "held", "w") if files_open else None  # noqa: SIM115
        if held is not None:
            held.write("written before the end")
            held.flush()
            os.fsync(held.fileno())
        process.send_signal(number)
        assert process.wait(20) == 0
        if held is not None:
            with contextlib.suppress(OSError):
                held.close()
    assert not is_mounted(overlay.mnt)
    overlay.mount()
    if files_open:
        assert (overlay.mnt / "held").read_text() == "written before the end"
        os.unlink(overlay.mnt / "held")
    check(overlay)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_daemon(sandbox: MountSandbox, number: signal.Signals) -> None:
    """A background daemon told to end commits, unmounts and releases the storage."""
    overlay = filled(sandbox.overlay())
    overlay.mount()
    use(overlay)
    os.kill(overlay.pid, number)
    await_end(overlay.pid)
    assert not is_mounted(overlay.mnt)
    overlay.mount()
    check(overlay)


def test_killed_daemon(sandbox: MountSandbox, helpers: None) -> None:
    """After SIGKILL the dead mount is reported with the command that clears it, and nothing acknowledged is lost."""
    overlay = filled(sandbox.overlay())
    overlay.mount()
    use(overlay)
    fd = os.open(overlay.mnt / "synced", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"durable")
    os.fsync(fd)
    os.close(fd)
    overlay.kill()
    refused = overlay.mount(check=False)
    assert refused.returncode == 32
    assert f"umount -l {overlay.mnt}" in refused.stderr
    run("umount", "-l", overlay.mnt)
    overlay.mount()
    assert (overlay.mnt / "synced").read_bytes() == b"durable"
    os.unlink(overlay.mnt / "synced")
    check(overlay)
    overlay.kill()
    assert "had ended before" in minifo("umount", overlay.mnt).stderr
    assert not is_mounted(overlay.mnt)
    overlay.mount()
    check(overlay)
    overlay.umount()
    assert overlay.violations() == []


def test_busy_mount(sandbox: MountSandbox) -> None:
    """umount of a mount with open files says so and changes nothing; lazily it detaches and ends with the last file."""
    overlay = filled(sandbox.overlay())
    overlay.mount()
    with open(overlay.mnt / "dir/file") as held:
        refused = minifo("umount", overlay.mnt, check=False)
        assert (refused.returncode, refused.stderr.count("\n")) == (32, 1)
        assert "busy" in refused.stderr
        assert is_mounted(overlay.mnt)
        minifo("umount", "-l", overlay.mnt)
        assert not is_mounted(overlay.mnt)
        assert held.read() == "base\n"
    await_end(overlay.pid)


def test_many_mounts(sandbox: MountSandbox) -> None:
    """Six overlays of one base are served at once and know nothing of each other."""
    first = filled(sandbox.overlay())
    overlays = [first, *(sandbox.overlay(base=first.base) for _ in range(5))]
    for overlay in overlays:
        overlay.mount()
    for number, overlay in enumerate(overlays):
        use(overlay)
        (overlay.mnt / "dir" / str(number)).touch()
    for number, overlay in enumerate(overlays):
        assert sorted(os.listdir(overlay.mnt / "dir")) == [str(number), "file"]
        overlay.umount()


def test_twenty_times(sandbox: MountSandbox) -> None:
    """Mounting and unmounting twenty times leaves no process, mount or lock behind, and loses nothing."""
    overlay = filled(sandbox.overlay())
    pids = set()
    for turn in range(20):
        overlay.mount()
        pids.add(overlay.pid)
        assert len(os.listdir(overlay.mnt / "dir")) == turn + 1
        (overlay.mnt / f"dir/{turn}").write_text(str(turn))
        overlay.umount()
        assert not is_mounted(overlay.mnt)
    assert len(pids) == 20
    assert not any(is_alive(pid) for pid in pids)
    assert overlay.violations() == []
    assert not [name for name in os.listdir(overlay.sto) if name.endswith(("-wal", "-shm", "control"))]


def test_stacked(sandbox: MountSandbox) -> None:
    """The mount point of one overlay is the base of another, and the inner one is busy until the outer one is gone."""
    inner = filled(sandbox.overlay())
    inner.mount()
    outer = sandbox.overlay(base=inner.mnt)
    outer.mount()
    use(outer)
    assert (inner.mnt / "dir/file").read_text() == "base\n"
    outer.umount()
    inner.umount()


# -- unprivileged


@pytest.mark.parametrize("plain", [False, True])
def test_unprivileged(sandbox: MountSandbox, fuse_for_all: None, plain: bool) -> None:
    """A user mounts a base it may read with fusermount3, changes it, and unmounts; others cannot enter."""
    overlay = filled(sandbox.overlay())
    for path in (overlay.sto, overlay.mnt):
        os.chown(path, USER, USER)
    (overlay.base / "dir").chmod(0o777)
    (overlay.base / "dir/file").chmod(0o666)
    (overlay.base / "private").mkdir(mode=0o700)
    before = fingerprint(overlay.base, access=False)  # only an owner may read without a trace there
    words = ["-o", "plain"] if plain else []
    assert as_user("mount", *words, "--base", overlay.base, "--sto", overlay.sto, overlay.mnt) == 0
    overlay.pid = daemon_of(overlay.sto)
    assert attempt(os.listdir, overlay.mnt) == "EACCES"

    def act() -> list[object]:
        mnt = overlay.mnt
        with open(mnt / "dir/file", "a") as file:
            file.write("more\n")
        (mnt / "dir/new").write_text("mine")
        os.rename(mnt / "dir/new", mnt / "dir/moved")
        fd = os.open(mnt / "dir/moved", os.O_RDWR)
        os.pwrite(fd, b"in memory only" * 8000, 0)
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 14 * 8000
        os.close(fd)
        st = os.stat(mnt / "dir/moved")
        refused = [
            attempt(os.listdir, mnt / "private"),
            attempt(os.unlink, mnt / "other"),
            attempt(os.chown, mnt / "dir", 0, 0),
        ]
        return [(mnt / "dir/file").read_text(), st.st_uid, os.stat(mnt / "other").st_uid, refused]

    assert in_child(act, uid=USER) == ["base\nmore\n", USER, 0, ["EACCES", "EACCES", "EPERM"]]
    assert as_user("umount", overlay.mnt) == 0
    assert not is_mounted(overlay.mnt)
    assert not is_alive(overlay.pid)
    assert fingerprint(overlay.base, access=False) == before
    assert as_user("mount", "--base", overlay.base, "--sto", overlay.sto, overlay.mnt) == 0
    overlay.pid = daemon_of(overlay.sto)
    assert in_child(lambda: (overlay.mnt / "dir/moved").read_text(), uid=USER) == "in memory only" * 8000
    os.kill(overlay.pid, signal.SIGTERM)
    await_end(overlay.pid)
    assert not is_mounted(overlay.mnt)


def test_unprivileged_over_the_base_itself(sandbox: MountSandbox, fuse_for_all: None) -> None:
    """A user mounts over a base of its own, with storage inside it, and never meets its own mount in there."""
    home = sandbox.directory()
    base = home / "own"
    (base / "sto").mkdir(parents=True)
    (base / "file").write_text("base")
    for path in (base, base / "sto", base / "file"):
        os.chown(path, USER, USER)
    made = sandbox.overlay(base=base, sto=base / "sto", mnt=base)
    assert as_user("mount", "--base", base, "--sto", base / "sto", base) == 0
    lines = in_child(
        lambda: [sorted(os.listdir(base)), (base / "file").write_text("new"), os.stat(base).st_ino], uid=USER
    )
    assert lines == [["file"], 3, 1]
    assert as_user("umount", base) == 0
    made.pid = daemon_of(base / "sto")
    if made.pid:
        await_end(made.pid)
    assert (base / "file").read_text() == "base"


# -- places


def test_over_the_base_itself(sandbox: MountSandbox) -> None:
    """Mount point and base may be one directory, and storage may lie inside it: it is hidden."""
    home = sandbox.directory()
    (home / "sto").mkdir()
    overlay = filled(sandbox.overlay(base=home, mnt=home, sto=home / "sto"))
    overlay.mount()
    use(overlay)
    assert attempt(os.stat, home / "sto") == "ENOENT"
    overlay.umount()
    assert sorted(os.listdir(home)) == ["dir", "other", "sto"]
    overlay.mount()
    check(overlay)


def test_the_whole_system_as_base(sandbox: MountSandbox) -> None:
    """base=/ with storage and mount point inside it: no deadlock, storage is hidden, submounts are not entered."""
    home = sandbox.directory_on_disk()
    overlay = sandbox.overlay(base=Path("/"), sto=home / "sto", mnt=home / "mnt")
    overlay.mount()
    mnt = overlay.mnt
    inside = mnt / str(home).lstrip("/")
    assert os.listdir(inside) == ["mnt"]
    assert os.listdir(inside / "mnt") == []
    assert os.listdir(mnt / "proc") == []
    assert (mnt / "etc/passwd").read_bytes() == Path("/etc/passwd").read_bytes()
    (mnt / "etc/minifo-test").write_text("never in the base")
    (inside / "mnt/deeper").mkdir()
    assert run("chroot", mnt, "/bin/sh", "-c", "cat /etc/minifo-test; ls /etc | wc -l").stdout.startswith("never in")
    overlay.umount()
    assert not os.path.exists("/etc/minifo-test")
    overlay.mount()
    assert (mnt / "etc/minifo-test").exists()
    overlay.umount()


@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs", "exfat"])
def test_storage_on(sandbox: MountSandbox, kind: str) -> None:
    """Storage works on any file system, also on one without owners, links, holes and extended attributes."""
    if kind == "exfat" and shutil.which("mount.exfat-fuse") is None:
        pytest.skip("exfat-fuse is not installed")
    sto = sandbox.file_system(kind) / "storage"
    overlay = sandbox.overlay(sto=sto)
    populate(overlay.base)
    before = fingerprint(overlay.base)
    overlay.mount()
    mnt = overlay.mnt
    os.chown(mnt / "a", USER, USER)
    os.setxattr(mnt / "a", "user.x", b"y")
    os.link(mnt / "hard1", mnt / "hard4")
    with open(mnt / "sparse", "r+b") as file:
        file.seek(700_000)
        file.write(b"here")
    with open(mnt / "far", "wb") as file:
        file.seek(50 << 20)
        file.write(b"far")
    with open(mnt / "big", "r+b") as file:
        file.seek(150_000)
        file.write(b"there")
    os.unlink(mnt / "b")
    os.rename(mnt / "dir", mnt / "dir2/dir")
    os.mkfifo(mnt / "pipe")
    os.symlink("a", mnt / "link")
    expected = tree(mnt)
    assert sum(entry.stat().st_blocks for entry in os.scandir(sto / "content") if entry.is_file()) * 512 < 5 << 20
    overlay.remount()
    assert differences(tree(mnt), expected) == []
    assert os.stat(mnt / "hard4").st_nlink == 4
    overlay.umount()
    assert overlay.violations() == []
    assert fingerprint(overlay.base) == before


@pytest.mark.parametrize("kind", ["squashfs", "tmpfs", "overlayfs", "overlayfs of two", "xfs"])
def test_base_on(sandbox: MountSandbox, kind: str) -> None:
    """A base on squashfs, tmpfs, overlayfs (also of layers on different file systems) and xfs shows as it is."""
    source = sandbox.directory()
    populate(source)
    if kind == "squashfs":
        image = sandbox.directory() / "image"
        run("mksquashfs", source, image, "-quiet", "-no-progress")
        base = sandbox.directory()
        sandbox.mount("-o", "loop,ro", image, base)
    elif kind in ("tmpfs", "xfs"):
        base = sandbox.file_system(kind)
        run("cp", "-a", f"{source}/.", base)
    else:
        lower = source
        if kind == "overlayfs of two":
            extra = sandbox.file_system("tmpfs")
            (extra / "more").mkdir()
            (extra / "more/file").write_text("more")
            lower = Path(f"{source}:{extra}")
        upper, base = sandbox.file_system("tmpfs"), sandbox.directory()
        (upper / "u").mkdir()
        (upper / "w").mkdir()
        words = f"noatime,xino=off,lowerdir={lower},upperdir={upper}/u,workdir={upper}/w"
        sandbox.mount("-t", "overlay", "-o", words, "o", base)
        (base / "upper").write_text("upper")
        (base / "a").write_text("copied up")
    overlay = sandbox.overlay(base=base)
    before = tree(base)
    overlay.mount()
    assert differences(tree(overlay.mnt), before) == []
    (overlay.mnt / "big").write_bytes(b"changed")
    os.unlink(overlay.mnt / "hard1")
    os.rename(overlay.mnt / "dir", overlay.mnt / "moved")
    changed = tree(overlay.mnt)
    overlay.remount()
    assert differences(tree(overlay.mnt), changed) == []
    overlay.umount()
    assert overlay.violations() == []
    assert differences(tree(base), before) == []


def test_two_file_systems_in_the_base(sandbox: MountSandbox) -> None:
    """A file system mounted inside the base is not part of it: what lies under it shows."""
    overlay = filled(sandbox.overlay())
    (overlay.base / "point").mkdir()
    (overlay.base / "point/under").touch()
    sandbox.mount("-t", "tmpfs", "none", overlay.base / "point")
    (overlay.base / "point/over").touch()
    overlay.mount()
    assert os.listdir(overlay.mnt / "point") == ["under"]


@pytest.mark.parametrize(
    "name", ["with space", "a,b", "tab\tnewline\n", "back\\slash", "h#sh", "\u00fcnic\u00f6de", "\udcff\udcfe"]
)
def test_odd_paths(sandbox: MountSandbox, helpers: None, name: str) -> None:
    """Paths of any bytes mount, show in the mount table, and unmount by mount(8) and by minifo."""
    overlay = filled(sandbox.overlay(base=sandbox.directory() / f"{name}b", sto=sandbox.directory() / f"{name}s",
                                 mnt=sandbox.directory() / f"{name}m"))  # fmt: skip
    overlay.mount()
    use(overlay)
    minifo("umount", overlay.mnt)
    words = ",".join(
        f"{key}=" + str(path).replace("\\", "\\\\").replace(",", "\\,")
        for key, path in (("base", overlay.base), ("sto", overlay.sto))
    )
    if "," not in name and "\\" not in name:
        run("mount", "-t", "mini_fo", "-o", words, "none", overlay.mnt)
    else:
        minifo("mount", "-o", words, overlay.mnt)
    check(overlay)
    pid = daemon_of(overlay.sto)
    run("umount", overlay.mnt)
    await_end(pid)


def test_nothing_of_the_base_is_written_or_accessed(sandbox: MountSandbox) -> None:
    """Reading all of a mount leaves even the access times of the base as they were, on a relatime mount, too."""
    overlay = sandbox.overlay()
    populate(overlay.base)
    for path in ("a", "dir", "symlink", "big"):
        os.utime(overlay.base / path, ns=(1, 2 * 10**18), follow_symlinks=False)
    before = fingerprint(overlay.base)
    overlay.mount()
    tree(overlay.mnt)
    run("tar", "-cf", "/dev/null", overlay.mnt)
    overlay.umount()
    assert fingerprint(overlay.base) == before


# -- refusals


def _words(overlay: OverlayMount) -> list[str]:
    return ["--base", str(overlay.base), "--sto", str(overlay.sto), str(overlay.mnt)]


def _foreign_files(overlay: OverlayMount) -> list[str]:
    (overlay.sto / "holiday.jpg").touch()
    return _words(overlay)


def _legacy(overlay: OverlayMount) -> list[str]:
    (overlay.sto / "dir").mkdir()
    (overlay.sto / "dir" / LEGACY_META).write_text("D name\n")
    return _words(overlay)


def _foreign_database(overlay: OverlayMount) -> list[str]:
    connection = sqlite3.connect(overlay.sto / "minifo.db")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    return _words(overlay)


def _no_database(overlay: OverlayMount) -> list[str]:
    (overlay.sto / "minifo.db").write_bytes(b"not a database, but long enough to be read as one\n" * 100)
    return _words(overlay)


def _used(overlay: OverlayMount) -> Path:
    overlay.mount()
    overlay.umount()
    return overlay.sto / "minifo.db"


def _newer(overlay: OverlayMount) -> list[str]:
    connection = sqlite3.connect(_used(overlay))
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    return _words(overlay)


def _corrupt(overlay: OverlayMount) -> list[str]:
    path = _used(overlay)
    data = bytearray(path.read_bytes())
    data[4096:12288] = b"\xaa" * 8192
    path.write_bytes(data)
    return _words(overlay)


def _replaced(key: str, value: str) -> Callable[[OverlayMount], list[str]]:
    def words(overlay: OverlayMount) -> list[str]:
        (overlay.base / "x").touch()
        places = {"base": str(overlay.base), "sto": str(overlay.sto), "mnt": str(overlay.mnt)}
        places[key] = value.format(**places)
        return ["--base", places["base"], "--sto", places["sto"], places["mnt"]]

    return words


def _option(option: str) -> Callable[[OverlayMount], list[str]]:
    return lambda overlay: ["-o", option, *_words(overlay)]


def _instead(option: str) -> Callable[[OverlayMount], list[str]]:
    return lambda o: ["-o", option.format(base=o.base, sto=o.sto), str(o.mnt)]


REFUSALS: dict[str, tuple[Callable[[OverlayMount], list[str]], int, list[str]]] = {
    "no options": (lambda o: [str(o.mnt)], 1, ["base= and sto= are missing"]),
    "no storage": (_instead("base={base}"), 1, ["sto= is missing"]),
    "no base": (_instead("sto={sto}"), 1, ["base= is missing"]),
    "base twice": (_instead("base={base},base={base},sto={sto}"), 1, ["base= is given twice"]),
    "aliases": (_instead("base={base},lowerdir={base},sto={sto}"), 1, ["lowerdir="]),
    "unknown option": (_option("colour=blue"), 1, ["'colour'"]),
    "unknown word": (_option("rw,fast"), 1, ["'fast'"]),
    "unescaped comma": (_instead("base={base},x,sto={sto}"), 1, ["'x'", "\\,"]),
    "bad commit": (_option("commit=soon"), 1, ["commit", "soon"]),
    "base missing": (_replaced("base", "{base}/none"), 32, ["does not exist"]),
    "base a file": (_replaced("base", "{base}/x"), 32, ["not a directory"]),
    "storage missing": (_replaced("sto", "{sto}/none"), 32, ["does not exist", "mkdir"]),
    "storage a file": (_replaced("sto", "{base}/x"), 32, ["not a directory"]),
    "mount point missing": (_replaced("mnt", "{mnt}/none"), 32, ["does not exist"]),
    "mount point a file": (_replaced("mnt", "{base}/x"), 32, ["not a directory"]),
    "base inside storage": (_replaced("sto", "{base}/.."), 1, ["inside"]),
    "base is storage": (_replaced("sto", "{base}"), 1, ["inside"]),
    "foreign files": (_foreign_files, 32, ["holiday.jpg"]),
    "legacy storage": (_legacy, 32, ["minifo meta import"]),
    "foreign database": (_foreign_database, 32, ["not a minifo database"]),
    "no database": (_no_database, 32, ["minifo-fsck"]),
    "newer format": (_newer, 32, ["999", "newer minifo"]),
    "corrupt database": (_corrupt, 32, ["minifo-fsck"]),
    "nothing to read": (_option("ro"), 32, ["no overlay yet"]),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused(sandbox: MountSandbox, case: str) -> None:
    """What cannot be mounted is refused with one line and the exit code of mount(8), and nothing on disk changes."""
    arrange, code, texts = REFUSALS[case]
    overlay = sandbox.overlay()
    words = arrange(overlay)
    before = fingerprint(overlay.base.parent, access=False)
    done = minifo("mount", *words, check=False)
    assert done.returncode == code, done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done.stderr
    assert done.stderr.startswith("minifo: ")
    assert all(text in done.stderr for text in texts), done.stderr
    assert "Traceback" not in done.stderr
    after = fingerprint(overlay.base.parent, access=False)
    if case == "corrupt database":
        # damage deep inside is found by reading, which only the holder of the lock may do
        for side in (before, after):
            for path in (b"sto", b"sto/lock", b"."):
                side.pop(path, None)
    assert after == before
    assert not is_mounted(overlay.mnt)


def test_refused_by_mount(sandbox: MountSandbox, helpers: None) -> None:
    """mount(8) hands on the helper's line and exit code."""
    overlay = sandbox.overlay()
    done = run("mount", "-t", "mini_fo", "-o", f"base={overlay.base}", "none", overlay.mnt, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "sto= is missing" in done.stderr
    done = run(
        "mount", "-t", "mini_fo", "-o", f"base={overlay.base}/no,sto={overlay.sto}", "x", overlay.mnt, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (32, 1)
    assert "does not exist" in done.stderr


def test_refused_while_in_use(sandbox: MountSandbox) -> None:
    """A storage in use is refused with its holder's pid, a mount point in use with the way to free it."""
    overlay = filled(sandbox.overlay())
    overlay.mount()
    other = sandbox.directory()
    busy = minifo("mount", "--base", overlay.base, "--sto", overlay.sto, other, check=False)
    assert (busy.returncode, busy.stderr.count("\n")) == (32, 1)
    assert f"process {overlay.pid}" in busy.stderr
    taken = minifo("mount", "--base", overlay.base, "--sto", sandbox.directory(), overlay.mnt, check=False)
    assert (taken.returncode, taken.stderr.count("\n")) == (32, 1)
    assert "already mounted" in taken.stderr
    assert f"minifo umount {overlay.mnt}" in taken.stderr
    use(overlay)


def test_read_only_storage(sandbox: MountSandbox) -> None:
    """Storage on a read-only file system is refused with the offer of ``-o ro``, which then shows what it holds."""
    home = sandbox.file_system("ext4")
    overlay = filled(sandbox.overlay(sto=home / "storage"))
    overlay.mount()
    use(overlay)
    overlay.umount()
    run("mount", "-o", "remount,ro", home)
    refused = overlay.mount(check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (32, 1)
    assert "-o ro" in refused.stderr
    overlay.mount("ro")
    check(overlay)
    assert attempt(os.mkdir, overlay.mnt / "x") == "EROFS"
    minifo("umount", overlay.mnt)
    assert not is_mounted(overlay.mnt)


def test_read_only_mounts_share(sandbox: MountSandbox) -> None:
    """Several read-only mounts of one storage live together and keep a writer out."""
    overlay = filled(sandbox.overlay())
    overlay.mount()
    use(overlay)
    overlay.umount()
    before = {path.name: path.read_bytes() for path in overlay.sto.iterdir() if path.is_file() and path.name != "lock"}
    places = [sandbox.overlay(base=overlay.base, sto=overlay.sto) for _ in range(2)]
    for place in places:
        place.mount("ro")
        check(place)
    refused = overlay.mount(check=False)
    assert refused.returncode == 32
    assert "in use" in refused.stderr
    for place in places:
        minifo("umount", place.mnt)
    assert before == {name: (overlay.sto / name).read_bytes() for name in before}
    overlay.mount()
    check(overlay)


def test_umount_of_what_is_not_ours(sandbox: MountSandbox) -> None:
    """umount of a path that is not mounted, or something else, or inside a mount, is refused in one line."""
    overlay = filled(sandbox.overlay())
    other = sandbox.file_system("tmpfs")
    overlay.mount()
    for path, text in (
        (overlay.base, "not mounted"),
        (other, "tmpfs"),
        (overlay.mnt / "dir", "inside"),
        ("/nowhere", "exist"),
    ):
        done = minifo("umount", path, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (32, 1), done.stderr
        assert text in done.stderr
    assert is_mounted(overlay.mnt)


# -- options


def test_options_take_effect(sandbox: MountSandbox) -> None:
    """Kernel words reach the mount table."""

    def words(overlay: OverlayMount) -> set[str]:
        line = next(line for line in Path("/proc/mounts").read_text().splitlines() if f" {overlay.mnt} " in line)
        return set(line.split(" ")[3].split(","))

    overlay = filled(sandbox.overlay())
    overlay.mount("dev,suid")
    assert not words(overlay) & {"nodev", "nosuid", "noexec"}
    assert {"default_permissions", "allow_other"} <= words(overlay)
    overlay.umount()
    overlay.mount("nodev,nosuid,noexec,noatime,noallow_other")
    assert {"nodev", "nosuid", "noexec", "noatime"} <= words(overlay)
    assert "allow_other" not in words(overlay)


def test_synchronous_mount(sandbox: MountSandbox) -> None:
    """With ``-o sync`` what a call has acknowledged is committed when it returns."""
    overlay = filled(sandbox.overlay("sync"))
    overlay.mount()
    (overlay.mnt / "made").mkdir()
    os.rename(overlay.mnt / "other", overlay.mnt / "made/moved")
    kept = sandbox.directory()
    run("cp", "-a", f"{overlay.sto}/.", kept)  # what a power cut right now would leave
    (kept / "lock").unlink()
    copy = sandbox.overlay(base=overlay.base, sto=kept)
    copy.mount()
    assert (copy.mnt / "made/moved").read_text() == "other\n"


def test_commits_in_time(sandbox: MountSandbox) -> None:
    """Without fsync a change is committed within commit= seconds, also bytes that only the kernel holds."""
    overlay = filled(sandbox.overlay("commit=0.2"))
    overlay.mount()
    with open(overlay.mnt / "log", "w") as log:
        log.write("a line in a file that stays open\n")
        log.flush()
        time.sleep(1.5)
        kept = sandbox.directory()
        run("cp", "-a", f"{overlay.sto}/.", kept)
        (kept / "lock").unlink()
        copy = sandbox.overlay(base=overlay.base, sto=kept)
        copy.mount()
        assert (copy.mnt / "log").read_text() == "a line in a file that stays open\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_without_standard_streams(sandbox: MountSandbox, closed: str) -> None:
    """A caller that has closed stdin, stdout or stderr gets a mount that holds its lock and keeps its files."""
    overlay = filled(sandbox.overlay())
    words = f"exec {minifo_program()} mount --base {overlay.base} --sto {overlay.sto} {overlay.mnt} {closed}"
    run("sh", "-c", words)
    overlay.pid = daemon_of(overlay.sto)
    use(overlay)
    refused = minifo("mount", "--base", overlay.base, "--sto", overlay.sto, sandbox.directory(), check=False)
    assert f"process {overlay.pid}" in refused.stderr
    overlay.umount()
    assert overlay.violations() == []
