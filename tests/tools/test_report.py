"""minifo report: what is in the page, where it may go, and what becomes of hostile names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from minifo.tools.cli import main
from tests.hostile.storage_edits import loose_tables
from tests.shared.overlay_sandbox import OverlaySandbox

HOSTILE = [
    b"<script>alert(1)<",
    b"\x1b[31mred\n\r\tline",
    b"\xe2\x80\xaegpj.exe",  # U+202E
    b"\"q\" 'a' &amp; \xff",
    b"</style><img src=x onerror=alert(1)>".replace(b"/", b"\\"),
]


class Page(HTMLParser):
    """What a browser makes of the page: elements, and the text of each by its class."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.texts: list[str] = []
        self._skip = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)
        self._skip += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._skip -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.texts.append(data)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """An overlay with a change of each kind."""
    made = OverlaySandbox(tmp_path)
    for name in ("kept", "written", "chmodded", "gone", "moved", "replaced", "d/1", "d/2"):
        made.put(name)
    made.write("written", b"else" * 1000)
    made.set("chmodded", mode=0o600)
    made.unlink("gone")
    made.rename("moved", "MOVED")
    made.unlink("replaced")
    made.mkdir("replaced")
    made.mkdir("new")
    made.create("new/file", b"n" * 5000)
    made.close()
    yield made
    made.close()


def report(sandbox: OverlaySandbox, *words: str) -> Page:
    """The page about the overlay."""
    file = sandbox.base.parent / "page.html"
    assert main(["report", str(sandbox.sto), "-o", str(file), *words]) == 0
    return Page(file.read_text("utf-8"))


def test_what_is_in_it(sandbox: OverlaySandbox) -> None:
    """The changes, what takes the space, the base as it is today, identity."""
    (sandbox.base / "written").write_bytes(b"an update")
    page = report(sandbox)
    text = "\n".join(page.texts)
    for part in ("/MOVED", "/moved", "/gone", "/written", "/new", "3.9 KiB", "4.9 KiB", "All is well", "changed"):
        assert part in text, part
    for counted in (" 1 added", " 1 modified", " 1 deleted", " 1 renamed", " 1 another type", " 1 metadata only"):
        assert counted in page.texts, counted
    assert str(sandbox.base) in text
    assert "The base has another version; what the overlay overrides stays." in text


def test_nothing_is_loaded(sandbox: OverlaySandbox) -> None:
    """No element that fetches something, no address, and a policy that forbids it all the same."""
    page = report(sandbox)
    assert not {"link", "img", "iframe", "object", "base", "form", "svg"} & set(page.tags)
    assert not {"src", "href", "style", "srcset", "action"} & set(page.attributes)
    text = (sandbox.base.parent / "page.html").read_text()
    assert "default-src 'none'" in text
    assert "unsafe-inline" not in text
    assert not re.search(r"https?:|url\(|@import", text)


def test_hostile_names(sandbox: OverlaySandbox) -> None:
    """A name is text, whatever is in it: no element comes from it, and no character that is not printable."""
    before = report(sandbox)
    for name in HOSTILE:
        sandbox.create(os.fsdecode(name), b"x" * 3000)
    sandbox.close()
    after = report(sandbox)
    assert set(after.tags) == set(before.tags)
    assert set(after.attributes) == set(before.attributes)
    text = (sandbox.base.parent / "page.html").read_text("utf-8")
    assert all(char.isprintable() or char == "\n" for char in text)
    for shown in ("/<script>alert(1)<", r"/\x1b[31mred\n\r\tline", r"/\u202egpj.exe", "/\"q\" 'a' &amp; \\xff"):
        assert shown in after.texts, shown


def test_many_changes(sandbox: OverlaySandbox) -> None:
    """The list is cut, with some of each kind in it, and says how to see all."""
    for name in range(3000):
        sandbox.create(f"file{name:04}")
    sandbox.close()
    page = report(sandbox)
    listed = sum(bool(re.fullmatch(r"/file\d+", text)) for text in page.texts)
    assert listed == 2000 - 5  # of the other kinds, one each
    assert "and 1,006 more: " in page.texts
    assert f"minifo diff {sandbox.sto}" in page.texts
    assert "/gone" in page.texts


def test_empty_overlay(tmp_path: Path) -> None:
    """An overlay in which nothing was done has a page, too."""
    sandbox = OverlaySandbox(tmp_path)
    sandbox.open()
    sandbox.close()
    text = report(sandbox).texts
    assert "Nothing was changed." in text
    assert "No file has bytes in storage." in text


