"""The tutorial as a newcomer does it in a new system: from the installation to the removal, which leaves nothing."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.docs.document import DOCS
from tests.docs.session import Block, Shell, blocks
from tests.system.debian_root import DebianRoot

_SECONDS = 600  # for one command
#: What dpkg, apt and pip keep of their own doings, and what the tests bring.
_OF_OTHERS = ("./var/lib/dpkg/", "./var/lib/apt/", "./var/cache/", "./var/log/", "./root/", "./deb/", "./src/")


def files(root: Path) -> dict[str, int]:
    """Every file of a root with its mode, but for what others keep of their own doings."""
    found = {}
    for directory, directories, names in os.walk(root):
        for name in (*directories, *names):
            path = os.path.join(directory, name)
            told = "./" + os.path.relpath(path, root)
            if not told.startswith(_OF_OTHERS):
                found[told] = os.lstat(path).st_mode
    return found


def do_tutorial(root: DebianRoot, install: str = "", remove: str = "") -> None:
    """Do the tutorial in a system, and print how long it took.

    Args:
        root: the system; it has a checkout in ``/src/minifo`` if that is to be installed.
        install: the commands that are given in the place of the tutorial's installation.
        remove: those in the place of its removal.

    Raises:
        AssertionError: a command did not do what the tutorial says, or something is left after the removal, beside the
            packages that the tutorial has apt install.
    """
    words, environment = root.entered("bash", "--norc", TZ="UTC")
    with Shell(words, environment) as shell:
        # those below "## Install" come first, that of "## Clean up" which removes minifo is the last
        installing, looking, *lessons, removing = blocks(DOCS / "tutorial.md")
        assert (installing.heading, removing.heading) == ("Install", "Clean up")
        if not install:
            packages, venv, rest = installing.text.partition("python3 -m venv")
            assert re.match("apt-get update\napt-get install .*\n$", packages)
            install = venv + rest
            assert shell.run("cd /src/minifo") == (0, "")
            shell.do(Block("sh", packages, "", ""), _SECONDS)
        before = files(root.path)
        shell.do(Block("sh", install, "", ""), _SECONDS)
        shell.do(looking)
        for block in lessons:
            shell.do(block)
        shell.do(Block("sh", remove or removing.text, "", ""))
        after = files(root.path)
    print(f"a newcomer waits {sum(shell.seconds.values()):.1f} s for {len(shell.seconds)} commands, the longest:")
    for command in sorted(shell.seconds, key=shell.seconds.__getitem__, reverse=True)[:5]:
        print(f"{shell.seconds[command]:7.1f} s  {command.splitlines()[0]}")
    left = {path for path in after.keys() | before.keys() if after.get(path) != before.get(path)}
    assert not left, f"left, gone or changed: {sorted(left)[:20]}"
