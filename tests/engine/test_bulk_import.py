"""Bulk imports: what they tell nobody; what they write, tests/migrations/meta shows."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from minifo.engine import ROOT, Process
from minifo.engine.bulk_import import BulkImport
from tests.shared.overlay_sandbox import OverlaySandbox


def test_a_long_commit_of_an_import_is_no_warning(sandbox: OverlaySandbox, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits for it, as a program does that uses a mount."""
    overlay = sandbox.ov
    with patch("minifo.engine.commit._LONG_GATE", -1):
        overlay.mkdir(ROOT, b"mounted", 0o755, Process())
        overlay.commit()
        assert len(caplog.messages) == 1
        bulk = BulkImport(overlay)
        with bulk.step():
            overlay.mkdir(ROOT, b"imported", 0o755, Process())
        bulk.commit()
    assert len(caplog.messages) == 1
