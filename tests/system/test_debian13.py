"""A new Debian 13 takes minifo by the commands that README names, mounts, and passes a share of the tests."""

from __future__ import annotations

import re
import subprocess
import tarfile
import zipfile

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


def test_source_distribution_and_wheel(debian: DebianRoot) -> None:
    """The first has every file of the checkout, the second, made from it alone, all that runs; pipx installs both."""
    debian.must("sh", "-ec", "apt-get -qy install --no-install-recommends pipx; /opt/minifo/bin/pip install -q build")
    debian.must("/opt/minifo/bin/python", "-m", "build", "--outdir", "/pip/dist", "/src/minifo")
    dist = debian.path / "pip" / "dist"
    (source,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    with tarfile.open(source) as archive:
        sent = {name.partition("/")[2] for name in archive.getnames()}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    left_out = {name for name in listed if name not in sent}
    assert {name for name in left_out if not name.startswith("tests/_typing/")} == {".gitignore"}
    with zipfile.ZipFile(wheel) as built:
        names = set(built.namelist())
    packed = ("engine/", "fusefront/", "migrations/", "tools/")
    runs = {name for name in listed if name.startswith(packed) and not name.endswith((".c", ".h"))}
    wanted = {f"minifo/{name}".replace("minifo/engine/public/", "minifo/") for name in runs}
    assert wanted <= names, sorted(wanted - names)
    assert any(re.fullmatch(r"minifo/fusefront/extension/_hook\..*\.so", name) for name in names)
    for file in (source.name, wheel.name):
        script = f"""
        export PIPX_HOME=/opt/pipx PIPX_BIN_DIR=/opt/pipx/bin
        pipx install --quiet --force /pip/dist/{file} >/dev/null
        /opt/pipx/bin/minifo doctor --try
        """
        said = debian.must("sh", "-ec", script)
        assert "0 problems" in said, said
        assert "/opt/pipx/" in said
