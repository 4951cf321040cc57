"""A new Debian 13 takes minifo by the commands that README names, and mounts."""

from __future__ import annotations

import re

import pytest

from tests.system.debian_root import ROOT, DebianRoot


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> DebianRoot:
    root = DebianRoot.make("trixie", tmp_path_factory.mktemp("debian") / "root")
    root.take_checkout()
    return root


def test_readme_install(debian: DebianRoot) -> None:
    """The commands of README's section "Install it" are enough; doctor finds the extension active and can mount."""
    commands = re.search(r"## Install it\n.*?```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert commands is not None
    debian.must("sh", "-ec", f"apt-get -q update\ncd /src/minifo\n{commands[1]}")
    told = debian.must("minifo", "doctor", "--try")
    print(told)
    assert re.search(r"ok +python +3\.13", told)
    assert "it fits libfuse 3.17" in told
