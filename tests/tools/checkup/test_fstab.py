"""Lines of fstab that systemd may mount before what they lie on, as ``minifo doctor`` tells of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.test_doctor import on_machine

_FSTAB = """\
# <file system> <mount point> <type> <options>
LABEL=data  /data    ext4     defaults  0 2
LABEL=more  /more\\040data xfs defaults 0 2
none  swap  swap  sw
none  /mnt/etc  mini_fo  {options}  0 0
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ("base=/etc,sto=/data/etc", "/data"),
        ("base=/etc,sto=/data/etc,x-systemd.requires-mounts-for=/data", ""),
        ("base=/etc,sto=/data/etc,x-systemd.requires-mounts-for=/data/etc/deeper", ""),
        ("base=/etc,sto=/data/etc,x-systemd.requires-mounts-for=/dat", "/data"),
        ("base=/etc,sto=/var/lib/etc-changes", ""),
        ("base=/etc,sto=/run/etc-changes", ""),
        (r"lowerdir=/data/a:/more\040data/b:/etc,sto=/data/etc,noauto", "/data and /more data"),
    ],
)
def test_lines_of_fstab_that_come_too_early(tmp_path: Path, options: str, missing: str) -> None:
    """systemd mounts an overlay after what its line names; what lies on the root file system needs no name."""
    (tmp_path / "fstab").write_text(_FSTAB.format(options=options))
    place = f"mount --bind {tmp_path}/fstab /etc/fstab; mount -t tmpfs none /run; "
    _, found = on_machine(f"{place} mkdir -p /run/systemd/system")
    assert found["fstab"]["verdict"] == ("note" if missing else "ok")
    assert (f"before {missing}, and" in found["fstab"]["fact"]) == bool(missing), found["fstab"]
    if missing:
        paths = missing.replace("more data", r"more\040data").split(" and ")
        words = [f"x-systemd.requires-mounts-for={path}" for path in paths]
        assert found["fstab"]["remedy"] == f"add to the options of its line in /etc/fstab: {','.join(words)}"
    _, found = on_machine(place)
    assert found["fstab"]["verdict"] == "ok"
    assert found["fstab"]["fact"].startswith("systemd does not run")


@pytest.mark.root
def test_a_line_of_fstab_that_is_wrong(tmp_path: Path) -> None:
    """It is told as a mount would; and no fstab at all is none with an overlay."""
    (tmp_path / "fstab").write_text(_FSTAB.format(options="base=/etc,sto=/data/etc,comit=5"))
    systemd = "mount -t tmpfs none /run; mkdir -p /run/systemd/system; "
    _, found = on_machine(f"{systemd} mount --bind {tmp_path}/fstab /etc/fstab")
    assert found["fstab"]["verdict"] == "note"
    assert "comit" in found["fstab"]["fact"]
    assert found["fstab"]["remedy"]
    _, found = on_machine(f"{systemd} mount --bind /dev/null /etc/fstab")
    assert found["fstab"]["fact"] == "/etc/fstab has no overlay"
