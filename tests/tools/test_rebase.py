"""``minifo rebase`` as it is typed: tables, JSON, exit codes, refusals."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from minifo.engine.store.memory_directory import memory_directory
from minifo.tools.cli import main
from tests.shared.rebase_sandbox import BIG, RebaseSandbox, remove, rewrite

pytestmark = pytest.mark.logs("is not the one of the last mount", always=False)


def run(rebase_sandbox: RebaseSandbox, *arguments: str) -> int:
    """Give the command, with storage and base."""
    rebase_sandbox.close()
    return main(["rebase", str(rebase_sandbox.sto), "--base", str(rebase_sandbox.base), *arguments])


def updated(rebase_sandbox: RebaseSandbox) -> None:
    """A file to keep, one to decide about, a name that waits, one with odd bytes, and one that is as it was."""
    for name in ("a", "b", "c", "\udcff\n", "same"):
        rebase_sandbox.put(name, os.urandom(BIG))
    rebase_sandbox.write("a", b"ours")
    rebase_sandbox.write("b", b"ours")
    rebase_sandbox.rename("c", "C")
    rebase_sandbox.set("\udcff\n", mode=0o600)
    rebase_sandbox.set("same", mode=0o600)

    def update(base: Path) -> None:
        rewrite(base, "a", b"new")
        rewrite(base, "b", b"new")
        rewrite(base, "\udcff\n", b"new")
        remove(base, "c")

    rebase_sandbox.replace(update)


def test_plan_for_people(rebase_sandbox: RebaseSandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each thing that the new base concerns, reasons below, a sum; 3 where something is to be decided."""
    updated(rebase_sandbox)
    assert run(rebase_sandbox) == 3
    assert capsys.readouterr().out.splitlines() == [
        "ours        base           would settle     path",
        "name        gone           wait             /C",
        "some blocks other version  conflict         /a",
        " " * 44 + "some blocks are only in the old version; give --old-base, or the policy theirs",
        "some blocks other version  conflict         /b",
        " " * 44 + "some blocks are only in the old version; give --old-base, or the policy theirs",
        "attributes  changed        keep ours        /\\xff\\n",
        "1 to settle, 2 conflicts, 1 waiting for the old base, 1 as before",
    ]
    assert run(rebase_sandbox, "--old-base", str(rebase_sandbox.old), "--policy", "theirs:/b", "--apply") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "ours        base           settled          path"
    assert out[-1] == "3 settled, 1 waiting for the old base, 1 as before, 199996 bytes copied"
    assert run(rebase_sandbox) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 to settle, 1 waiting for the old base, 3 as before"


