"""The command line as a user without privileges calls it."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from minifo import fusefront
from minifo.engine.store import database_file
from minifo.fusefront.extension import loader
from tests.mount.mount_sandbox import USER, in_child

# fmt: off
PRELOADED = [
    "minifo.tools.cli", "minifo.tools.mount", "minifo.tools.umount", "minifo.tools.run", "apsw", "difflib",
    "minifo.tools.clone", "minifo.tools._run_from", "minifo.engine.clone", "minifo.engine.queries.checkpoint_changes",
    "minifo.tools.doctor", "minifo.tools.checkup.attempt",
    "encodings.ascii", "encodings.idna", "encodings.latin_1", "logging.handlers", "subprocess", "trio",
]
# fmt: on


def _preload() -> None:
    # the python and the checkout may lie where only root can read: everything is read before
    for name in PRELOADED:
        importlib.import_module(name)
    loader.load()  # before what imports pyfuse3
    for module in pkgutil.walk_packages(fusefront.__path__, "minifo.fusefront."):
        importlib.import_module(module.name)
    database_file.schema()


def as_user(
    *arguments: str | Path,
    environment: Mapping[str, str] = MappingProxyType({}),
    uid: int = USER,
    before: Callable[[], object] = lambda: None,
) -> int:
    """Call the command line as a user without privileges, in a child.

    Args:
        arguments: the words of the command.
        environment: variables to set.
        uid: the user.
        before: what to call as root.
    """
    from minifo.tools import cli

    def call() -> int:
        os.environ.update(environment)
        return cli.main([str(word) for word in arguments])

    def prepare() -> None:
        _preload()
        before()

    return in_child(call, uid=uid, before=prepare)
