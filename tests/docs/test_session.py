"""Every command of every document is run here, by a test that the document names, or stands there with the reason.

A page is done from its beginning to its end, as a reader would.  A block with ``<!-- not run: … -->`` before it is left
out; where that names a test, the test is looked at.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import test_trial_story, test_undo
from tests.docs.document import DOCS, DOCUMENTS
from tests.docs.preparations import BEFORE
from tests.docs.session import Block, blocks, every_block, read_along

ROOT = DOCS.parent
_INSTALLATION = re.compile(r"^## Install.*?^```sh\n(.*?)^```", re.M | re.S)
#: Documents with a test of their own.
OTHERS = {DOCS / other.DOCUMENT for other in (test_undo, test_trial_story)}
RUN = [path for path in DOCUMENTS if path not in OTHERS and any(not block.reason for block in blocks(path))]
#: What a block may be that has no commands.
OTHER_LANGUAGES = {"", "python", "toml"}
#: What a command looks like.
COMMAND = re.compile(
    r"^(?:[#$] \w.*"
    r"|(?:minifo [a-z-]+|minifo-fsck|u?mount|apt-get|systemctl|git|bash|make|python3?|pip|cp|rm|mkdir) [-/.A-Z].*)$",
    re.M,
)
TEST = re.compile(r"tests/[\w/]+(?:\.py)?")


def name(document: Path) -> str:
    """The document as a test is named after it."""
    return str(document.relative_to(ROOT))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", RUN, ids=name)
def test_every_command(document: Path, fuse_required: None) -> None:
    """Each does what the document says, and prints what stands there."""
    read_along(document, BEFORE.get(name(document), {}))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_commands_are_seen_as_such(document: Path) -> None:
    """A block with commands says so by its language; else nothing would run them."""
    if document in OTHERS:
        return
    for block in every_block(document):
        if block.language not in ("console", "sh"):
            assert block.language in OTHER_LANGUAGES, f"what is {block.language}?"
            assert block.language or not COMMAND.search(block.text), f"commands without a language: {block.text}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_named_tests_run_them(document: Path) -> None:
    """Where a test is named, it does exist, and has the words of the commands, or takes the block from the document."""
    for block in blocks(document):
        tests = [ROOT / path for path in TEST.findall(block.reason)]
        if tests:
            text = "\n".join(path.read_text().replace("\\n", " ") for path in tests)
            missing = words(block) - set(re.findall(r"[\w-]+", text))
            reads_it = document.name in text and f"## {block.heading}" in text
            assert reads_it or not missing, f"{block.reason}: {block.text}has words that the test lacks: {missing}"


def words(block: Block) -> set[str]:
    """The words of its commands that are no paths, names or numbers: programs, verbs and long options."""
    found: set[str] = set()
    for command, _ in block.steps():
        for word in re.split(r"\s#\s", command)[0].split():
            if re.fullmatch(r"(--)?[a-z][a-z-]+", word):
                found.add(word)
    return found


def test_documents_have_preparations_of_their_own() -> None:
    """What a document takes as done is written for a document that is run."""
    assert set(BEFORE) <= {name(document) for document in RUN}


def test_tutorial_installs_as_readme_does() -> None:
    """What a test does in a new Debian is what the tutorial says."""
    said = [_INSTALLATION.search(path.read_text()) for path in (DOCS / "tutorial.md", ROOT / "README.md")]
    assert said[0] is not None
    assert said[1] is not None
    assert said[0][1] == said[1][1]
