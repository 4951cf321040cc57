"""The file of a bundle: what tar(1) and others see of it, and what no reader takes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minifo.engine import StateError
from minifo.engine.errors import NewerFormat
from minifo.migrations.bundle.create import CreateOptions, sign_bundle
from minifo.migrations.bundle.parts import BundleReader
from minifo.migrations.bundle.signing import signer
from tests.migrations.bundle.bundle_sandbox import BundleSandbox, archive_of, rebuilt


@pytest.fixture
def bundle(memory_dir: Path) -> Path:
    """A bundle with all sorts of changes."""
    sandbox = BundleSandbox(memory_dir)
    sandbox.update()
    return sandbox.bundle()


def read(data: bytes) -> str:
    """Read all of a bundle, and return the digest of all that it changes; of its header only a signature would be."""
    reader = BundleReader(io.BytesIO(data), "up.bundle")
    found = hashlib.sha256(repr(reader.paths()).encode())
    for entry in reader.layer():
        found.update(repr(entry._replace(pieces=None)).encode())
        for piece in entry.pieces() if entry.pieces is not None else ():
            found.update(repr(piece).encode())
    return found.hexdigest()


def test_other_programs_can_read_it(bundle: Path, memory_dir: Path) -> None:
    """tar(1) unpacks it; digests are those of sha256sum; the layer is one of OCI."""
    out = memory_dir / "unpacked"
    out.mkdir()
    subprocess.run(["tar", "-xf", bundle, "-C", out], check=True)
    header = json.loads((out / "bundle.json").read_bytes())
    assert [header["format"], header["version"], header["from"]["checkpoint"]] == ["minifo-bundle", 1, "first"]
    for key in ("paths", "layer"):
        data = (out / header[key]["name"]).read_bytes()
        assert header[key]["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert header[key]["size"] == len(data)
    layer = gzip.decompress((out / "layer.tar.gz").read_bytes())
    assert header["layer"]["diff_id"] == f"sha256:{hashlib.sha256(layer).hexdigest()}"
    listed = subprocess.run(["tar", "-tf", "-"], input=layer, capture_output=True, check=True).stdout.decode()
    assert {"etc/.wh.gone", "etc/conf", "both/new"} <= set(listed.splitlines())
    lines = [json.loads(line) for line in gzip.decompress((out / "paths.jsonl.gz").read_bytes()).splitlines()]
    assert [line["path"] for line in lines] == sorted(line["path"] for line in lines)
    assert next(line for line in lines if line["path"] == "/null")["after"] == {
        "type": "c",
        "mode": "0644",
        "uid": 0,
        "gid": 0,
        "rdev": 259,
    }


HEADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "another format": lambda told: told.update(format="x"),
    "a part of another name": lambda told: told["layer"].update(name="../layer.tar.gz"),
    "a part that is too long": lambda told: told["layer"].update(size=1 << 60),
    "a size that is none": lambda told: told["paths"].update(size="1"),
    "another digest": lambda told: told["layer"].update(digest="sha256:" + "0" * 64),
    "a digest that is none": lambda told: told["layer"].update(digest="md5:00"),
    "more paths": lambda told: told["paths"].update(count=1000),
    "fewer paths": lambda told: told["paths"].update(count=1),
    "too many paths": lambda told: told["paths"].update(count=1 << 40),
    "no states": lambda told: told.pop("from"),
    "a state that is none": lambda told: told.update({"to": []}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_does_not_fit(bundle: Path, name: str) -> None:
    """It is refused."""
    with pytest.raises(StateError, match="damaged"):
        read(rebuilt(bundle, header=HEADERS[name]))


def test_a_later_version_is_told(bundle: Path) -> None:
    """It is not called damaged."""
    with pytest.raises(NewerFormat, match="version 2"):
        read(rebuilt(bundle, header=lambda told: told.update(version=2)))


def test_what_is_no_bundle(bundle: Path) -> None:
    """Other archives, links in the place of parts, huge parts, nested JSON, nothing."""
    for data in (
        b"",
        b"x" * 10_000,
        archive_of({"other": b""}),
        archive_of({"bundle.json": b"[" * 100_000}),
        archive_of({"bundle.json": b"{}"}),
        archive_of({"bundle.json": bytes(2 << 20)}),
        archive_of({"bundle.json": b"{}"}, type=b"2", linkname="/etc/passwd"),
        gzip.compress(bundle.read_bytes()),
    ):
        with pytest.raises(StateError, match="damaged"):
            read(data)


def test_random_damage(bundle: Path) -> None:
    """A cut is an error.  A changed byte is one, or is where nothing depends on it: in the padding of tar."""
    whole = bundle.read_bytes()
    said = read(whole)
    rng = random.Random(1)
    refused = 0
    for _ in range(300):
        at = rng.randrange(len(whole))
        with pytest.raises(StateError):
            read(whole[: min(at, len(whole) - 1024 - 512)])
        try:
            assert read(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :]) == said
        except StateError:
            refused += 1
    assert refused > 200


def test_signatures(bundle: Path, memory_dir: Path) -> None:
    """Of whom the list names; not of others, not for other purposes, not of other bundles."""
    keys = {}
    for name in ("maker", "other"):
        keys[name] = memory_dir / name
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys[name]], check=True)
    signers = memory_dir / "allowed_signers"
    signers.write_text(f"maker@example.org {keys['maker'].with_suffix('.pub').read_text()}")
    signed = memory_dir / "signed"
    for name, out in (("maker", signed), ("other", memory_dir / "not-trusted")):
        sign_bundle(io.BytesIO(bundle.read_bytes()), "up.bundle", str(out), str(keys[name]))
    sign_bundle(io.BytesIO(signed.read_bytes()), "up.bundle", str(memory_dir / "again"), str(keys["other"]))
    assert read(signed.read_bytes()) == read(bundle.read_bytes())

    def who(data: bytes) -> str:
        reader = BundleReader(io.BytesIO(data), "up.bundle")
        assert reader.signature is not None
        return signer(reader.header_bytes, reader.signature, str(signers))

    assert who(signed.read_bytes()) == "maker@example.org"
    forged = signed.read_bytes().replace(b'"note": ""', b'"note": "x"'.ljust(10))[: signed.stat().st_size]
    elsewhere = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-q", "-f", keys["maker"], "-n", "file"],
        input=BundleReader(io.BytesIO(bundle.read_bytes()), "x").header_bytes,
        capture_output=True,
        check=True,
    ).stdout
    for data in (forged, (memory_dir / "not-trusted").read_bytes(), (memory_dir / "again").read_bytes()):
        with pytest.raises(StateError, match=r"signed by nobody whom|damaged"):
            who(data)
    header = BundleReader(io.BytesIO(bundle.read_bytes()), "x").header_bytes
    for bad in (elsewhere, b"no signature", b""):
        with pytest.raises(StateError, match="signed by nobody whom"):
            signer(header, bad, str(signers))
    assert CreateOptions().key is None
