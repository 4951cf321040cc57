"""The documents, held to the repository: every file, function and constant that they name is there."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SOURCES = ("engine", "fusefront", "migrations", "tools", "tests/shared", "tests/model")
SUFFIXES = {".py", ".pyi", ".c", ".h", ".sql"}
#: Documents that name functions, classes and constants of the source.
MAKERS = sorted([ROOT / "CONTRIBUTING.md", *(ROOT / "docs" / "internals").glob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
NAMED = re.compile(r"`((?:engine|fusefront|migrations|tools|tests|docs|\.ci)/[\w./*-]*)`")
#: ``Class.method``, ``_function``, ``function()``, ``CONSTANT_OF_OURS``, in backticks.
CODE = re.compile(r"`((?:[A-Z]\w+\.)?_?[A-Za-z]\w*_\w+|[A-Z]\w+\.\w+|_[A-Za-z]\w+|\w+(?=\(\)`))(?:\(\))?`")


def links_of(document: Path) -> set[Path]:
    """Return the files and folders of the repository that a document links to."""
    targets = {match[1] for match in LINK.finditer(document.read_text())}
    return {(document.parent / target).resolve() for target in targets if "://" not in target}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_names_files_that_exist(document: Path) -> None:
    """Each link of a document leads to a file or folder; each path in backticks is one, or a pattern that matches."""
    wrong = [str(target) for target in links_of(document) if not target.exists()]
    wrong += [match[1] for match in NAMED.finditer(document.read_text()) if not any(ROOT.glob(match[1].rstrip("/")))]
    assert not wrong, f"{document.relative_to(ROOT)} names what is not there: {', '.join(sorted(wrong))}"


@functools.cache
def source_words() -> set[str]:
    """Return every word of the product, its build and its tests' settings."""
    files = [path for folder in SOURCES for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    files += [ROOT / "setup.py", ROOT / "pyproject.toml"]
    return set(re.findall(r"\w+", "\n".join(path.read_text() for path in files)))


@pytest.mark.parametrize("document", MAKERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_names_code_that_exists(document: Path) -> None:
    """A function, class or constant in backticks is a word of the source: a rename reaches the documents."""
    named = {match[1] for match in CODE.finditer(document.read_text())}
    wrong = sorted(name for name in named if not set(name.split(".")) <= source_words())
    assert not wrong, f"{document.relative_to(ROOT)} names what is not in the source: {', '.join(wrong)}"


def test_readme_make_and_ci_run_the_same_tests() -> None:
    """The README's test command is a make target, which calls the script that continuous integration calls."""
    assert "\nmake test " in (ROOT / "README.md").read_text()
    assert "\ntest: " in (ROOT / "Makefile").read_text()
    assert "@bash .ci/test" in (ROOT / "Makefile").read_text()
    assert 'bash "$(dirname "$0")/test"' in (ROOT / ".ci" / "run").read_text()


def test_each_test_of_a_whole_system_is_a_job() -> None:
    """A file of ``tests/system`` that no job runs would never run."""
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "system").glob("test_*.py")}
    assert {path.name for path in (ROOT / ".ci" / "jobs").iterdir()} == tests
