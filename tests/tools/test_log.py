"""minifo log of a storage: what it prints, which entries, and what it says of a wrong request."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from minifo.tools import cli
from tests.shared.overlay_sandbox import OverlaySandbox

NOW = 1_795_000_000_000_000_000  # ns; a Wednesday in November 2026
HOSTILE = "a\n\x1b[31m\udcff\u202eb"


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OverlaySandbox]:
    """An overlay with a journal, one entry a minute until ``NOW``."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    found = OverlaySandbox(tmp_path)
    found.put("etc/hosts")
    clock = iter(range(NOW - 6 * 60_000_000_000, NOW * 2, 60_000_000_000))
    journal = found.open(journal=100, clock=lambda: next(clock)).journal
    journal.command_of = {7: b"sh", 8: b"e\x1bvil"}.get
    journal.caller = lambda: (0, 7)
    found.mkdir("d")
    found.create(f"d/{HOSTILE}")
    found.rename("etc/hosts", "d/hosts")
    journal.caller = lambda: (4_000_000_000, 8)
    found.link("d/hosts", "other")
    found.set("other", size=1)
    journal.caller = lambda: (0, 0)
    found.write("other", b"x")
    found.close()
    yield found
    found.close()
    monkeypatch.undo()
    time.tzset()


def log(sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The lines that the command prints."""
    assert cli.main(["log", *words, str(sandbox.sto)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out.splitlines()


def ops(lines: list[str]) -> list[str]:
    """The operations of lines."""
    return [line.split()[2] for line in lines]


def test_lines(sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """One for each entry, the oldest first; nothing that a terminal would obey."""
    assert log(sandbox, capsys) == [
        "2026-11-18 11:00:40.000 mkdir       root           7 sh              /d",
        "2026-11-18 11:01:40.000 create      root           7 sh              /d/a\\n\\x1b[31m\\xff\\u202eb",
        "2026-11-18 11:02:40.000 rename      root           7 sh              /etc/hosts -> /d/hosts",
        "2026-11-18 11:03:40.000 link        4000000000       8 e\\x1bvil        /other => /d/hosts",
        "2026-11-18 11:04:40.000 truncate    4000000000       8 e\\x1bvil        /other",
        "2026-11-18 11:05:40.000 write       4000000000       8 e\\x1bvil        /other",
    ]


def test_json(sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """Names are exact, also those that are no text."""
    lines = [json.loads(line) for line in log(sandbox, capsys, "--json")]
    assert [line["op"] for line in lines] == ["mkdir", "create", "rename", "link", "truncate", "write"]
    assert lines[1]["path_b64"]
    assert lines[2] == {
        "id": 3,
        "time": NOW - 4 * 60_000_000_000,
        "iso_time": "2026-11-18T11:02:40+00:00",
        "op": "rename",
        "path": "/d/hosts",
        "other_path": "/etc/hosts",
        "uid": 0,
        "pid": 7,
        "command": "sh",
    }


def test_fields(sandbox: OverlaySandbox, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Seven for each entry, each with a NUL at its end."""
    assert cli.main(["log", "-z", str(sandbox.sto)]) == 0
    fields = capsysbinary.readouterr().out.split(b"\0")
    assert len(fields) == 6 * 7 + 1
    assert fields[7:14] == [
        *(b"%d" % (NOW - 5 * 60_000_000_000), b"create", b"0", b"7", b"sh", b""),
        os.fsencode(f"/d/{HOSTILE}"),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-n", "2"], ["truncate", "write"]),
        (["-n", "0"], []),
        (["-n", "100"], ["mkdir", "create", "rename", "link", "truncate", "write"]),
        (["-n", "1", "--op", "mkdir"], ["mkdir"]),
        (["--op", "mkdir", "--op", "link"], ["mkdir", "link"]),
        (["--uid", "root"], ["mkdir", "create", "rename"]),
        (["--uid", "4000000000", "-n", "2"], ["truncate", "write"]),
        (["--uid", "1"], []),
        (["--since", "2026-11-18T11:03:40"], ["link", "truncate", "write"]),
        (["--since", "2026-11-18 13:04:40+02:00"], ["link", "truncate", "write"][1:]),
        (["--since", "2026-11-18"], ["mkdir", "create", "rename", "link", "truncate", "write"]),
        (["--since", "2027-01-01"], []),
        (["--since", "99999w"], ["mkdir", "create", "rename", "link", "truncate", "write"]),
    ],
)
def test_filters(
    sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str], words: list[str], expected: list[str]
) -> None:
    """They limit the list together, and its order stays."""
    assert ops(log(sandbox, capsys, *words)) == expected


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["/d"], ["mkdir", "create", "rename", "link"]),
        (["etc/hosts"], ["rename"]),
        (["oth*", "/etc"], ["rename", "link", "truncate", "write"]),
        (["none"], []),
    ],
)
def test_paths(
    sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str], patterns: list[str], expected: list[str]
) -> None:
    """Both paths of an entry count."""
    assert cli.main(["log", str(sandbox.sto), *patterns]) == 0
    assert ops(capsys.readouterr().out.splitlines()) == expected


