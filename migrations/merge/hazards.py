"""What a merge would lose or overwrite, found before it begins: a base that others have changed, and history.

A merge writes what the mount shows.  Where the base was changed since the overlay was made over it, that would
overwrite another's work; where the base lacks the version that a file was written over, there is nothing to write.
Checkpoints are states over the base as it was, and the merge changes that base: they would show a mixture, so they go.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from ...engine import Overlay, StateError
from ...engine.rebase.standing import Standing, standings

_CHANGED = frozenset({Standing.BASE_CHANGED, Standing.BASE_GONE, Standing.BASE_ADDED, Standing.CLASH})
_NAMED = 3  # paths in a message


class Hazards(NamedTuple):
    """What a merge would lose or overwrite.

    Attributes:
        drifted: paths whose base was changed since, sorted.
        checkpoints: names of the checkpoints that users made.
        automatic: how many checkpoints there are that commands made by themselves.
        trial: True if a trial or a transaction has not ended.
    """

    drifted: list[bytes]
    checkpoints: list[str]
    automatic: int
    trial: bool


def hazards(overlay: Overlay) -> Hazards:
    """Find out what a merge of an overlay would lose or overwrite; nothing of it may change meanwhile.

    Raises:
        Corrupt: a row is damaged.
        OSError: base or storage cannot be read.
    """
    overlay.examine_rows()  # the report trusts the rows
    drifted = {entry.path for standing, entry in standings(overlay) if standing in _CHANGED}
    known = overlay.checkpoints.all()
    by_users = [checkpoint.name for checkpoint in known if checkpoint.cause is None]
    trial = overlay.trial.state()
    if trial.fallback in by_users:
        by_users.remove(trial.fallback)
    return Hazards(sorted(drifted), by_users, len(known) - len(by_users), trial.verdict == "indeterminate")


def refuse(found: Hazards, storage: str, base: str, *, overwrite: bool, drop_checkpoints: bool) -> None:
    """Refuse a merge that would lose something unasked.

    Args:
        found: what it would lose.
        storage, base: for messages.
        overwrite: the user wants the overlay's version where the base was changed since.
        drop_checkpoints: the user wants to lose checkpoints.

    Raises:
        StateError: it would; nothing was changed.
    """
    if found.trial:
        raise StateError(
            f"a trial or a transaction of {storage} has not ended", "minifo confirm keeps it, minifo trial abandon not"
        )
    if found.drifted and not overwrite:
        named = ", ".join(map(os.fsdecode, found.drifted[:_NAMED]))
        more = f" and {len(found.drifted) - _NAMED} more" if len(found.drifted) > _NAMED else ""
        raise StateError(
            f"the base was changed since where the overlay has changes, too: {named}{more}",
            f"settle that first: minifo rebase {storage} --base {base}; or overwrite the base's: --drift overwrite",
        )
    if found.checkpoints and not drop_checkpoints:
        named = ", ".join(found.checkpoints[:_NAMED]) + (", ..." if len(found.checkpoints) > _NAMED else "")
        raise StateError(
            f"{storage} has checkpoints that are of the base as it is now ({named}), and a merge loses them",
            "lose them: --drop-checkpoints; a copy of the storage and of the base keeps them",
        )
