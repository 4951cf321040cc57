"""``minifo import``: what it prints, its JSON, its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from minifo.tools.cli import main
from tests.mount.mount_sandbox import minifo_program
from tests.shared.overlay_sandbox import OverlaySandbox


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A base, an archive and a branch of unionfs-fuse with the same changes."""
    made = OverlaySandbox(tmp_path)
    made.put("gone")
    made.create("new", b"new")
    made.link("new", "again")
    made.unlink("gone")
    made.close()
    for words in (["oci", "-o", "out.tar"], ["unionfs", "-o", "branch"]):
        assert main(["export", str(made.sto), "--format", *words[:-1], str(tmp_path / words[-1])]) == 0
    return tmp_path


def test_it_says_what_it_made(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In words, and as JSON; a second time there is a storage already."""
    arguments = ["import", "--base", str(place / "base"), "--sto"]
    capsys.readouterr()
    assert main([*arguments, str(place / "new"), str(place / "out.tar")]) == 0
    assert capsys.readouterr().out == f"{place / 'new'} is made of oci: 3 objects, 1 whiteouts\n"
    assert main([*arguments, str(place / "new"), str(place / "out.tar")]) == 1
    assert "is a minifo storage already" in capsys.readouterr().err
    assert main([*arguments, str(place / "json"), "--json", str(place / "branch"), str(place / "out.tar")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["formats"], found["counts"]["objects"]) == (["unionfs", "oci"], 6)
    assert main(["digest", str(place / "new")]) == main(["digest", str(place / "json")]) == 0
    one, two = capsys.readouterr().out.splitlines()
    assert one == two


def test_a_dry_run_lists(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All entries, without a storage; hostile ones are seen."""
    arguments = ["import", "-n", "--base", str(place / "base"), str(place / "out.tar")]
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == "d /\nf /again\nh /new -> /again\nD /gone\n"
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[1]) == {"kind": "f", "path": "/again", "size": 3}
    (place / "out.tar").write_bytes((place / "out.tar").read_bytes()[:700])
    assert main(arguments) == 2
    assert "cut short" in capsys.readouterr().err
    assert sorted(os.listdir(place)) == ["base", "branch", "out.tar", "sto"]


def test_requests_that_are_incomplete(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No storage, no size."""
    arguments = ["import", "--base", str(place / "base"), str(place / "out.tar")]
    for more, text in (([], "--sto DIR"), (["--sto", str(place / "new"), "--max-size", "much"], "--max-size")):
        assert main([*arguments, *more]) == 1
        assert text in capsys.readouterr().err


def test_standard_input(place: Path) -> None:
    """An archive from a pipe, compressed by any program."""
    for number, program in enumerate(("cat", "gzip", "zstd")):
        line = 'set -o pipefail; "$1" -c < out.tar 2>/dev/null || "$1" out.tar'
        data = subprocess.run(["bash", "-c", line, "-", program], cwd=place, capture_output=True, check=True).stdout
        words = [minifo_program(), "import", "--base", "base", "--sto", f"new{number}", "-"]
        done = subprocess.run(words, cwd=place, input=data, capture_output=True, check=True)
        assert done.stdout == f"new{number} is made of oci: 3 objects, 1 whiteouts\n".encode()
