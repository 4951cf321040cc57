"""The machine, and the versions of what is compared, in a sentence."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path


def _words(*command: str) -> str:
    """What a command prints, or nothing where it is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout + done.stderr


def _version(command: str, before: str) -> str:
    found = re.search(rf"{before}(\S+)", _words(command, "--version"))
    return found[1] if found else "missing"


def machine(directory: Path) -> str:
    """Processor, memory, the disk of *directory*, the kernel, and the versions of the programs."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    disk = " on ".join(_words("findmnt", "-n", "-o", "FSTYPE,SOURCE", "-T", str(directory)).split())
    commit = _words("git", "-C", str(Path(__file__).parent), "rev-parse", "--short=10", "HEAD").strip()
    parts = [
        f"{os.cpu_count()} cores of {model[1] if model else platform.machine()}",
        f"{memory:.0f} GiB of memory",
        f"an ext4 in an image file on {disk}",
        f"Linux {platform.release()}",
        f"fuse-overlayfs {_version('fuse-overlayfs', 'fuse-overlayfs: version ')}",
        f"unionfs-fuse {_version('unionfs', 'unionfs-fuse version: ')}",
        f"Python {platform.python_version()}",
    ]
    if re.fullmatch("[0-9a-f]{10,}", commit):
        parts.append(f"minifo at {commit}")
    return ", ".join(parts)
