"""Three-way merges of text, by diff3 of the GNU diffutils (diff3(1)).

The three texts are files in memory only: what is merged may be a secret.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from ...engine import StateError

LONGEST = 4 << 20  # bytes of a text that is merged


def merge_text(ours: bytes, ancestor: bytes, theirs: bytes) -> bytes | None:
    """*ours* with the changes from *ancestor* to *theirs*, or None where both changed the same place.

    Raises:
        StateError: there is no diff3, or it failed.
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
        # -E: only what both changed in different ways is a conflict, not what both changed alike
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
    """True for what can be merged line by line."""
    return b"\0" not in data
