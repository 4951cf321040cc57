"""Three-way merges of texts with diff3(1) of the GNU diffutils.

diff3 reads the three texts from files in memory (memfd_create(2)), because they may be secret.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from ...engine import StateError

LONGEST = 4 << 20  # bytes of a text that can be merged, at most


def merge_text(ours: bytes, ancestor: bytes, theirs: bytes) -> bytes | None:
    """Return *ours* with the changes from *ancestor* to *theirs* applied, or None if both changed the same lines.

    Raises:
        StateError: the program diff3 is not installed, or failed.
    """
    if ours == theirs or ancestor == theirs:
        return ours
    if ancestor == ours:
        return theirs
    program = shutil.which("diff3")
    if program is None:
        raise StateError("the policy merge needs the program diff3", "install the diffutils, or choose another policy")
    fds: list[int] = []
    try:
        for text in (ours, ancestor, theirs):
            fd = os.memfd_create("text")
            fds.append(fd)
            with open(fd, "wb", closefd=False) as file:
                file.write(text)
        names = [f"/proc/self/fd/{fd}" for fd in fds]
        # -E: lines that both have changed in the same way are no conflict
        command = [program, "-E", "-m", "--text", "--", *names]
        done = subprocess.run(
            command, pass_fds=fds, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"}
        )
    finally:
        for fd in fds:
            os.close(fd)
    if done.returncode == 1:
        return None
    if done.returncode:
        raise StateError(f"diff3 failed: {done.stderr.decode(errors='replace').strip()}", "choose another policy")
    return done.stdout


def is_text(data: bytes) -> bool:
    """Return whether the bytes are a text, which can be merged line by line."""
    return b"\0" not in data
