"""Podman and buildah with minifo as their mount program: run, commit, build, and the same images as without it."""

from __future__ import annotations

import hashlib
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.debian_root import mirror

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
