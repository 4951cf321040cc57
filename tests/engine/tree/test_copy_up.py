"""Copy-up: which bytes of a base file the first write copies, and where they lie then."""

from __future__ import annotations

import os

from tests.shared.overlay_sandbox import OverlaySandbox

KIB = 1 << 10
BLOCKS = b"".join(bytes([index]) * 4096 for index in range(64))  # 256 KiB


def test_one_byte_copies_one_block(sandbox: OverlaySandbox) -> None:
    """Writing one byte to a large base file copies one block, not the file."""
    sandbox.put("f", BLOCKS * 16)
    sandbox.write("f", b"!", 2 << 20)
    assert sandbox.extents() == [(2 << 20, (2 << 20) + 1)]
    assert sandbox.allocated() <= 8 * KIB
    expected = bytearray(BLOCKS * 16)
    expected[2 << 20] = ord("!")
    assert sandbox.read("f") == expected


def test_small_base_file_is_copied_whole(sandbox: OverlaySandbox) -> None:
    """The first write copies a base file of up to 128 KiB completely, and only the written blocks of a larger one."""
    sandbox.put("edge", BLOCKS[: 128 * KIB])
    sandbox.put("over", BLOCKS[: 128 * KIB + 1])
    sandbox.write("edge", b"!", 5)
    sandbox.write("over", b"!", 5)
    assert sorted(sandbox.objects().values()) == [6, 128 * KIB]
    assert sandbox.read("edge") == BLOCKS[:5] + b"!" + BLOCKS[6 : 128 * KIB]
    assert sandbox.read("over") == BLOCKS[:5] + b"!" + BLOCKS[6 : 128 * KIB + 1]


def test_tiny_files_are_rows(sandbox: OverlaySandbox) -> None:
    """The bytes of a file of up to 2 KiB are a row; they move to a content object when the file grows."""
    sandbox.create("f", b"x" * 2048)
    assert sandbox.objects() == {}
    sandbox.write("f", b"y", 2048)
    assert list(sandbox.objects().values()) == [2049]
    assert sandbox.rows("small") == 0
    assert sandbox.read("f") == b"x" * 2048 + b"y"


def test_holes_survive_copy_up(sandbox: OverlaySandbox) -> None:
    """The copy of a sparse base file is sparse."""
    full = sandbox.put("f", b"")
    os.truncate(full, 120 * KIB)
    with full.open("r+b") as file:
        file.seek(64 * KIB)
        file.write(b"data")
    sandbox.write("f", b"!", 100)
    assert sandbox.allocated() <= 16 * KIB
    assert sandbox.read("f") == bytes(100) + b"!" + bytes(64 * KIB - 101) + b"data" + bytes(120 * KIB - 64 * KIB - 4)
