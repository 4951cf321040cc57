"""The manual as Sphinx makes it: pages for a browser, and man pages that are right on a terminal of 80 columns."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from minifo.fusefront.mount.options import OPTIONS
from minifo.tools.cli import COMMANDS
from tests.docs.document import DOCS
from tests.tools.test_cli_examples import COMMANDS as EVERY_COMMAND

ROOT = DOCS.parent


class Manual(NamedTuple):
    """Where it was made, by builder."""

    html: Path
    man: Path


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Manual:
    """Both at once; a warning of Sphinx (a link to nothing, a page that no part has) is an error."""
    made = Manual(tmp_path_factory.mktemp("html"), tmp_path_factory.mktemp("man"))
    words = [sys.executable, "-m", "sphinx", "-E", "-q", "-n", "-W", "--keep-going", "-b"]
    running = [
        subprocess.Popen([*words, builder, DOCS, path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for builder, path in made._asdict().items()
    ]
    said = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(said)
    assert said == ["", ""]
    return made


def pages(manual: Manual) -> list[Path]:
    """All man pages."""
    return sorted(path for path in manual.man.glob("man*/*") if path.is_file())


@functools.cache
def rendered(page: Path) -> str:
    """A man page as a terminal of 80 columns shows it; what groff warns of is an error."""
    env = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": "", "MANPAGER": "cat"}
    words = ["man", "--warnings=w", "--local-file", str(page)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), page.name
    assert "MINIFO" in done.stdout.upper(), f"{page.name}: no page; is man(1) the real one here?"
    return re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.stdout)


def test_every_document_is_a_page(manual: Manual) -> None:
    """A Markdown file in docs is a page for the browser, and the start page leads to it."""
    documents = {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")}
    made = {path.relative_to(manual.html).with_suffix("") for path in manual.html.rglob("*.html")}
    assert documents <= made


def test_pages_load_nothing_from_elsewhere(manual: Manual) -> None:
    """The manual can be read without a network: style, scripts and images are in it."""
    for page in manual.html.rglob("*.html"):
        loaded = re.findall(r"<(?:link|script|img)[^>]*(?:src|href)=\"(https?:[^\"]*)", page.read_text())
        assert not loaded, page.name


def test_every_command_has_a_man_page(manual: Manual) -> None:
    """One for each, and those of the program, its helpers, its formats and its promises."""
    named = {path.name for path in pages(manual)}
    assert {f"minifo-{verb}.1" for verb in COMMANDS if verb != "fsck"} <= named
    others = {"minifo.1", "mount.mini_fo.8", "minifo-fsck.8", "minifo-storage.5", "minifo-meta.5", "minifo.7"}
    others |= {"minifo-containers.7", "minifo-root.7", "minifo-systemd.7"}
    assert named - {f"minifo-{verb}.1" for verb in COMMANDS} == others


def test_man_pages_show_right(manual: Manual) -> None:
    """No warning, no line that is too long, and the sections that readers look for."""
    for page in pages(manual):
        text = rendered(page)
        too_long = [line for line in text.splitlines() if len(line) > 80]
        assert not too_long, f"{page.name}: {too_long}"
        assert "**" not in text, f"{page.name}: marks of Markdown"
        for title in ("NAME", "DESCRIPTION", "SEE ALSO", *(["SYNOPSIS"] if page.suffix in (".1", ".8") else [])):
            assert f"\n{title}\n" in text, f"{page.name} has no {title}"
        lint = subprocess.run(["mandoc", "-Tlint", "-Wwarning", page], capture_output=True, text=True, check=False)
        assert lint.stdout == "", page.name


def test_a_man_page_has_all_that_help_says(manual: Manual) -> None:
    """Every option with its text, every word of the help and of what follows it."""
    for name, command in EVERY_COMMAND.items():
        if name == "fsck":
            continue
        page = rendered(manual.man / "man1" / f"minifo-{name.split()[0]}.1")
        texts = [command.help or "", command.epilog or ""]
        for option in command.params:
            if isinstance(option, click.Option):
                assert all(word in page for word in option.opts), f"{name}: {option.opts}"
                texts.append(option.help or "")
        words = set(re.findall(r"\w+", " ".join(texts).casefold()))
        # the exit status has a heading of its own
        missing = words - {"codes"} - set(re.findall(r"\w+", page.casefold()))
        assert not missing, f"{name}: {missing}"


def test_every_option_of_a_mount_is_explained() -> None:
    """The page about them has each of those that ``minifo mount --help`` lists."""
    text = (DOCS / "mount-options.md").read_text()
    words = {word for written, _ in OPTIONS for word in re.findall(r"(?:^|, |,|  )([a-z_]+)", written)}
    assert not {word for word in words if not re.search(rf"`(?:[a-z_,]+,)?{word}[`=,]", text)} - {"user", "x"}


def test_the_storage_page_has_every_column(manual: Manual) -> None:
    """minifo-storage(5) names each table of schema.sql and each of its columns."""
    page = rendered(manual.man / "man5" / "minifo-storage.5").partition("\nTABLES\n")[2]
    schema = (ROOT / "engine" / "store" / "schema.sql").read_text()
    for table, body in re.findall(r"^CREATE TABLE (\w+) \((.*?)\) STRICT", schema, re.M | re.S):
        if table.startswith("was_"):
            continue
        shown = page.partition(f"\n       {table}\n")[2] or page.partition(f"\n       {table} ")[2]
        for column in re.findall(r'^ +"?([a-z_]+)"? +(?:INTEGER|BLOB|TEXT|ANY)', body, re.M):
            assert re.search(rf"^ +{column} (INTEGER|BLOB|TEXT|ANY)", shown, re.M), f"{table}.{column}"
