"""``minifo export``: what it prints, its JSON, its exit codes, standard output."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import tarfile
from pathlib import Path

import pytest

from minifo.tools.cli import main
from tests.mount.mount_sandbox import minifo_program
from tests.shared.overlay_sandbox import OverlaySandbox


@pytest.fixture
def overlay(tmp_path: Path) -> OverlaySandbox:
    """An overlay that is not mounted, with one change of each sort."""
    made = OverlaySandbox(tmp_path)
    made.put("gone")
    made.create("new", b"new")
    made.unlink("gone")
    made.close()
    return made


def test_it_says_what_it_wrote(overlay: OverlaySandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In words, and as JSON."""
    out = tmp_path / "out.tar.gz"
    assert main(["export", str(overlay.sto), "--format", "oci", "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"2 objects and 1 whiteouts are in {out}\n"
    assert main(["export", str(overlay.sto), "--format", "oci", "-o", str(out), "--force", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"written": True, "objects": 2, "whiteouts": 1, "lost": 0, "losses": []}
    with tarfile.open(out, "r:gz") as archive:
        assert archive.getnames() == [".", "new", ".wh.gone"]


def test_losses_are_told(overlay: OverlaySandbox, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its path; the exit code is that of a wrong request, and the hint says what to give."""
    arguments = ["export", str(overlay.sto), "--format", "tar", "-o", str(tmp_path / "out.tar")]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err.splitlines() == [
        "deleted: /gone: an archive of files cannot say so",
        "minifo: the format tar cannot express 1 things; nothing was written; give --lossy to export without them",
    ]
    assert not (tmp_path / "out.tar").exists()
    assert main([*arguments, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["losses"][0]["path"] == "/gone"
    assert main([*arguments, "--lossy"]) == 0
    assert main(["export", str(overlay.sto), "--format", "tar", "--tree", "-o", str(tmp_path / "tree.tar")]) == 0


def test_standard_output_takes_an_archive_alone(overlay: OverlaySandbox) -> None:
    """What is said goes to stderr; a reader that ends early is no error of ours; a terminal is refused."""
    words = [minifo_program(), "export", str(overlay.sto), "--format", "oci", "--json", "-o", "-"]
    done = subprocess.run(words, capture_output=True, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert archive.getnames() == [".", "new", ".wh.gone"]
    assert json.loads(done.stderr)["written"]
    first, second = pty.openpty()
    done = subprocess.run(words, stdout=second, stderr=subprocess.PIPE, check=False)
    os.close(first)
    os.close(second)
    assert (done.returncode, b"not for a terminal" in done.stderr) == (1, True)
    closed = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | true', "-", *words], capture_output=True, check=False
    )
    assert b"Traceback" not in closed.stderr


def test_what_is_no_overlay_is_refused(overlay: OverlaySandbox, tmp_path: Path) -> None:
    """An unknown target, a directory that is no overlay: one line each."""
    assert main(["export", str(tmp_path / "nothing"), "--format", "oci", "-o", str(tmp_path / "x")]) == 2
    assert main(["export", str(overlay.base), "--format", "oci", "-o", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()
