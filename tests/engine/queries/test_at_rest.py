"""An overlay that is read beside the process that changes it."""

from __future__ import annotations

import logging

import pytest

from minifo.engine import FsError
from minifo.engine.queries.at_rest import open_beside
from tests.shared.overlay_sandbox import OverlaySandbox


@pytest.mark.logs("was changed while it was read")
def test_file_that_is_replaced_meanwhile(sandbox: OverlaySandbox, caplog: pytest.LogCaptureFixture) -> None:
    """The rows stay as they were; bytes that are gone are an error that does not speak of damage."""
    ino = sandbox.create("file", b"x" * 100_000)
    sandbox.ov.commit()
    beside = open_beside(str(sandbox.sto), str(sandbox.base))
    try:
        sandbox.unlink("file")
        sandbox.create("other")
        sandbox.ov.commit()
        sandbox.ov.commits.finish_all()
        assert beside.find(b"/other") is None
        attr = beside.find(b"/file")
        assert attr is not None
        assert attr.size == 100_000
        with pytest.raises(FsError, match="Input/output error"):
            beside.read(ino, 0, 100)
    finally:
        beside.close()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "/file was changed while it was read: ask again"
    ]