def test_since_is_a_time_ago(sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """By the clock of now: only what is just made is that new."""
    sandbox.open(journal=100)
    sandbox.mkdir("new")
    sandbox.close()
    assert ops(log(sandbox, capsys, "--since", "1h"))[-1] == "mkdir"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--since", "yesterday"], 1, "--since yesterday is not a time; give 90s"),
        (["--since", "-5m"], 1, "--since -5m is not a time"),
        (["--since", "9999999999d"], 1, "is not a time"),
        (["--uid", "nobody at all"], 1, "--uid nobody at all is no user"),
        (["--uid", "4294967296"], 1, "is no user"),
        (["--op", "format"], 1, "'format' is not one of 'create'"),
        (["-n", "-1"], 1, "-1 is not in the range"),
        (["-n", "many"], 1, "is not a valid integer"),
        (["--json", "-z"], 1, "exclude each other"),
        (["--follow"], 2, "is not mounted, so there are no new entries"),
    ],
)
def test_wrong_requests(
    sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    """One line, and the next step."""
    assert cli.main(["log", *words, str(sandbox.sto)]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_no_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a storage that never had one, the command says how it gets one; of no storage, that it is none."""
    sandbox = OverlaySandbox(tmp_path)
    sandbox.mkdir("d")
    sandbox.close()
    assert cli.main(["log", str(sandbox.sto)]) == 2
    assert "has no journal; mount it with -o journal=10000" in capsys.readouterr().err
    assert cli.main(["log", str(sandbox.base)]) == 2
    assert "holds no overlay" in capsys.readouterr().err
    assert cli.main(["log", str(tmp_path / "none")]) == 2
    assert "cannot be reached" in capsys.readouterr().err


def test_damaged_entries(sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """Are left out, and counted; strange times are no reason to fail."""
    con = apsw.Connection(str(sandbox.sto / "minifo.db"))
    con.execute("INSERT INTO journal VALUES (50, 5, 'create', x'', NULL, NULL, NULL, NULL)")
    for number, when in ((51, -(1 << 63)), (52, (1 << 63) - 1)):
        con.execute("INSERT INTO journal VALUES (?, ?, 'later', x'6122', NULL, NULL, NULL, NULL)", (number, when))
    con.close()
    for words in ([], ["-n", "5"], ["--json"]):
        assert cli.main(["log", *words, str(sandbox.sto)]) == 0
        said = capsys.readouterr()
        assert said.err == "minifo: damaged entries left out: 1; run minifo-fsck\n"
        assert len(said.out.splitlines()) == (5 if "-n" in words else 8)
    assert cli.main(["log", "-n", "1", str(sandbox.sto)]) == 0
    assert capsys.readouterr().out.endswith(' later       -              - -               .../a"\n')


def test_many_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More than are read at a time, with paths longer than are read at a time: each once, in order."""
    sandbox = OverlaySandbox(tmp_path)
    sandbox.open(journal=5000)
    sandbox.mkdir("d")
    sandbox.close()
    con = apsw.Connection(str(sandbox.sto / "minifo.db"))
    con.execute("BEGIN")
    for number in range(2, 2001):
        path = b"/%d/" % number + b"n" * (4000 if 900 < number < 1000 else 1)
        con.execute("INSERT INTO journal VALUES (?, ?, 'write', ?, NULL, 0, 1, NULL)", (number, number, path))
    con.execute("COMMIT")
    con.close()
    lines = [json.loads(line)["id"] for line in log(sandbox, capsys, "--json")]
    assert lines == list(range(1, 2001))
    lines = [json.loads(line)["id"] for line in log(sandbox, capsys, "--json", "-n", "1500")]
    assert lines == list(range(501, 2001))
