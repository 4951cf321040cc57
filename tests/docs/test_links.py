"""The links of the documents: those within lead somewhere, and those to elsewhere are on a list.

Sphinx looks at the links of the manual as well, but not at those of README and CONTRIBUTING, and not as a forge shows
the files.  Nothing is fetched; ``python -m sphinx -b linkcheck docs build/links`` does that by hand.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from tests.docs.document import DOCS, DOCUMENTS

ROOT = DOCS.parent
#: Every page elsewhere that a document sends its readers to.
ELSEWHERE = {
    "https://github.com/opencontainers/image-spec/blob/main/layer.md",
    "https://hypothesis.readthedocs.io",
    "https://keepachangelog.com/en/1.1.0/",
    "https://semver.org",
    "https://systemd.io/ROOT_STORAGE_DAEMONS/",
    "https://varlink.org",
}
_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
_LINK = re.compile(r"\[[^\[\]]*\]\(([^()\s]*)\)")


@functools.cache
def prose(document: Path) -> str:
    """A document without its blocks."""
    return _FENCE.sub("", document.read_text())


@functools.cache
def anchors(document: Path) -> set[str]:
    """What a heading may be linked as: small letters, no punctuation, hyphens for blanks."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Each names a file that is there, and a heading that this has."""
    for link in _LINK.findall(prose(document)):
        path, _, anchor = link.partition("#")
        if "://" not in link:
            target = (document.parent / path).resolve() if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_links_to_elsewhere_are_known() -> None:
    """The list has those of the documents and no other, all by https."""
    found = {link for document in DOCUMENTS for link in re.findall(r"https?://[^\s()`\"<>]+", prose(document))}
    assert found == ELSEWHERE
    assert all(link.startswith("https://") for link in found)
