"""Rules that Python and the C extension both follow are said once, in Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import minifo.fusefront.extension
from minifo.engine.model import XATTR_ACLS, XATTR_SPACES, Attr
from minifo.fusefront.extension import _hook, loader
from minifo.fusefront.serve import shared_rules

SOURCES = Path(next(iter(minifo.fusefront.extension.__path__)))


def test_c_has_no_list_of_xattr_names() -> None:
    """Which names are known the extension is told: it names none by itself."""
    sources = "".join(path.read_text() for path in [*SOURCES.glob("*.c"), *SOURCES.glob("*.h")])
    assert len(sources) > 50_000
    assert [name for name in (*XATTR_SPACES, *XATTR_ACLS) if name.decode() in sources] == []


def test_c_takes_the_rules() -> None:
    """What is told is of the form that the extension wants; names that it has no room for are refused."""
    shared_rules.pass_to(_hook)
    for names in ((b"n" * 64,), (b"n",) * 64):
        with pytest.raises(ValueError, match="too many or too long"):
            _hook.set_rules(64, 1, 1.0, 255, names, ())
    with pytest.raises(TypeError):
        _hook.set_rules(64, 1, 1.0, 255, ("text",), ())  # type: ignore[arg-type]


def test_c_knows_the_attributes() -> None:
    """The extension takes as many numbers as the engine's attributes are."""
    numbers = range(1, len(Attr._fields) + 1)
    code = f"from minifo.fusefront.extension import _hook; _hook.publish_attr(*{[*numbers]})"
    subprocess.run([sys.executable, "-I", "-c", code], check=True, timeout=60)
    with pytest.raises(TypeError):
        _hook.publish_attr(*numbers[1:])  # type: ignore[call-arg]


def test_every_flag_that_is_asked_for_has_a_price() -> None:
    """The log can say what a mount is without each INIT flag that the extension asks for."""
    assert loader.WITHOUT.keys() == _hook.WANTED_FLAGS.keys()
    assert _hook.STATELESS_FLAGS
