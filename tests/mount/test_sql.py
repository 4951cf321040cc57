"""``minifo sql`` on real mounts: statements, forms of output, the console on a terminal."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.mount.mount_sandbox import MountSandbox, OverlayMount, minifo, minifo_program

COUNTS = "SELECT change, count(*) AS number FROM v_changes GROUP BY change ORDER BY change"


@pytest.fixture
def overlay(sandbox: MountSandbox) -> OverlayMount:
    """A mounted overlay whose changes are not committed yet."""
    found = sandbox.overlay("commit=600")
    for name in ("kept", "gone"):
        (found.base / name).write_text(name)
    found.mount()
    (found.mnt / "gone").unlink()
    (found.mnt / "kept").write_text("else")
    for name in ("new", "odd\t\n,\"'", os.fsdecode(b"\xff\x1b[31m")):
        (found.mnt / name).write_text("new")
    return found


def test_forms(overlay: OverlayMount) -> None:
    """What is not committed is in the answer; afterwards the storage answers the same."""
    text = "change\tnumber\nA\t3\nD\t1\nM\t1\n"
    assert minifo("sql", overlay.mnt, COUNTS).stdout == text
    rows = [json.loads(line) for line in minifo("sql", "--json", overlay.mnt, COUNTS).stdout.splitlines()]
    assert rows == [{"change": change, "number": number} for change, number in (("A", 3), ("D", 1), ("M", 1))]
    told = minifo("sql", overlay.mnt, input=COUNTS, stdin=None).stdout
    assert told == text
    overlay.umount()
    assert minifo("sql", overlay.sto, COUNTS).stdout == text


def test_names_of_any_bytes(overlay: OverlayMount) -> None:
    """A terminal gets what it can show; JSON and CSV get all of it."""
    names = "SELECT path FROM v_changes WHERE change = 'A' ORDER BY typeof(path), path"
    assert minifo("sql", overlay.mnt, names).stdout == "path\n/\\xff\\x1b[31m\n/new\n/odd\\t\\n,\"'\n"
    rows = [json.loads(line) for line in minifo("sql", "--json", overlay.mnt, names).stdout.splitlines()]
    assert [row["path"] for row in rows[1:]] == ["/new", "/odd\t\n,\"'"]
    assert rows[0]["path_b64"] == "L/8bWzMxbQ=="
    told = subprocess.run([minifo_program(), "sql", "--csv", overlay.mnt, names], capture_output=True, check=True)
    found = list(csv.reader(io.StringIO(told.stdout.decode("utf-8", "surrogateescape"), newline="")))
    assert found == [["path"], ["/\udcff\x1b[31m"], ["/new"], ["/odd\t\n,\"'"]]


def test_long_answer_and_endless_statement(overlay: OverlayMount) -> None:
    """A reader that ends ends it; the time of a statement is bounded, and its memory; the mount is used meanwhile."""
    endless = "WITH RECURSIVE r(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM r) SELECT n FROM r"
    with subprocess.Popen([minifo_program(), "sql", overlay.mnt, endless], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"n\n"
        (overlay.mnt / "meanwhile").write_text("is served")
        minifo("sync", overlay.mnt)
        process.stdout.close()
        assert process.wait() == 141
    done = minifo(
        "sql", "--timeout", "0.1", overlay.mnt, endless.replace("SELECT n FROM", "SELECT max(n) FROM"), check=False
    )
    assert (done.returncode, done.stderr) == (
        2,
        "minifo: the statement took longer than 0.1 seconds; see --timeout\n",
    )
    large = endless.replace("VALUES(1)", "VALUES(printf('%500000d', 1))").replace("n + 1", "n || 'x'") + " ORDER BY 1"
    done = minifo("sql", overlay.mnt, large, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "minifo: the statement needs too much memory; ask for less at once\n",
    )


def test_refusals(overlay: OverlayMount, tmp_path: Path) -> None:
    """One line each."""
    for words, code, why in (
        (["--json", "--csv"], 1, "exclude each other"),
        ([f"ATTACH '{tmp_path / 'x'}' AS x"], 2, "the statement does what it may not (not authorized)"),
        (["SELECT * FROM created"], 2, "no such table: created"),
    ):
        flags = [word for word in words if word.startswith("-")]
        done = minifo("sql", *flags, overlay.mnt, *(word for word in words if word not in flags), check=False)
        assert done.returncode == code
        assert why in done.stderr
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_console(overlay: OverlayMount, tmp_path: Path) -> None:
    """It answers statements and lists the views; commands that reach files are not there; an error does not end it."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "HOME": str(tmp_path), "TERM": "dumb"}
    process = subprocess.Popen(
        [minifo_program(), "sql", overlay.mnt],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
        start_new_session=True,
    )
    os.close(theirs)
    outside = tmp_path / "outside"
    lines = (
        ".mode list",
        COUNTS + ";",
        f".output {outside}",
        f".shell touch {outside}",
        f"ATTACH '{outside}' AS x;",
        "PRAGMA database_list;",
        ".tables",
        "SELECT path FROM v_changes WHERE typeof(path) = 'blob';",
        "SELECT CAST(path AS TEXT) FROM v_changes WHERE path LIKE '/odd%';",
        "SELECT 'still ' || 'here';",
        ".quit",
    )
    os.write(ours, "".join(f"{line}\n" for line in lines).encode())
    said = b""
    with contextlib.suppress(OSError):  # EIO: it has closed its end
        while data := os.read(ours, 65536):
            said += data
    os.close(ours)
    assert process.wait() == 0
    text = said.decode()
    assert "A|3\r\n" in text
    assert "There is no .output here" in text
    assert "There is no .shell here" in text
    assert text.count("not authorized") >= 2
    for name in ("v_changes", "v_drift", "v_objects", "v_overlay", "v_storage"):
        assert f"{name}\r\n" in text
    assert "still here\r\n" in text
    assert "/odd\\t" in text
    assert "\x1b[31m" not in text
    assert not outside.exists()
