"""Shell completion, by a real bash, of a real mount."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo, minifo_program, run

_ASK = """
source <(minifo completion bash)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_minifo_completion minifo
((${#COMPREPLY[@]} == 0)) || printf '%s\\n' "${COMPREPLY[@]}"
"""


def completed(*words: str | Path, cwd: Path | None = None) -> list[str]:
    """What bash offers for the last of these words, sorted."""
    env = os.environ | {"PATH": f"{Path(minifo_program()).parent}:{os.environ['PATH']}"}
    done = run("bash", "--norc", "-c", _ASK, "bash", "minifo", *map(str, words), cwd=cwd, env=env)
    assert done.stderr == ""
    return sorted(done.stdout.splitlines())


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay in which files and a directory were deleted."""
    found = sandbox.overlay()
    for name in ("kept", "key, old", "gone/file", "gone/filter", "kernel/x", "bad\nname"):
        (found.base / name).parent.mkdir(exist_ok=True)
        (found.base / name).touch()
    found.mount()
    (found.mnt / "key, old").unlink()
    (found.mnt / "bad\nname").unlink()
    shutil.rmtree(found.mnt / "gone")
    minifo("sync", found.mnt)
    return found


def test_verbs_and_options() -> None:
    """Of minifo and of each command."""
    assert completed("sta") == ["state", "status"]
    assert {"mount", "diff", "report", "completion"} <= set(completed(""))
    assert completed("diff", "--ig") == ["--ignore-identical"]
    assert completed("completion", "") == ["bash", "fish", "zsh"]


def test_paths(overlay: OverlayMount) -> None:
    """What is there and what was deleted, however the path begins; one that was deleted as a whole, too."""
    names = ["kept", "kernel", "key, old"]
    assert completed("state", overlay.mnt / "ke") == sorted(str(overlay.mnt / name) for name in names)
    assert completed("cat", "--base", "ke", cwd=overlay.mnt) == sorted(names)
    assert completed("which", "gone/fil", cwd=overlay.mnt) == ["gone/file", "gone/filter"]
    assert completed("state", "b", cwd=overlay.mnt) == []  # its name has a line feed, which ends a name for a shell
    overlay.umount()
    assert completed("state", "--sto", overlay.sto, "ke") == sorted(names)
    assert completed("state", "--sto", overlay.sto, "gone/") == ["gone/file", "gone/filter"]


def test_targets(overlay: OverlayMount) -> None:
    """Mount points from anywhere, and directories."""
    assert str(overlay.mnt) in completed("status", "")
    beside = completed("diff", f"{overlay.mnt.parent}/")
    assert sorted(set(beside)) == sorted(str(path) for path in (overlay.base, overlay.mnt, overlay.sto))


def test_a_daemon_that_does_not_answer(overlay: OverlayMount) -> None:
    """The user gets the files that are there, and waits for seconds at most."""
    os.kill(overlay.pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        assert completed("state", "--sto", overlay.sto, "ke") == []
        assert time.monotonic() - begin < 20
    finally:
        os.kill(overlay.pid, signal.SIGCONT)


def test_processor_time(overlay: OverlayMount) -> None:
    """A TAB takes no longer than a key may."""
    env = os.environ | {"_MINIFO_COMPLETE": "bash_complete", "COMP_CWORD": "2"}
    for words in ("minifo sta", "minifo status /", f"minifo state {overlay.mnt}/k"):
        env |= {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run([minifo_program()], env=env, capture_output=True, timeout=60, check=True)
        took = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        assert took < 0.4, words  # about 0.15 on a quiet machine


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str, tmp_path: Path) -> None:
    """Each shell has one; where the shell is installed, it can read it."""
    text = minifo("completion", shell).stdout
    assert "_MINIFO_COMPLETE" in text
    if shutil.which(shell):
        file = tmp_path / "script"
        file.write_text(text)
        run(shell, "-n", file)
