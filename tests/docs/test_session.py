"""The tutorial and the how-tos, each done from its beginning to its end as a reader would."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.document import DOCS
from tests.docs.session import Session, read_along

DOCUMENTS = [DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_command(document: Path, fuse_required: None) -> None:
    """Each does what the document says, and prints what stands there."""
    read_along(document)
