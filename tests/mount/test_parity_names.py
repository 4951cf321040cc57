"""Parity of names: hard links, symlinks, long and odd names, directories while they change, inode numbers, statfs."""

from __future__ import annotations

import ctypes
import os
import random
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.mount_sandbox import USER, MountSandbox, attempt, run
from tests.mount.parity_mount import Pair, ParityMount

ODD = [
    b" ", b"-rf", b"...", b"\xff\xfe", b"a\nb", b"tab\there", b"\x01", b"quote'\"`$(x)", b"\\", b"a,b", b"#", b"*?[]",
    "\u00fc\u4e2d\U0001f600".encode(), b"n" * 255, b"\xff" * 255, b".hidden", b"CON:", b"~", b"%s%n", b"a\rb",
]  # fmt: skip


def number(name: str) -> int:
    """Inode number of an object itself."""
    return os.lstat(name).st_ino


def listing(name: str) -> list[str]:
    """The names in a directory, sorted."""
    return sorted(os.listdir(name))


def make(name: str | bytes, data: bytes = b"") -> None:
    """Make a file."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    os.write(fd, data)
    os.close(fd)


# -- links


def test_hard_links_of_the_base(pair: Pair) -> None:
    """Links of a base file are one inode: content, mode and count change for all of them, before and after copy-up."""

    def act(_: str) -> list[Any]:
        def counts() -> list[Any]:
            names = [name for name in ("hard1", "hard2", "dir/hard3", "fourth", "dir2/fifth") if os.path.exists(name)]
            return [len({number(name) for name in names}), [(name, os.lstat(name).st_nlink) for name in names]]

        seen = [counts()]
        os.chmod("hard2", 0o600)
        seen += [counts(), oct(os.stat("hard1").st_mode)]
        os.link("dir/hard3", "fourth")
        seen.append(counts())
        with open("hard1", "ab") as file:
            file.write(b" written")
        seen += [counts(), Path("fourth").read_bytes(), Path("dir/hard3").read_bytes()]
        os.unlink("hard1")
        seen.append(counts())
        os.rename("hard2", "dir2/fifth")
        seen.append(counts())
        os.rename("fourth", "dir2/fifth")
        seen.append(counts())
        os.unlink("dir/hard3")
        os.unlink("dir2/fifth")
        return [*seen, attempt(os.unlink, "fourth")]

    pair.same(act)


@pytest.mark.parametrize("first", ["unlink", "rename", "write", "chmod", "link", "truncate"])
def test_one_change_to_one_link(pair: Pair, first: str) -> None:
    """After a single change to one link of a base file the other links show it, at once and after a new mount."""

    def act(_: str) -> list[Any]:
        {
            "unlink": lambda: os.unlink("hard1"),
            "rename": lambda: os.rename("hard1", "dir2/moved"),
            "write": lambda: Path("hard1").write_bytes(b"other"),
            "chmod": lambda: os.chmod("hard1", 0o611),
            "link": lambda: os.link("hard1", "another"),
            "truncate": lambda: os.truncate("hard1", 2),
        }[first]()
        return [(name, os.stat(name).st_nlink, Path(name).read_bytes()) for name in ("hard2", "dir/hard3")]

    pair.same(act)
    pair.remount()
    pair.same(lambda _: [os.unlink("hard2"), os.stat("dir/hard3").st_nlink])


def test_hard_links_of_new_files(pair: Pair) -> None:
    """Links of created files, fifos, symlinks and devices count and share everything."""

    def act(_: str) -> list[Any]:
        make("new", b"data")
        seen: list[Any] = []
        for name in ("new", "fifo", "symlink", "null", "socket", "dangling", "a"):
            seen.append(attempt(os.link, name, f"dir2/{name}", follow_symlinks=False))
            os.chmod(name, 0o611) if not os.path.islink(name) else None
            st, other = os.lstat(name), os.lstat(f"dir2/{name}")
            seen.append((st.st_ino == other.st_ino, st.st_nlink, other.st_nlink, oct(other.st_mode)))
            os.unlink(name)
            seen.append(os.lstat(f"dir2/{name}").st_nlink)
        return seen

    pair.same(act)


def test_links_that_are_refused(pair: Pair) -> None:
    """Links of directories, over existing names, of missing files and beyond files fail alike."""

    def act(_: str) -> list[Any]:
        ways = [("dir", "new"), ("a", "b"), ("a", "dir"), ("missing", "x"), ("a", "b/c"), ("a", "no/x"), ("void", "a"),
                ("a", "."), ("a", "n" * 256), ("loop", "l2"), ("a", "dangling")]  # fmt: skip
        return [attempt(os.link, *way, follow_symlinks=False) for way in ways]

    pair.same(act)


def test_symlinks(pair: Pair) -> None:
    """Symlinks of every length, dangling, circular and through directories, resolve and fail alike."""

    def act(root: str) -> list[Any]:
        lengths = (1, 59, 60, 255, 1000, 4095)
        seen: list[Any] = [attempt(os.symlink, "t" * length, f"dir/l{length}") for length in lengths]
        seen += [attempt(os.symlink, target, f"dir/x{len(target)}") for target in ("t" * 4096, "")]
        seen += [attempt(os.symlink, "a", "b"), [len(os.readlink(f"dir/l{length}")) for length in lengths]]
        os.symlink(b"\xff\n", "odd")
        os.symlink(f"{root}/a".removeprefix(root + "/"), "there")
        os.symlink("dir/../dir/./sub", "round")
        for name in ("odd", "there", "round", "loop", "dangling", "dirlink", "dirlink/three", "symlink/x", "a", "dir"):
            seen.append((name, attempt(os.path.getsize, name), attempt(os.readlink, name), attempt(listing, name)))
        seen += [attempt(os.mkdir, "dangling"), attempt(os.rmdir, "dirlink"), attempt(os.unlink, "dirlink/")]
        seen.append(attempt(os.chmod, "symlink", 0o700) or oct(os.stat("a").st_mode))
        chain = "a"
        for step in range(45):
            os.symlink(chain, f"chain{step}")
            chain = f"chain{step}"
        return [*seen, [attempt(os.path.getsize, f"chain{step}") for step in (0, 38, 39, 40, 44)]]

    pair.same(act)


# -- names


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "link", "renamed"])
def test_odd_names(pair: Pair, kind: str) -> None:
    """Names of any bytes up to 255 work for every operation; 256 bytes and impossible names fail alike."""

    def act(root: str) -> list[Any]:
        top = os.fsencode(root) + b"/void/"
        make("spare")

        def one(name: bytes) -> None:
            if kind == "file":
                make(top + name, name)
            elif kind == "directory":
                os.mkdir(top + name)
            elif kind == "symlink":
                os.symlink(name, top + name)
            elif kind == "link":
                os.link("a", top + name)
            else:
                make(top + b"t")
                os.rename(top + b"t", top + name)

        seen: list[Any] = [attempt(one, name) for name in ODD]
        seen += [attempt(one, name) for name in (b"n" * 256, b"\xff" * 1000, b"..", b".", b"a/", b"")]
        attempt(os.unlink, top + b"t")
        seen.append(sorted(os.listdir(top)))
        seen += [attempt(os.lstat, top + b"n" * 256), attempt(os.unlink, top + b"n" * 256)]
        for name in ODD[::2]:
            (os.rmdir if kind == "directory" else os.unlink)(top + name)
        return [*seen, sorted(os.listdir(top))]

    pair.same(act)
    pair.remount()


def test_odd_names_in_the_base(sandbox: MountSandbox) -> None:
    """Base entries with odd names can be listed, read, changed, renamed and removed."""
    overlay = sandbox.overlay()
    base, mnt = os.fsencode(overlay.base) + b"/", os.fsencode(overlay.mnt) + b"/"
    for name in ODD:
        make(base + name, name)
    overlay.mount()
    assert set(os.listdir(mnt)) == set(ODD)
    for at, name in enumerate(ODD):
        with open(mnt + name, "rb") as file:
            assert file.read() == name
        if at % 3 == 0:
            os.unlink(mnt + name)
        elif at % 3 == 1:
            os.rename(mnt + name, mnt + b"new" + name[:250])
        else:
            os.chmod(mnt + name, 0o600)
    overlay.remount()
    left = {b"new" + name[:250] if at % 3 == 1 else name for at, name in enumerate(ODD) if at % 3}
    assert set(os.listdir(mnt)) == left


def test_long_paths(pair: Pair) -> None:
    """Deep directories work up to PATH_MAX and beyond it by descriptors."""

    def act(_: str) -> list[Any]:
        seen: list[Any] = [attempt(os.stat, "/".join(["d" * 200] * 30))]
        for _ in range(30):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        make("bottom", b"deep")
        seen.append(Path("bottom").read_bytes())
        for _ in range(30):
            os.chdir("..")
        return seen

    pair.same(act)
    pair.same(lambda _: run("rm", "-rf", "d" * 200).returncode)


# -- directories


def test_directory_errors(pair: Pair) -> None:
    """mkdir, rmdir, unlink, mknod, open and chdir in the wrong place fail with the same errnos."""

    def act(root: str) -> list[Any]:
        os.mkdir("new")
        make("dir2/made")
        names = ["a", "dir", "void", "new", "missing", "symlink", "dirlink", "dangling", "loop", "a/x", "missing/x",
                 ".", "", "dir/", "a/", "void/.", "dir2/..", "dirlink/", "null"]  # fmt: skip
        seen: list[Any] = []
        for name in names:
            seen += [(name, call.__name__, attempt(call, name)) for call in (os.mkdir, os.unlink, os.rmdir, os.mkfifo)]
            seen += [attempt(os.symlink, "x", name), attempt(os.chdir, name)]
            os.chdir(root)
        return seen

    pair.same(act)


def test_rmdir_when_merged_empty(pair: Pair) -> None:
    """A directory goes when all it shows is gone, be it base entries deleted, moved out, or new ones removed."""

    def act(_: str) -> list[Any]:
        seen = [attempt(os.rmdir, "dir2")]
        os.rename("dir2/one", "moved")
        seen += [os.listdir("dir2"), attempt(os.rmdir, "dir2")]
        seen.append(attempt(os.rmdir, "dir/sub"))
        os.unlink("dir/sub/three")
        seen.append(attempt(os.rmdir, "dir/sub"))
        os.unlink("dir/sub/deep/four")
        os.rmdir("dir/sub/deep")
        make("dir/sub/new")
        seen.append(attempt(os.rmdir, "dir/sub"))
        os.unlink("dir/sub/new")
        seen += [attempt(os.rmdir, "dir/sub"), attempt(os.stat, "dir/sub")]
        os.mkdir("dir/sub")  # an opaque one: nothing of the base may shine through
        return [*seen, os.listdir("dir/sub"), os.stat("dir/sub").st_nlink, attempt(os.stat, "dir/sub/three")]

    pair.same(act)
    pair.remount()
    pair.same(lambda _: [os.listdir("dir/sub"), os.rmdir("dir/sub"), sorted(os.listdir("dir"))])


def test_removed_and_made_anew(pair: Pair) -> None:
    """Every type can take the place of every other type, several times, also across a new mount."""

    def act(_: str) -> list[Any]:
        makers = [make, os.mkdir, os.mkfifo, lambda name: os.symlink("x", name), lambda name: os.link("b", name)]
        for name in ("a", "dir", "symlink", "fifo", "hard1", "big"):
            for maker in makers:
                run("rm", "-rf", name)
                maker(name)
        return [oct(os.lstat(name).st_mode) for name in ("a", "dir", "symlink", "fifo", "hard1", "big")]

    pair.same(act)
    pair.remount()
    pair.same(act)


def names_while(place: str, change: Any) -> Iterator[str]:
    """The names of a directory, *change* called after each."""
    with os.scandir(place) as entries:
        for entry in entries:
            change(entry.name)
            yield entry.name


def test_deleting_while_reading(pair: Pair) -> None:
    """Deleting 3,000 base and new names while the directory is read misses none and repeats none."""

    def act(_: str) -> list[Any]:
        for at in range(3000):
            make(f"void/{at}")
        seen = list(names_while("void", lambda name: os.unlink(f"void/{name}")))
        return [len(seen), len(set(seen)), os.listdir("void"), attempt(os.rmdir, "void")]

    pair.same(act)


def test_deleting_a_large_base_directory_while_reading(sandbox: MountSandbox) -> None:
    """rm -r of 3,000 base names, with another reader beside it, leaves nothing and repeats nothing."""
    overlay = sandbox.overlay()
    (overlay.base / "large").mkdir()
    for at in range(3000):
        (overlay.base / f"large/{at}").touch()
    overlay.mount()
    problems: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            names = os.listdir(overlay.mnt / "large")
            if len(names) != len(set(names)):
                problems.append("a name was listed twice")
            time.sleep(0.05)

    reader = threading.Thread(target=watch)
    reader.start()
    seen = list(names_while(str(overlay.mnt / "large"), lambda name: os.unlink(overlay.mnt / "large" / name)))
    done.set()
    reader.join()
    assert (len(seen), len(set(seen)), problems) == (3000, 3000, [])
    os.rmdir(overlay.mnt / "large")
    overlay.remount()
    assert os.listdir(overlay.mnt) == []


def test_creating_while_reading(pair: Pair) -> None:
    """Names that are there all the time are listed exactly once while another process creates, renames and deletes."""

    def act(_: str) -> list[Any]:
        for at in range(300):
            make(f"void/stays{at}")
        child = os.fork()
        if child == 0:
            chance = random.Random(1)
            for at in range(600):
                make(f"void/x{at}")
                if chance.random() < 0.5:
                    os.rename(f"void/x{at}", f"void/y{at}")
                else:
                    os.unlink(f"void/x{at}")
            os._exit(0)
        wrong = 0
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            stays = [name for name in os.listdir("void") if name.startswith("stays")]
            wrong += len(stays) != 300 or len(set(stays)) != 300
        return [wrong, len([name for name in os.listdir("void") if name.startswith("stays")])]

    pair.same(act)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = _libc.readdir.restype = ctypes.c_void_p
_libc.telldir.restype = ctypes.c_long
for _function in (_libc.readdir, _libc.telldir, _libc.rewinddir, _libc.closedir):
    _function.argtypes = [ctypes.c_void_p]
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]


def entry(stream: int) -> bytes | None:
    """The next name of a directory stream, None at its end."""
    found = _libc.readdir(stream)
    return ctypes.string_at(found + 19) if found else None  # d_name of struct dirent on 64-bit Linux


def test_seeking_in_a_directory(pair: Pair) -> None:
    """seekdir leads back to where telldir was, rewinddir to the start with new names, in a large directory."""

    def act(_: str) -> list[Any]:
        for at in range(1000):
            make(f"void/{at}")
        stream = _libc.opendir(b"void")
        places, names = [], []
        while True:
            places.append(_libc.telldir(stream))
            name = entry(stream)
            if name is None:
                break
            names.append(name)
        right = 0
        for at in (0, 1, 2, 500, 999, 1001, 3):
            _libc.seekdir(stream, places[at])
            right += entry(stream) == names[at]
        make("void/late")
        os.unlink("void/7")
        _libc.rewinddir(stream)
        again = []
        while (name := entry(stream)) is not None:
            again.append(name)
        _libc.closedir(stream)
        return [len(names), len(set(names)), right, sorted(again)]

    pair.same(act)


def test_types_and_numbers_in_listings(pair: Pair) -> None:
    """Listings tell the type and the inode number that stat tells, for objects of every origin."""

    def act(_: str) -> list[Any]:
        make("new")
        os.rename("b", "renamed")
        os.chmod("c", 0o600)
        seen = []
        with os.scandir(".") as entries:
            for item in entries:
                st = os.lstat(item.name)
                types = item.is_dir(follow_symlinks=False), item.is_symlink()
                right = types == (stat.S_ISDIR(st.st_mode), stat.S_ISLNK(st.st_mode))
                seen.append((item.name, item.inode() == st.st_ino, right))
        return sorted(seen)

    pair.same(act)


# -- numbers and figures


def test_inode_numbers_are_stable(pair: Pair) -> None:
    """Numbers are the base's own for base objects, and stay through copy-up, rename and a new mount."""
    top = pair.mounted
    before = {name: number(f"{top}/{name}") for name in os.listdir(top)}
    base = pair.parity_mount.overlay.base / pair.name
    assert before == {name: number(f"{base}/{name}") for name in os.listdir(base)}
    for path in (pair.mounted, pair.plain):
        Path(f"{path}/a").write_text("changed")
        os.chmod(f"{path}/big", 0o600)
        os.truncate(f"{path}/b", 1)
        os.rename(f"{path}/c", f"{path}/c2")
        os.rename(f"{path}/dir", f"{path}/dir3")
        make(f"{path}/new")
        os.link(f"{path}/hard1", f"{path}/hard9")
    after = {name: number(f"{top}/{name}") for name in os.listdir(top)}
    new = after["new"]
    assert new not in set(before.values())
    expected = {**before, "c2": before["c"], "dir3": before["dir"], "new": new, "hard9": before["hard1"]}
    del expected["c"], expected["dir"]
    assert after == expected
    pair.remount()
    assert {name: number(f"{top}/{name}") for name in os.listdir(top)} == expected
    assert number(str(pair.parity_mount.overlay.mnt)) == 1
    assert len({os.lstat(f"{top}/{name}").st_dev for name in after}) == 1


