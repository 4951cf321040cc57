"""Podman and buildah with minifo as their mount program: run, commit, build, and the same images as without it."""

from __future__ import annotations

import hashlib
import os
import resource
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shared.waiting import wait_until
from tests.system.debian_root import ROOT, mirror

PROGRAM = Path(sys.executable).parent / "minifo-mount-program"
#: Changes of all kinds; a name that is moved in the step that made it, too.
CONTAINERFILE = """
FROM base:1
RUN rm -r /usr/share/doc && mkdir -p /srv/app && cd /srv/app && echo one > one && chown 7:8 one && ln one two
RUN useradd -m user && touch /home/user/own && chown user /home/user/own
RUN mv /usr/share/zoneinfo /usr/share/zones && ln -s zones /usr/share/zone
RUN rm -rf /var/lib/apt && mkdir /var/lib/apt && echo new > /var/lib/apt/fresh && chmod 4750 /usr/bin/env
COPY file /srv/app/file
RUN mv /srv/app/file /srv/app/moved && mkfifo /srv/fifo && setfattr -n user.color -v red /srv/app/moved || true
"""
#: What programs of the build write the time of day or random numbers into: passwords, caches, logs.
DATED = ("etc/group", "etc/gshadow", "etc/passwd", "etc/shadow", "var/cache/", "var/log/")
#: Containers need no cgroups here; crun refuses to start where the machine has those of both versions.
WITHOUT_CGROUPS = 'umount -R /sys/fs/cgroup; mount -t tmpfs none /sys/fs/cgroup; exec "$@"'
RUN = ("run", "--network=none", "--cgroups=disabled", "--security-opt=seccomp=unconfined")

#: A machine on which a user may use FUSE, and reach the program wherever this tree and its python are.  It goes with
#: its first process: users, mounts, and what podman leaves running.
MACHINE = r"""
mount -t tmpfs none /run
number=0
for needed in NEEDED; do
    number=$((number + 1)); mkdir /run/$number; mount --bind "$needed" /run/$number
done
for closed in CLOSED; do mount -t tmpfs -o mode=755 none "$closed"; done
number=0
for needed in NEEDED; do
    number=$((number + 1)); mkdir -p "$needed"; mount --bind /run/$number "$needed"
done
mknod -m 666 /run/fuse c 10 229
mount --bind /run/fuse /dev/fuse
cp -a /etc HOME/etc
mount --bind HOME/etc /etc
useradd --create-home --home-dir HOME/user somebody
user=$(id -u somebody)
install -d -m 700 -o somebody /run/user/$user
cd HOME/user
setpriv --reuid=somebody --regid=somebody --init-groups env -i HOME=HOME/user PATH=/usr/bin:/bin \
    XDG_RUNTIME_DIR=/run/user/$user CONTAINERS_CONF=HOME/containers.conf CONTAINERS_STORAGE_CONF=HOME/storage.conf \
    sh -euc "$1"
"""


class Podman:
    """Podman with storage of its own.

    Args:
        home: an empty directory.
        program: the mount program; None for the kernel's overlayfs.
    """

    def __init__(self, home: Path, program: Path | None) -> None:
        self.home = home
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        (home / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\n'
            '[engine]\nruntime = "crun"\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n'
        )
        (home / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\nrunroot = "{home}/run"\ngraphroot = "{home}/graph"\n'
            + (f'[storage.options.overlay]\nmount_program = "{program}"\n' if program else "")
        )

    def __call__(self, *arguments: str | Path, check: bool = True) -> str:
        """Run podman; return what it said on standard output."""
        done = subprocess.run(
            ["sh", "-c", WITHOUT_CGROUPS, "sh", "podman", *arguments],
            env=os.environ
            | {
                "CONTAINERS_CONF": f"{self.home}/containers.conf",
                "CONTAINERS_STORAGE_CONF": f"{self.home}/storage.conf",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0 or not check, f"podman {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}"
        return done.stdout

    def image(self, name: str) -> dict[str, tuple[object, ...]]:
        """What is in an image: for each path all that matters, without the times of this run."""
        root = Path(self("image", "mount", name).strip())
        try:
            return tree(root)
        finally:
            self("image", "unmount", name)


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Type, mode, owner, links, extended attributes and bytes of everything below a directory."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(directory, name)
            st = os.lstat(path)
            attributes = sorted(
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in os.listxattr(path, follow_symlinks=False)
            )
            body: object = None
            if stat.S_ISREG(st.st_mode):
                body = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            elif stat.S_ISLNK(st.st_mode):
                body = os.readlink(path)
            links = 0 if stat.S_ISDIR(st.st_mode) else st.st_nlink
            found[os.path.relpath(path, root)] = (st.st_mode, st.st_uid, st.st_gid, links, attributes, body)
    return found


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> Path:
    """A small Debian, as an archive."""
    path = tmp_path_factory.mktemp("rootfs") / "debian.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=attr", "trixie", path, mirror()]
    subprocess.run(command, check=True, timeout=300)
    return path


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory, rootfs: Path) -> Podman:
    """Podman with minifo, and an image ``base:1``."""
    found = Podman(tmp_path_factory.mktemp("podman"), PROGRAM)
    found("import", rootfs, "base:1")
    return found


