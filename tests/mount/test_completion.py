"""Shell completion, by a real bash, of a real mount."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from minifo.fusefront.mount.options import parse, parse_remount
from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo, minifo_program, run

_ASK = """
source <(minifo completion bash)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*"
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


_TYPED = """
source <(minifo completion bash)
COMP_LINE=$1
read -ra COMP_WORDS < <(sed "s/[=:]/ & /g" <<< "$1")
[[ $1 != *" " ]] || COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_minifo_completion minifo
((${#COMPREPLY[@]} == 0)) || printf '%s\\n' "${COMPREPLY[@]}"
"""


def typed(line: str, cwd: Path | None = None) -> list[str]:
    """What bash offers at the end of a line, which it splits at = and : too (COMP_WORDBREAKS)."""
    env = os.environ | {"PATH": f"{Path(minifo_program()).parent}:{os.environ['PATH']}"}
    done = run("bash", "--norc", "-c", _TYPED, "bash", line, cwd=cwd, env=env)
    assert done.stderr == ""
    return sorted(done.stdout.splitlines())


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("minifo mount -o log=", ["auto", "journal", "kmsg", "stderr", "syslog"]),
        ("minifo mount -o ro,commit=2,log=s", ["stderr", "syslog"]),
        ("minifo mount -o base=/x:y,base_check=w", ["warn"]),
        ("minifo mount --options copy_up=", ["blocks", "whole"]),
        ("minifo mount --options=redo=", ["aside"]),
        ("minifo mount -o ro,jou", ["ro,journal="]),
        ("minifo mount -o commit=", []),
        ("minifo mount -o base=sub", ["sub dir/", "sub/"]),
        ("minifo mount -o ro,sto=sub/", ["sub/below/"]),
        ("minifo status od", ["odd:name"]),
        ("minifo status odd:n", ["name"]),
        ("minifo sta", ["state", "status"]),
    ],
)
def test_mount_options(tmp_path: Path, line: str, offered: list[str]) -> None:
    """Names, and values where there is a choice; bash gets the part that it replaces."""
    for name in ("sub/below", "sub dir", "sub,dir", "odd:name"):
        (tmp_path / name).mkdir(parents=True)
    assert typed(line, tmp_path) == sorted(offered)


def test_every_option_word_is_one() -> None:
    """What is offered is what mount takes."""
    for word in completed("mount", "-o", ""):
        value = {
            "base_check=": "warn",
            "copy_up=": "whole",
            "redo=": "aside",
            "log=": "auto",
            "max_size=": "1g",
            "max_names=": "1000",
        }
        text = word + value.get(word, "7" if word.endswith("=") else "")
        if word.startswith("remount"):
            assert parse_remount([text]) is not None
            continue
        base = None if word in ("base=", "lowerdir=") else "/b"
        parse([text], base=base, storage=None if word in ("sto=", "upperdir=") else "/s")


def test_a_daemon_that_does_not_answer(overlay: OverlayMount) -> None:
    """The user gets the files that are there, and waits for seconds at most."""
    os.kill(overlay.pid, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        assert completed("state", "--sto", overlay.sto, "ke") == []
        assert time.monotonic() - begin < 20
    finally:
        os.kill(overlay.pid, signal.SIGCONT)


def test_a_key_waits_for_few_imports(overlay: OverlayMount) -> None:
    """A TAB takes no longer than a key may: importing takes most of the time (PYTHONPROFILEIMPORTTIME, python(1))."""
    env = os.environ | {"_MINIFO_COMPLETE": "bash_complete", "PYTHONPROFILEIMPORTTIME": "1"}
    for words in ("minifo sta", "minifo status /", f"minifo state {overlay.mnt}/k"):
        env |= {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        done = subprocess.run([minifo_program()], env=env, capture_output=True, text=True, timeout=60, check=True)
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "minifo.tools.cli" in imported
        assert not imported & {"trio", "pyfuse3", "rich", "asyncio", "minifo.fusefront.session"}, words
        assert len(imported) < 400, words


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(shell: str, tmp_path: Path) -> None:
    """Each shell has one; where the shell is installed, it can read it."""
    text = minifo("completion", shell).stdout
    assert "_MINIFO_COMPLETE" in text
    if shutil.which(shell):
        file = tmp_path / "script"
        file.write_text(text)
        run(shell, "-n", file)
