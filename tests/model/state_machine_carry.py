"""Hypothesis rules for backups and bundles: what arrives elsewhere shows what was sent, whatever happened before."""

from __future__ import annotations

import io
import shutil
import stat
from contextlib import closing
from pathlib import Path

import hypothesis.strategies as st
from hypothesis.stateful import initialize, rule

from minifo.engine import Overlay
from minifo.engine.clone import clone_overlay, state_now
from minifo.engine.queries.digest import differences, digest
from minifo.migrations.backup.create import BackupOptions, create_backup
from minifo.migrations.backup.restore import restore_backup
from minifo.migrations.bundle.apply import apply_at_rest
from minifo.migrations.bundle.create import CreateOptions, State, create_bundle
from tests.migrations.overlay_contents import seen
from tests.model.compared_trees import Snapshot
from tests.model.state_machine import PICK
from tests.model.state_machine_checkpoints import CheckpointRules

_CHAIN = 3  # backups that build on each other


class CarryRules(CheckpointRules):
    """backup and restore, bundle and apply, among checkpoints and all other operations."""

    @initialize()
    def have_no_backup(self) -> None:
        self.backups: list[Path] = []

    @rule(directory=st.booleans(), anew=st.booleans(), pick=PICK)
    def backup(self, directory: bool, anew: bool, pick: int) -> None:
        """What is restored is the overlay: all that shows, and its checkpoints."""
        self.t.finish_commit()
        self.copies += 1
        path = self.t.work / f"backup{self.copies}"
        if anew or directory or len(self.backups) >= _CHAIN:
            self.backups.clear()
        options = BackupOptions(is_directory=directory, since=str(self.backups[-1]) if self.backups else None)
        self.t.log.append(f"backup to {path.name}, {options}")
        with state_now(self.t.ov) as (storage, state):
            create_backup(storage, state, str(path), options)
        self.t.snap()
        self.backups.append(path)
        restored = self.t.work / f"restored{self.copies}"
        restore_backup([str(backup) for backup in self.backups], str(restored))
        checkpoints = self.t.ov.checkpoints.all()
        with closing(Overlay.open(str(self.t.base), str(restored))) as overlay:
            assert overlay.check() == [], self.t.told("what was restored breaks a rule")
            assert overlay.checkpoints.all() == checkpoints
            self.t.compare_with(overlay, Snapshot(self.t.plain, self.t.numbers()))
        if checkpoints:
            shown = checkpoints[pick % len(checkpoints)]
            with closing(Overlay.open(str(self.t.base), str(restored), at=shown.name)) as overlay:
                self.t.compare_with(overlay, self.states[shown.id])
        shutil.rmtree(restored)
        if directory:
            self.backups.clear()  # an archive may build on it, but not a restore on that alone

    @rule(first=PICK, second=PICK, to_now=st.booleans())
    def bundle(self, first: int, second: int, to_now: bool) -> None:
        """An overlay in the first state gets the second one: bytes, attributes, hard links, and the same digest."""
        checkpoints = self.t.ov.checkpoints.all()
        if not checkpoints:
            return
        self.t.finish_commit()
        self.t.ov.commit()
        self.t.snap()
        before = checkpoints[first % len(checkpoints)]
        after = None if to_now else checkpoints[second % len(checkpoints)]
        self.copies += 1
        device, path = self.t.work / f"device{self.copies}", self.t.work / f"bundle{self.copies}"
        self.t.log.append(f"bundle {before.name} {after.name if after is not None else ''}")
        clone_overlay(self.t.ov, before.name, str(device))
        base, storage = str(self.t.base), str(self.t.storage)
        with closing(Overlay.open(base, storage, at=before.name)) as one:
            if after is None:
                two = self.t.ov
                report = create_bundle(State(one, before), State(two, None), str(path), CreateOptions(lossy=True))
                expected, wanted = digest(differences(two)), seen(two)
            else:
                with closing(Overlay.open(base, storage, at=after.name)) as two:
                    report = create_bundle(State(one, before), State(two, after), str(path), CreateOptions(lossy=True))
                    expected, wanted = digest(differences(two)), seen(two)
        result = apply_at_rest(io.BytesIO(path.read_bytes()), "bundle", base, str(device))
        assert result.mismatches == [], self.t.told(str(result.mismatches))
        with closing(Overlay.open(base, str(device))) as overlay:
            assert overlay.check() == [], self.t.told("the bundle broke a rule")
            if not report.lost:
                assert _comparable(seen(overlay)) == _comparable(wanted), self.t.told("something else arrived")
                assert digest(differences(overlay)) == expected
        shutil.rmtree(device)
        path.unlink()


def _comparable(shown: dict[bytes, tuple[object, ...]]) -> dict[bytes, tuple[object, ...]]:
    """Without times of directories: only those in which something changes are in a bundle."""
    return {
        path: (*value[:5], *value[6:]) if stat.S_ISDIR(value[0]) else value  # type: ignore[arg-type]
        for path, value in shown.items()
    }