def test_plan_for_scripts(rebase_sandbox: RebaseSandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """The keys are for good; names that are no UTF-8 survive."""
    updated(rebase_sandbox)
    assert run(rebase_sandbox, "--json", "--policy", "theirs:/a") == 3
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["storage", "base", "old_base", "applied", "counts", "conflicts", "bytes", "entries"]
    assert (found["applied"], found["conflicts"], found["counts"]["partial"], found["counts"]["unchanged"]) == (
        False,
        1,
        2,
        1,
    )
    assert found["entries"][1] == {
        "path": "/a",
        "base_path": "/a",
        "held": "part",
        "became": "partial",
        "shows": True,
        "policy": "theirs",
        "action": "take",
        "completed": False,
        "bytes": 0,
        "why": None,
    }
    assert found["entries"][0]["path"] == "/C"
    assert found["entries"][3]["path"] == "/\udcff\n"


def test_it_is_noted_in_the_journal(rebase_sandbox: RebaseSandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """Once, where it settled something: with a plan alone, or with conflicts alone, nothing was changed."""
    rebase_sandbox.put("f", os.urandom(BIG))
    rebase_sandbox.put("g")
    rebase_sandbox.open(journal=10)
    rebase_sandbox.write("f", b"ours")
    rebase_sandbox.set("g", mode=0o600)
    rebase_sandbox.replace(lambda base: rewrite(base, "f", b"new"))

    def noted() -> list[str]:
        assert main(["log", "--json", "--base", str(rebase_sandbox.base), str(rebase_sandbox.sto)]) == 0
        return [json.loads(line)["op"] for line in capsys.readouterr().out.splitlines()]

    assert run(rebase_sandbox, "--apply") == 3
    assert run(rebase_sandbox, "--policy", "theirs") == 0
    capsys.readouterr()
    assert noted() == ["write", "chmod"]
    assert run(rebase_sandbox, "--policy", "theirs", "--apply") == 0
    capsys.readouterr()
    assert noted() == ["write", "chmod", "rebase"]
    assert main(["log", "--op", "rebase", "--base", str(rebase_sandbox.base), str(rebase_sandbox.sto)]) == 0
    assert capsys.readouterr().out.split()[2:] == [*_me(), "/"]


def _me() -> list[str]:
    return ["rebase", pwd.getpwuid(os.getuid()).pw_name, str(os.getpid()), Path("/proc/self/comm").read_text().strip()]


def test_what_is_refused(rebase_sandbox: RebaseSandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line that says what to do; nothing is changed, and nothing is made of an empty directory."""
    updated(rebase_sandbox)
    assert run(rebase_sandbox, "--policy", "mine") == 1
    assert "'mine' is not a policy" in capfd.readouterr().err
    assert run(rebase_sandbox, "--prepare", "--apply") == 1
    assert "--prepare goes with --base only" in capfd.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["rebase", str(empty), "--base", str(rebase_sandbox.base), "--apply"]) == 2
    assert "holds no overlay" in capfd.readouterr().err
    assert os.listdir(empty) == []
    assert main(["rebase", str(rebase_sandbox.sto), "--base", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capfd.readouterr().err
    assert run(rebase_sandbox, "--old-base", str(tmp_path / "nowhere")) == 2
    assert "does not exist" in capfd.readouterr().err


def test_mounted_storage_is_refused(rebase_sandbox: RebaseSandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither planned nor settled while somebody has it open for writing."""
    updated(rebase_sandbox)
    rebase_sandbox.open()
    for arguments in ([], ["--apply"], ["--prepare"]):
        assert main(["rebase", str(rebase_sandbox.sto), "--base", str(rebase_sandbox.base), *arguments]) == 2
        assert f"process {os.getpid()}" in capfd.readouterr().err


def test_a_wrong_base(rebase_sandbox: RebaseSandbox, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Planned it shows; applied it is refused unless it is meant."""
    updated(rebase_sandbox)
    rebase_sandbox.base = tmp_path / "wrong"
    rebase_sandbox.base.mkdir()
    assert run(rebase_sandbox) == 3
    capfd.readouterr()
    assert run(rebase_sandbox, "--apply") == 2
    err = capfd.readouterr().err
    assert "is likely the wrong one" in err
    assert err.endswith("give the right base, or --any-base if this one is right\n")
    assert run(rebase_sandbox, "--prepare") == 2
    assert "any-base" not in capfd.readouterr().err
    assert run(rebase_sandbox, "--apply", "--any-base") == 3


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_operations_of_a_killed_daemon_come_first(rebase_sandbox: RebaseSandbox) -> None:
    """What the redo log has is replayed and made durable; the rebase is not in any log."""
    directory = memory_directory()
    if directory is None:
        pytest.skip("no tmpfs")
    rebase_sandbox.put("f", b"base")
    rebase_sandbox.write("f", b"ours")
    rebase_sandbox.close()
    rebase_sandbox.open(redo_directory=directory)
    rebase_sandbox.create("late", b"acknowledged")
    rebase_sandbox.kill()
    rebase_sandbox.replace(lambda base: rewrite(base, "f", b"newer"))
    assert run(rebase_sandbox, "--policy", "theirs", "--apply") == 0
    assert (rebase_sandbox.read("late"), rebase_sandbox.read("f")) == (b"acknowledged", b"newer")
    rebase_sandbox.close()
    assert not [name for name in os.listdir(directory) if room_uuid(rebase_sandbox) in name]


def room_uuid(rebase_sandbox: RebaseSandbox) -> str:
    """The identity of its storage."""
    uuid = rebase_sandbox.ov.uuid
    rebase_sandbox.close()
    return uuid


def test_no_mount_is_needed() -> None:
    """Neither trio nor pyfuse3 is imported."""
    code = "import sys; import minifo.tools.rebase; print([m for m in ('trio', 'pyfuse3') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