def test_where_it_may_not_go(sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """Not into storage nor base, not over a file that is no report; that file stays as it is."""
    other = sandbox.base.parent / "notes.html"
    other.write_text("<html>mine")
    link = sandbox.base.parent / "link"
    link.symlink_to(sandbox.sto)
    for place in (sandbox.sto / "r.html", sandbox.base / "r.html", sandbox.base / "d/r.html", link / "r", other):
        assert main(["report", str(sandbox.sto), "-o", str(place)]) == 1
        out, err = capfd.readouterr()
        assert (out, err.count("\n")) == ("", 1)
    assert other.read_text() == "<html>mine"
    assert sorted(os.listdir(sandbox.base.parent)) == ["base", "link", "notes.html", "sto"]
    assert main(["report", str(sandbox.sto), "-o", str(sandbox.base.parent / "none/r.html")]) == 2


def test_where_it_goes(sandbox: OverlaySandbox, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """An earlier report is replaced, through a link too, and keeps its mode; devices and stdout are written to."""
    report(sandbox)
    file = sandbox.base.parent / "page.html"
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    number = file.stat().st_ino
    link = sandbox.base.parent / "link"
    link.symlink_to(file)
    assert main(["report", str(sandbox.sto), "-o", str(link)]) == 0
    assert link.is_symlink()
    assert file.stat().st_mode & 0o777 == 0o644
    assert file.stat().st_ino != number
    assert main(["report", str(sandbox.sto), "-o", "/dev/null"]) == 0
    assert not os.path.isfile("/dev/null")
    capfdbinary.readouterr()
    assert main(["report", str(sandbox.sto), "-o", "-"]) == 0
    out, err = capfdbinary.readouterr()
    assert (out[:15], out[-8:], err) == (b"<!doctype html>", b"</html>\n", b"")


def test_a_page_that_cannot_be_written(sandbox: OverlaySandbox) -> None:
    """The earlier one stays, and nothing else."""
    report(sandbox)
    file = sandbox.base.parent / "page.html"
    before = file.read_bytes()
    program = f"ulimit -f 2; trap '' XFSZ; exec {sys.executable} -c 'import sys; from minifo.tools.cli import main;"
    program += ' sys.exit(main(sys.argv[1:]))\' "$@"'
    words = ["bash", "-c", program, "bash", "report", str(sandbox.sto), "-o", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "File too large" in done.stderr
    assert file.read_bytes() == before
    assert sorted(os.listdir(sandbox.base.parent)) == ["base", "page.html", "sto"]


def test_the_journal(sandbox: OverlaySandbox) -> None:
    """Where there is one: how many changes when, who has made most, and the last ones; hostile names are text."""
    assert "What the journal says" not in report(sandbox).texts
    notes = sandbox.open(journal=1000).journal
    notes.command_of = {7: b"</td><b>\x1b", 8: b"sh"}.get
    notes.caller = lambda: (0, 8)
    for number in range(300):
        sandbox.mkdir(f"d{number}")
    notes.caller = lambda: (4_000_000_000, 7)
    sandbox.rename("d7", "e\n7")
    sandbox.close()
    page = report(sandbox)
    text = "\n".join(page.texts)
    for part in ("What the journal says", "Changes in the journal, by the ", "The last 200 of 301 entries"):
        assert part in text, part
    rows = list(zip(page.texts, page.texts[1:], page.texts[2:], strict=False))
    assert ("300", "sh", "root") in rows
    assert ("1", "</td><b>\\x1b", "4000000000") in rows
    assert ("rename", "</td><b>\\x1b", "/d7 -> /e\\n7") in rows
    assert text.index("/d7 -> /e") < text.index("/d299", text.index("The last 200"))


@pytest.mark.parametrize("time", ["-(1 << 62)", "(1 << 62)", "0"])
def test_the_journal_of_a_wrong_clock(sandbox: OverlaySandbox, time: str) -> None:
    """Any time is shown, or that there is none; damaged entries are counted."""
    sandbox.open(journal=9)
    sandbox.mkdir("one")
    sandbox.mkdir("two")
    sandbox.close()
    with loose_tables(str(sandbox.sto / "minifo.db")) as tables:
        tables.execute(f"UPDATE journal SET time = {time} WHERE path = x'2f6f6e65'")
        tables.execute("UPDATE journal SET op = 'no such' WHERE path = x'2f74776f'")
    text = "\n".join(report(sandbox).texts)
    assert "Damaged entries that are left out: 1." in text
    assert "All entries" in text


def test_damage(sandbox: OverlaySandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """What can be read is in the page; the rest says what is wrong, and points to the checker."""
    with loose_tables(str(sandbox.sto / "minifo.db")) as tables:
        tables.execute("UPDATE inode SET ctime = 'never' WHERE ino > 1")
    file = sandbox.base.parent / "page.html"
    assert main(["report", str(sandbox.sto), "-o", str(file)]) == 2
    assert "the page is not complete" in capfd.readouterr().err
    text = "\n".join(Page(file.read_text()).texts)
    for part in ("Needs attention", f"minifo fsck -n {sandbox.sto}", "This cannot be read: ", "/MOVED", "4.9 KiB"):
        assert part in text, part