def test_figures_are_those_of_storage(parity_mount: ParityMount) -> None:
    """statfs tells what the file system of storage has, with names up to 255 bytes."""
    mounted, storage = os.statvfs(parity_mount.overlay.mnt), os.statvfs(parity_mount.overlay.sto)
    for field in ("f_bsize", "f_frsize", "f_blocks", "f_files"):
        assert getattr(mounted, field) == getattr(storage, field)
    assert abs(mounted.f_bavail - storage.f_bavail) < storage.f_blocks // 100
    assert mounted.f_namemax == 255
    assert os.pathconf(parity_mount.overlay.mnt, "PC_NAME_MAX") == 255


def test_a_tree_walk_by_everybody(pair: Pair) -> None:
    """find, ls, du, cp, tar and diff agree with each other on both sides."""

    def act(_: str) -> list[Any]:
        listing = run("find", ".", "-printf", "%p %y %m %U %G %s %l %T@\n").stdout.replace(" 4096 ", " d ")
        tar = ["tar", "--xattrs", "--xattrs-include=*", "--acls"]
        names = ["a", "big", "dir", "tagged", "listed", "hard1", "hard2", "symlink", "fifo", "null"]
        run(*tar, "-cf", "dir2/all.tar", *names)
        run(*tar, "-xpf", "dir2/all.tar", "-C", "void")
        os.unlink("dir2/all.tar")
        run("cp", "-a", "dir", "void2")
        return [sorted(listing.splitlines()), run("diff", "-r", "dir", "void/dir").stdout]

    pair.same(act)
    pair.remount()


