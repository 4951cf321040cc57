"""A Debian of its own: a root file system made by mmdebstrap, and commands run in it as on a machine.

The packages come through the mirror of the system that runs the tests.  Commands see its devices (``/dev/fuse`` among
them) and its network, and have mounts and processes of their own: whatever they leave goes with them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_SOURCES = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
#: Mounts what a command expects, then becomes it.  The root is bound onto itself: ``/`` must be a mount.
_ENTER = """
mount --bind "$0" "$0" && cd "$0" || exit 125
mount --rbind /dev dev && mount -t proc proc proc && mount --rbind /sys sys || exit 125
mount -t tmpfs -o mode=1777 tmpfs tmp && mount -t tmpfs -o mode=755 tmpfs run || exit 125
exec unshare --root="$0" --wd=/ "$@"
"""


def mirror() -> str:
    """Return the address that this system takes its Debian packages from."""
    for source in _SOURCES:
        if source.is_file() and (found := re.search(r"\bhttps?://\S+/debian/?(?=\s|$)", source.read_text())):
            return found[0]
    return "http://deb.debian.org/debian"


@dataclass(frozen=True)
class DebianRoot:
    """A root file system.

    Attributes:
        path: the directory that it is in.
    """

    path: Path

    @classmethod
    def make(cls, suite: str, path: Path, packages: Iterable[str] = ()) -> DebianRoot:
        """Make one.

        Args:
            suite: the Debian, by its code name: ``bookworm``, ``trixie``.
            path: where; it must not exist or be empty.
            packages: what is installed beside the essential packages and apt.

        Raises:
            subprocess.CalledProcessError: mmdebstrap failed; its words are on standard error.
        """
        include = f"--include={','.join(['ca-certificates', *packages])}"
        # No package waits for the disk, and the package lists stay, as on a machine.
        quick = ("--quiet", "--variant=apt", "--dpkgopt=force-unsafe-io", "--skip=cleanup/apt/lists")
        subprocess.run(["mmdebstrap", *quick, include, suite, path, mirror()], check=True, timeout=600)
        # How this system reaches the package indexes: its name servers, and whom it trusts.
        for file in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"):
            shutil.copy(file, path / file.lstrip("/"))
        return cls(path)

    def copy(self, path: Path) -> DebianRoot:
        """Return a copy of it as it is now.

        Args:
            path: where; it must not exist.
        """
        subprocess.run(["cp", "--archive", "--reflink=auto", self.path, path], check=True, timeout=300)
        return DebianRoot(path)

    def entered(self, *command: str, **environment: str) -> tuple[list[str], dict[str, str]]:
        """Return the words and the environment of a command of this system that runs one as root in the other.

        Args:
            command: the program and its arguments, as the root file system has them.
            environment: variables beside PATH, HOME and those that tell pip of its index.
        """
        network = ("PIP_CERT", "PIP_INDEX_URL", "http_proxy", "https_proxy", "no_proxy")
        known = {name: os.environ[name] for name in network if name in os.environ}
        variables = {**known, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        alone = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
        variables |= {"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        return [*alone, "sh", "-c", _ENTER, str(self.path), *command], variables | environment

    def run(self, *command: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command as root in it, and return what it said (standard error among it) and its exit code.

        Args:
            command: as for ``entered``.
            timeout: in seconds.
            environment: as for ``entered``.
        """
        words, variables = self.entered(*command, **environment)
        return subprocess.run(
            words,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )

    def must(self, *command: str, timeout: float = 600, **environment: str) -> str:
        """Run a command as :meth:`run` does, and return what it said; fail the test if it fails."""
        done = self.run(*command, timeout=timeout, **environment)
        last = "\n".join(done.stdout.splitlines()[-40:])
        assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}, and at last said:\n{last}"
        return done.stdout

    def take_checkout(self, path: str = "/src/minifo") -> None:
        """Copy the files of this checkout that git knows into it.

        Args:
            path: where, as the root file system sees it.
        """
        target = self.path / path.lstrip("/")
        target.mkdir(parents=True)
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["cpio", "-0pdm", "--quiet", target], cwd=ROOT, input=files, check=True, timeout=60)
