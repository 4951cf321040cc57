"""A new Debian 12 takes minifo by the commands that README names, does the tutorial, and is as it was afterwards."""

from __future__ import annotations

import re

import pytest

from tests.system.debian_root import DebianRoot
from tests.system.newcomer import do_tutorial

#: For one user; as root only what the user would have done by an administrator.
_FOR_ONE_USER = """
apt-get -qy install --no-install-recommends pipx >/dev/null
useradd --create-home reader
cp -r /src/minifo /home/reader/minifo
chown -R reader: /home/reader/minifo
exec setpriv --reuid reader --regid reader --init-groups env HOME=/home/reader bash -ec '
cd ~/minifo
pipx install . 2>&1
~/.local/bin/minifo doctor || true
'
"""


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> DebianRoot:
    root = DebianRoot.make("bookworm", tmp_path_factory.mktemp("debian") / "root")
    root.take_checkout()
    return root


def test_tutorial(debian: DebianRoot) -> None:
    """From the installation to the removal, each command does what the tutorial says, and nothing is left."""
    do_tutorial(debian)


def test_pipx_installs_for_a_user(debian: DebianRoot) -> None:
    """``pipx install .`` of README is enough, too; then doctor finds the extension active."""
    said = debian.must("bash", "-ec", _FOR_ONE_USER)
    print(said)
    assert re.search(r"ok +python +3\.11\.\d+ \(/home/reader/", said)
    assert re.search(r"ok +session hook +it fits libfuse 3\.14", said)
