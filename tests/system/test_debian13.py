"""A new Debian 13 takes minifo by the commands that README names, mounts, and passes a share of the tests."""

from __future__ import annotations

import re

import pytest

from tests.system.debian_root import ROOT, DebianRoot

#: What depends most on Python, libfuse and the programs of a system: the extension, and system calls on mounts.
SHARE = (
    "tests/engine/tree/test_content.py",
    "tests/fusefront/extension",
    "tests/mount/test_fast_path.py",
    "tests/mount/test_parity_files.py",
    "tests/mount/test_parity_names.py",
    "tests/tools/test_install_helpers.py",
)


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory, fuse_required: None) -> DebianRoot:
    root = DebianRoot.make("trixie", tmp_path_factory.mktemp("debian") / "root")
    root.take_checkout()
    return root


def test_readme_install(debian: DebianRoot) -> None:
    """The commands of README's section "Install it" are enough; doctor finds the extension active and can mount."""
    commands = re.search(r"## Install it\n.*?```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert commands is not None
    debian.must("sh", "-ec", f"cd /src/minifo\n{commands[1]}")
    told = debian.must("minifo", "doctor", "--try")
    print(told)
    assert re.search(r"ok +python +3\.13", told)
    assert "it fits libfuse 3.17" in told


def test_demo(debian: DebianRoot) -> None:
    """README's first command, without make as it is there: all lands in storage, and the base is as it was."""
    script = "cd /src/minifo; bash .ci/demo; findmnt -n -o FSTYPE demo/mnt; minifo umount demo/mnt"
    told = debian.must("bash", "-ec", script)
    assert "The base is as it was: /usr has no HELLO" in told
    assert told.endswith("fuse.minifo\n")


def test_share_of_the_suite(debian: DebianRoot) -> None:
    """As ``make test`` would run it, set up by the same script, with the extension in use."""
    set_up = "cd /src/minifo; source .ci/setup e2fsprogs git; ln -sf ../proc/self/mounts /etc/mtab"
    script = f"{set_up}; minifo doctor | grep 'session hook'; python -m pytest -q {' '.join(SHARE)}"
    said = debian.must("bash", "-ec", script, CI="true", HYPOTHESIS_PROFILE="dev")
    print("\n".join(line for line in said.splitlines() if "session hook" in line or " passed" in line))
    assert re.search(r"ok +session hook +it fits libfuse 3\.17", said)
    assert re.search(r"^\d{3,} passed", said, re.M), said[-2000:]