def test_podman_takes_the_program(podman: Podman) -> None:
    """``podman info`` names it, with its version."""
    told = podman("info")
    assert f"Executable: {PROGRAM}" in told
    assert "minifo-mount-program: minifo" in told


def test_changes_of_a_container(podman: Podman) -> None:
    """They are there at its next start, in ``podman diff``, and in an image that is made of it."""
    script = "echo $$ >> /starts; rm -f /etc/motd; chmod 700 /srv; grep -c . /starts; grep ' / ' /proc/mounts"
    told = podman(*RUN, "--name=one", "base:1", "sh", "-c", script)
    assert told.startswith("1\n")
    assert "fuse.minifo" in told
    assert podman("start", "--attach", "one").startswith("2\n")
    told = podman("diff", "one")
    print(told)
    assert set(told.splitlines()) >= {"A /starts", "D /etc/motd", "C /srv"}
    podman("commit", "--quiet", "one", "two")
    assert (
        podman(*RUN, "--rm", "two", "sh", "-c", "ls /etc/motd; stat -c %a /srv; grep -c . /starts", check=False)
        == "700\n2\n"
    )
    podman("rm", "one")


def test_image_is_the_same_as_with_the_kernel(
    podman: Podman, rootfs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A build gives the same image as with overlayfs: each path, mode, owner, link, attribute and byte.

    No step changes a file with two names of an earlier step: there overlayfs would part the names.
    """
    context = tmp_path_factory.mktemp("context")
    (context / "Containerfile").write_text(CONTAINERFILE)
    (context / "file").write_text("data")
    kernel = Podman(tmp_path_factory.mktemp("kernel"), None)
    kernel("import", rootfs, "base:1")
    for one in (podman, kernel):
        one("build", "--network=host", "--isolation=chroot", "--tag=app", context)
    expected = kernel.image("app")
    assert expected["srv/app/moved"][-1] == hashlib.sha256(b"data").hexdigest()
    assert expected["srv/app/one"][3] == 2
    assert "usr/share/doc" not in expected
    assert "var/lib/apt/lists" not in expected
    built = podman.image("app")
    different = {path for path in built.keys() | expected.keys() if built.get(path) != expected.get(path)}
    assert {path for path in different if not path.startswith(DATED)} == set()
    print(f"{len(built):,} paths of an image of 7 steps are the same as with overlayfs")


def test_killed_daemon_of_a_container(podman: Podman) -> None:
    """After kill -9 of the daemon under a running container everything that it wrote is there."""
    podman(*RUN, "--detach", "--name=killed", "base:1", "sh", "-c", "echo kept > /kept; touch /done; sleep 1000")
    wait_until(lambda: "A /done" in podman("diff", "killed"), "the container has written")
    (storage,) = {lock.parent for lock in podman.home.glob("graph/overlay/*/work/minifo/lock") if holder(lock)}
    os.kill(holder(storage / "lock"), signal.SIGKILL)
    podman("kill", "killed", check=False)
    podman("wait", "killed", check=False)
    podman("commit", "--quiet", "killed", "kept")
    assert podman(*RUN, "--rm", "kept", "cat", "/kept") == "kept\n"
    for words, told in (("minifo diff", "A  /kept\n"), ("minifo-fsck", ": clean\n")):
        program, *verb = words.split()
        done = subprocess.run([PROGRAM.with_name(program), *verb, storage], capture_output=True, text=True, check=True)
        assert told in done.stdout
    podman("rm", "--force", "killed")


def holder(lock: Path) -> int:
    """The process that a lock names, if it runs; else 0."""
    text = lock.read_text().strip()
    return int(text) if text.isdigit() and Path(f"/proc/{text}").exists() else 0


def test_container_in_a_user_namespace(podman: Podman) -> None:
    """Root of a container is another user outside; its files are root's in the container."""
    ids = ("--uidmap=0:100000:5000", "--gidmap=0:100000:5000")
    script = "touch /own; chown 7:8 /own; stat -c %u:%g /own /etc/passwd /etc/mtab; cat /proc/self/uid_map"
    told = podman(*RUN, *ids, "--rm", "base:1", "sh", "-c", script).split()
    assert told[:3] == ["7:8", "0:0", "0:0"]
    assert told[3:] == ["0", "100000", "5000"]


def test_owners_as_fuse_overlayfs_shows_them(tmp_path: Path) -> None:
    """The same options give the same owners, as they show and as they are stored."""
    words = ["uidmapping=0:1000:10:50:0:1,gidmapping=0:2000:10", "squash_to_root", "squash_to_uid=7,squash_to_gid=8"]
    for number, word in enumerate(words):
        shown, stored = [], []
        for name, program in (("minifo", str(PROGRAM)), ("other", "fuse-overlayfs")):
            home = tmp_path / f"{name}-{number}"
            lower, upper, work, merged = (home / part for part in ("lower", "upper", "work", "merged"))
            for path in (lower, upper, work, merged):
                path.mkdir(parents=True)
            for owner in (0, 5, 50, 4000):
                (lower / str(owner)).touch()
                os.chown(lower / str(owner), owner, owner)
            places = f"lowerdir={lower},upperdir={upper},workdir={work}"
            subprocess.run([program, "-o", f"{places},{word}", merged], check=True, timeout=60)
            try:
                if "mapping" in word:
                    os.chown(merged / "5", 1003, 2004)
                shown.append({path.name: (path.stat().st_uid, path.stat().st_gid) for path in merged.iterdir()})
            finally:
                subprocess.run(["fusermount3", "-u", merged], check=True)
            subprocess.run([program, "-o", places, merged], check=True, timeout=60)
            try:
                stored.append({path.name: (path.stat().st_uid, path.stat().st_gid) for path in merged.iterdir()})
            finally:
                subprocess.run(["fusermount3", "-u", merged], check=True)
        assert shown[0] == shown[1], word
        assert stored[0] == stored[1], word


@pytest.fixture
def open_home() -> Iterator[Path]:
    """A directory that every user can reach."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def closed_to_others(paths: list[Path]) -> list[Path]:
    """The topmost directories above *paths* that other users may not enter."""
    found = set()
    for path in paths:
        above = (one for one in reversed(path.parents) if not one.stat().st_mode & stat.S_IXOTH)
        found |= {next(above, path)} - {path}
    return sorted(found)


def test_containers_of_a_user(open_home: Path, rootfs: Path) -> None:
    """Without root: run, commit and build; the redo log is in the user's memory, so writing is as fast as for root."""
    Podman(open_home, PROGRAM)  # for its configuration
    (open_home / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\nrunroot = "{open_home}/user/run"\ngraphroot = "{open_home}/user/graph"\n'
        f'rootless_storage_path = "{open_home}/user/graph"\n'
        f'[storage.options.overlay]\nmount_program = "{PROGRAM}"\n'
    )
    (open_home / "base.tar").write_bytes(rootfs.read_bytes())
    (open_home / "Containerfile").write_text("FROM base:1\nRUN rm /etc/issue && chown 5:6 /srv && echo made > /made\n")
    run = " ".join(RUN)
    commands = f"""
        podman import -q {open_home}/base.tar base:1
        podman {run} --name=one base:1 sh -c "rm /etc/issue; chown 5:6 /srv; echo made > /made; grep ' / ' /proc/mounts"
        podman commit -q one two
        podman {run} -d base:1 sleep 1000
        ls $XDG_RUNTIME_DIR/minifo
        podman build -q --network=host --isolation=chroot -t three {open_home}
        for image in two three; do
            podman {run} --rm $image sh -c "ls /etc/issue; stat -c %u:%g /srv; cat /made" || true
        done
        podman kill -a
    """
    needed = [Path(sys.base_prefix), Path(sys.prefix), ROOT]
    lists = {"NEEDED": needed, "CLOSED": closed_to_others(needed)}
    machine = MACHINE.replace("HOME/", f"{open_home}/")
    for word, paths in lists.items():
        machine = machine.replace(word, " ".join(shlex.quote(str(path)) for path in paths))
    spaces = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        ["sh", "-c", WITHOUT_CGROUPS, "sh", *spaces, "sh", "-euc", machine, "sh", commands],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "fuse.minifo" in done.stdout
    assert ".redo" in done.stdout
    assert done.stdout.count("5:6\nmade\n") == 2
    assert "/etc/issue\n" not in done.stdout
