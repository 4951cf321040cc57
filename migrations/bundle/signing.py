"""Signatures of bundles, made and checked by ssh-keygen of OpenSSH (PROTOCOL.sshsig).

A device has a list of those whom it trusts, in the form of ALLOWED SIGNERS of ssh-keygen(1).  No key is read here:
ssh-keygen reads it, or asks the agent that has it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

from ...engine import StateError, UsageError

NAMESPACE = "minifo-bundle"  # so that no signature for another purpose counts here
_TIME = 120  # seconds; a key may wait for a touch


def sign(data: bytes, key: str) -> bytes:
    """Return a signature.

    Args:
        data: what is signed.
        key: the file of a private key; or of a public one whose private key an agent has.

    Raises:
        UsageError: the file cannot be read.
        StateError: ssh-keygen is missing, or does not sign with this key.
    """
    if not os.access(key, os.R_OK):
        raise UsageError(f"the key {key} cannot be read", "make one: ssh-keygen -t ed25519 -f KEY")
    done = _run(["-Y", "sign", "-q", "-f", key, "-n", NAMESPACE], data, patient=True)
    if done.returncode or b"BEGIN SSH SIGNATURE" not in done.stdout:
        raise StateError(f"ssh-keygen does not sign with {key} ({_said(done)})", "is it a key of ssh-keygen(1)?")
    return done.stdout


def signer(data: bytes, signature: bytes, signers: str) -> str:
    """Return who has signed.

    Args:
        data: what is signed.
        signature: the signature.
        signers: the file that says who is trusted.

    Raises:
        UsageError: the file cannot be read.
        StateError: nobody who is trusted has signed this.
    """
    if not os.access(signers, os.R_OK):
        raise UsageError(f"the list of signers {signers} cannot be read", "each line is: NAME KEYTYPE KEY")
    with tempfile.NamedTemporaryFile(prefix="minifo-") as file:
        file.write(signature)
        file.flush()
        given = ["-s", file.name, "-f", signers]
        found = _run(["-Y", "find-principals", *given], data)
        for name in found.stdout.decode("utf-8", "replace").split("\n") if not found.returncode else ():
            if name and not _run(["-Y", "verify", *given, "-I", name, "-n", NAMESPACE], data).returncode:
                return name
    raise StateError(
        f"the bundle is signed by nobody whom {signers} names", "nothing was changed; is it whole, and from whom is it?"
    )


def _run(words: list[str], data: bytes, *, patient: bool = False) -> subprocess.CompletedProcess[bytes]:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise StateError("the program ssh-keygen is not installed", "install openssh-client")
    try:
        return subprocess.run(
            [program, *words], input=data, capture_output=True, timeout=None if patient else _TIME, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StateError("ssh-keygen does not answer", "run it by hand") from error


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stderr.decode("utf-8", "replace").strip().replace("\n", ": ") or f"exit code {done.returncode}"
