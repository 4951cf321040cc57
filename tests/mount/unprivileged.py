"""The command line as a user without privileges calls it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType

from mount.support import USER, in_child

# fmt: off
PRELOADED = [
    "minifo.tools.cli", "minifo.tools.mount", "minifo.tools.umount", "minifo.fusefront.launch",
    "minifo.fusefront.unmount", "minifo.fusefront.session", "apsw", "difflib", "encodings.ascii", "encodings.idna",
    "encodings.latin_1", "logging.handlers", "subprocess", "trio",
]
# fmt: on


def _preload() -> None:
    # the python of a virtual environment may lie where only root can read: everything is loaded before
    for name in PRELOADED:
        importlib.import_module(name)
    importlib.import_module("minifo.fusefront.hook").load()
    importlib.import_module("minifo.fusefront.operations")
    resources.files("minifo.engine").joinpath("schema.sql").read_text("utf-8")


def as_user(*arguments: str | Path, environment: Mapping[str, str] = MappingProxyType({})) -> int:
    """Call the command line as a user without privileges, in a child.

    Args:
        arguments: the words of the command.
        environment: variables to set.
    """
    from minifo.tools import cli

    def call() -> int:
        os.environ.update(environment)
        return cli.main([str(word) for word in arguments])

    return in_child(call, uid=USER, before=_preload)
