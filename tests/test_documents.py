"""The documents, held to the repository: every source file is described, every file that is named is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = ROOT / "docs" / "internals" / "architecture.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = sorted(
    path
    for package in ("engine", "fusefront", "migrations", "tools")
    for path in (ROOT / package).rglob("*")
    if path.suffix in {".py", ".pyi", ".c", ".h", ".sql", ".varlink"} and path.name != "__init__.py"
)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
NAMED = re.compile(r"`((?:engine|fusefront|migrations|tools|tests|docs|\.ci)/[\w./*-]*)`")


def links_of(document: Path) -> set[Path]:
    """Return the files and folders of the repository that a document links to."""
    targets = {match[1] for match in LINK.finditer(document.read_text())}
    return {(document.parent / target).resolve() for target in targets if "://" not in target}


def test_architecture_describes_every_source_file() -> None:
    """A file of the product is a link in docs/internals/architecture.md, with its duty beside it."""
    missing = [str(path.relative_to(ROOT)) for path in SOURCES if path not in links_of(ARCHITECTURE)]
    assert not missing, f"add a row to {ARCHITECTURE.relative_to(ROOT)} for: {', '.join(missing)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_names_files_that_exist(document: Path) -> None:
    """Each link of a document leads to a file or folder; each path in backticks is one, or a pattern that matches."""
    wrong = [str(target) for target in links_of(document) if not target.exists()]
    wrong += [match[1] for match in NAMED.finditer(document.read_text()) if not any(ROOT.glob(match[1].rstrip("/")))]
    assert not wrong, f"{document.relative_to(ROOT)} names what is not there: {', '.join(sorted(wrong))}"


def test_readme_make_and_ci_run_the_same_tests() -> None:
    """The README's test command is a make target, which calls the script that continuous integration calls."""
    assert "\nmake test " in (ROOT / "README.md").read_text()
    assert "\ntest: " in (ROOT / "Makefile").read_text()
    assert "@bash .ci/test" in (ROOT / "Makefile").read_text()
    assert 'bash "$(dirname "$0")/test"' in (ROOT / ".ci" / "run").read_text()
