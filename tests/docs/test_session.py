"""The tutorial and the how-tos, each done from its beginning to its end as a reader would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.document import DOCS
from tests.docs.session import read_along

_INSTALLATION = re.compile(r"^## Install.*?^```sh\n(.*?)^```", re.M | re.S)
DOCUMENTS = [DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command(document: Path, fuse_required: None) -> None:
    """Each does what the document says, and prints what stands there."""
    read_along(document)


def test_tutorial_installs_as_readme_does() -> None:
    """What a test does in a new Debian is what the tutorial says."""
    said = [_INSTALLATION.search(path.read_text()) for path in (DOCS / "tutorial.md", DOCS.parent / "README.md")]
    assert said[0] is not None
    assert said[1] is not None
    assert said[0][1] == said[1][1]