def test_mknod_by_others(pair: Pair) -> None:
    """A user without privileges makes fifos and sockets where it may write, but no devices."""

    def act(_: str) -> list[Any]:
        kinds = (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, 0, stat.S_IFDIR)
        return [attempt(os.mknod, f"mydir/n{kind}", kind | 0o640, os.makedev(1, 3)) for kind in kinds]

    pair.same(act, uid=USER)


def test_many_processes_at_once(pair: Pair) -> None:
    """Eight processes that make, rename, link and remove names in one directory leave what they should."""

    def worker(which: int) -> None:
        for at in range(150):
            make(f"void/{which}-{at}", b"%d" % at)
            os.rename(f"void/{which}-{at}", f"void/r{which}-{at}")
            os.link(f"void/r{which}-{at}", f"void/l{which}-{at}")
            if at % 2:
                os.unlink(f"void/r{which}-{at}")

    def act(_: str) -> list[Any]:
        children = []
        for which in range(8):
            child = os.fork()
            if child == 0:
                worker(which)
                os._exit(0)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        return [codes, sorted(os.listdir("void"))]

    pair.same(act)


def test_exec_and_umask_in_children(pair: Pair) -> None:
    """Shell scripts with redirections, pipes and here-documents work inside the mount."""
    script = "set -e; mkdir -p x/y; echo one > x/y/f; cat a >> x/y/f; (cd x && mv y z); sort x/z/f | tee s; rm -r x"
    pair.same(lambda _: run("sh", "-c", script).stdout)


def test_everything_survives_a_new_mount(parity_mount: ParityMount) -> None:
    """After all that, unmounting and mounting shows the same, no invariant is broken, the base is untouched."""
    parity_mount.survive()
