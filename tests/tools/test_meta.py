"""``minifo meta``: what it prints, its JSON, its exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from minifo.migrations.meta.codec import META_NAME
from minifo.tools.cli import main

META = META_NAME.decode()


@pytest.fixture
def legacy(memory_dir: Path) -> Path:
    """A base and a storage with one of each record, one damaged line and one name that is not UTF-8."""
    (memory_dir / "base" / "a").mkdir(parents=True)
    (memory_dir / "base" / "gone").write_text("")
    with open(os.fsencode(memory_dir / "base") + b"/\xff", "w"):
        pass
    (memory_dir / "sto" / "b").mkdir(parents=True)
    (memory_dir / "sto" / META).write_bytes(b"D gone\nD \xff\nD a\nR /a b\nD torn")
    return memory_dir


def test_show_prints_records_and_what_is_none(legacy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory stands for the file in it; a damaged line makes it exit with 1."""
    assert main(["meta", "show", str(legacy / "sto")]) == 1
    out, err = capsys.readouterr()
    assert out == "D gone\nD \\xff\nD a\nR /a -> b\n"
    assert err == "line 5: the line is not terminated: its write was cut short: D torn\n"


def test_show_json_keeps_every_byte(legacy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names that are not UTF-8 come back from JSON by surrogate escapes."""
    main(["meta", "show", "--json", str(legacy / "sto" / META)])
    found = json.loads(capsys.readouterr().out)
    assert [os.fsencode(record.get("name", "")) for record in found["records"]] == [b"gone", b"\xff", b"a", b""]
    assert found["records"][3] == {"line": 4, "type": "R", "old": "/a", "new": "b"}
    assert [bytes.fromhex(line["raw"]) for line in found["skipped"]] == [b"D torn"]


def test_import_tells_what_it_did(legacy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan first, then the import, in words; the storage can be opened afterwards."""
    arguments = ["meta", "import", str(legacy / "sto"), "--base", str(legacy / "base"), "--sto", str(legacy / "new")]
    assert main([*arguments, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "DELETED       /\\xff\n" in out
    assert "MODIFIED      /b  (from /a)\n" in out
    assert "would import: 3 DELETED, 2 MODIFIED\n" in out
    assert not (legacy / "new").exists()
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert f"skipped: /{META} line 5: the line is not terminated: its write was cut short [D torn]\n" in out
    assert "compared with what mini_fo showed: 1 entries, no difference\n" in out


def test_import_json_report(legacy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stable keys, one object."""
    arguments = ["meta", "import", str(legacy / "sto"), "--base", str(legacy / "base"), "--in-place", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["states"] == {"DELETED": 3, "MODIFIED": 2}
    assert found["backup"] == str(legacy / "sto" / "mini_fo-backup")
    assert [note["kind"] for note in found["notes"]] == ["skipped"]
    assert {"kind": "move", "path": "/b", "state": "MODIFIED", "from": "/a"} in found["steps"]
    assert main(["meta", "restore", str(legacy / "sto")]) == 0
    assert sorted(os.listdir(legacy / "sto")) == [META, "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "/nowhere/x"], "minifo: /nowhere/x: No such file or directory"),
        (["import", "/nowhere", "--base", "/", "--sto", "PLACE/n"], "cannot be opened"),
        (["import", "PLACE", "--base", "/"], "give either --sto DIR or --in-place"),
        (["import", "PLACE", "--base", "/", "--in-place", "--sto", "PLACE/n", "--dry-run"], "give either"),
        (["import", "PLACE", "--base", "/", "--sto", "PLACE/n"], "is below the other"),
        (["import", "PLACE", "--base", "PLACE", "--sto", "/n"], "give the base that mini_fo was mounted with"),
        (["import", "PLACE", "--base", "/nowhere", "--in-place"], "base /nowhere cannot be opened"),
        (["import", "PLACE", "--base", "/", "--sto", "/nowhere/n"], "the directory above /nowhere/n does not exist"),
        (["import", "PLACE", "--base", "/", "--sto", "/dev/null"], "/dev/null is not a directory"),
        (["import", "PLACE", "--base", "/", "--sto", "/n", "--meta-name", "a/b"], "it is not a valid file name"),
        (["import", "PLACE", "--base", "/", "--sto", "/n", "--d-over-r", "x"], "is not one of 'kernel', 'intent'"),
        (["show", "PLACE"], "in this directory mini_fo deleted and renamed nothing"),
        (["restore", "PLACE"], "only an import in place can be undone"),
    ],
)
def test_errors_are_one_line(
    memory_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """No traceback, and what to do next."""
    assert main(["meta", *(argument.replace("PLACE", str(memory_dir)) for argument in arguments)]) != 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert os.listdir(memory_dir) == []


def test_dry_run_refuses_what_the_import_would_refuse(legacy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A target that is in use, and a source that is no mini_fo storage any more."""
    base, new = str(legacy / "base"), str(legacy / "new")
    assert main(["meta", "import", str(legacy / "sto"), "--base", base, "--sto", new]) == 0
    assert main(["meta", "import", str(legacy / "sto"), "--base", base, "--sto", new, "--dry-run"]) == 1
    assert main(["meta", "import", new, "--base", base, "--in-place", "--dry-run"]) == 1
    assert main(["meta", "import", new, "--base", base, "--sto", str(legacy / "other")]) == 1
    assert capsys.readouterr().err.count("is a minifo storage already") == 3
    assert not (legacy / "other").exists()


def test_progress_shows_on_a_terminal_only(legacy: Path) -> None:
    """A pipe gets nothing but the report."""
    command = [sys.executable, "-c", "import sys; from minifo.tools.cli import main; sys.exit(main(sys.argv[1:]))"]
    command += ["meta", "import", str(legacy / "sto"), "--base", str(legacy / "base"), "--sto"]
    done = subprocess.run([*command, str(legacy / "one")], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    ours, theirs = pty.openpty()
    subprocess.run([*command, str(legacy / "two")], stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    assert b"importing " in os.read(ours, 1000)
    os.close(ours)


@pytest.mark.parametrize("verb", ["show", "import", "export", "restore"])
def test_help_teaches(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """Every verb shows examples."""
    assert main(["meta", verb, "--help"]) == 0
    assert "Examples:\n" in capsys.readouterr().out
