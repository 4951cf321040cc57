"""Schema steps and plans for many storages."""

from __future__ import annotations

import json
import os
from pathlib import Path

import apsw
import pytest

from minifo.engine import NewerFormat, NotMinifo, StateError, StorageBusy, UsageError
from minifo.engine.store.database_file import SCHEMA_VERSION
from minifo.migrations.fleet import Fleet, read_plan
from minifo.migrations.schema.upgrade import shipped_steps, upgrade
from minifo.tools.cli import main
from tests.migrations import legacy_trees, overlay_contents
from tests.migrations.kill_points import every_crash

NEXT = SCHEMA_VERSION + 1
LAST = SCHEMA_VERSION + 2
STEPS = {
    NEXT: "CREATE TABLE extra (ino INTEGER PRIMARY KEY) STRICT; INSERT INTO extra SELECT ino FROM inode;",
    LAST: "ALTER TABLE extra ADD COLUMN what TEXT",
}


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """A storage of this version."""
    (tmp_path / "base").mkdir()
    (tmp_path / "sto").mkdir()
    with overlay_contents.opened(tmp_path / "base", tmp_path / "sto"):
        pass
    return str(tmp_path / "sto")


def version(path: str) -> int:
    """The version of a database."""
    con = apsw.Connection(path)
    (found,) = con.execute("PRAGMA user_version").fetchone()
    con.close()
    return int(found)


def test_steps_lead_to_the_version_the_engine_opens() -> None:
    """The engine knows one number, the steps end there, and none is missing."""
    assert sorted(shipped_steps()) == list(range(2, SCHEMA_VERSION + 1))


def test_each_step_is_made_and_a_copy_kept(storage: str) -> None:
    """From any version to the last, with the database as it was beside it."""
    done = upgrade(storage, steps=STEPS, target=LAST)
    assert done[:2] == (SCHEMA_VERSION, LAST)
    assert done.backup is not None
    assert version(done.backup) == SCHEMA_VERSION
    assert version(f"{storage}/minifo.db") == LAST
    assert upgrade(storage, steps=STEPS, target=LAST) == (LAST, LAST, None)
    with pytest.raises(NewerFormat):
        upgrade(storage)


def test_dry_run_changes_nothing(storage: str) -> None:
    """It says what would be done."""
    assert upgrade(storage, steps=STEPS, target=LAST, dry_run=True) == (SCHEMA_VERSION, LAST, None)
    assert version(f"{storage}/minifo.db") == SCHEMA_VERSION


def test_failing_step_leaves_the_version_before(storage: str) -> None:
    """A step is made whole or not at all; the ones before it count."""
    with pytest.raises(StateError, match=f"step {LAST} failed"):
        upgrade(storage, steps=STEPS | {LAST: "CREATE TABLE half (x) ; SELECT nonsense"}, target=LAST)
    assert version(f"{storage}/minifo.db") == NEXT
    con = apsw.Connection(f"{storage}/minifo.db")
    assert con.execute("SELECT name FROM sqlite_schema WHERE name = 'half'").fetchall() == []
    con.close()
    assert upgrade(storage, steps=STEPS, target=LAST)[:2] == (NEXT, LAST)


def test_refusals(storage: str, tmp_path: Path) -> None:
    """A gap, a storage in use, a directory that is none."""
    with pytest.raises(StateError, match="cannot upgrade"):
        upgrade(storage, steps={LAST: ""}, target=LAST)
    with pytest.raises(StateError, match="ended its own transaction"):
        upgrade(storage, steps={NEXT: "COMMIT"}, target=NEXT)
    with overlay_contents.opened(tmp_path / "base", storage), pytest.raises(StorageBusy):
        upgrade(storage)
    (tmp_path / "none").mkdir()
    with pytest.raises(NotMinifo):
        upgrade(str(tmp_path / "none"))


def test_crash_at_any_step_is_resumed(storage: str) -> None:
    """Whatever it was cut short at, the next run reaches the last version."""
    saved = Path(f"{storage}/minifo.db").read_bytes()

    def reset() -> None:
        for name in os.listdir(storage):
            if name.startswith("minifo.db"):
                os.unlink(f"{storage}/{name}")
        Path(f"{storage}/minifo.db").write_bytes(saved)

    for _ in every_crash(reset, lambda: upgrade(storage, steps=STEPS, target=LAST)):
        assert upgrade(storage, steps=STEPS, target=LAST).after == LAST
        assert version(f"{storage}/minifo.db") == LAST


# -- plans


@pytest.fixture
def boxes(memory_dir: Path) -> Path:
    """Three boxes with a legacy storage each, over one base."""
    for number in range(3):
        box = memory_dir / "boxes" / f"b{number}"
        box.mkdir(parents=True)
        (box / "overlay").mkdir()
        (box / "overlay" / "file").write_text(f"{number}")
    (memory_dir / "rom").mkdir()
    return memory_dir


def write_plan(place: Path, *, top: str = "", storage: str = "") -> str:
    """A plan for all boxes."""
    (place / "plan.toml").write_text(
        f'{top}\n[defaults]\nbase = "{place}/rom"\n[[storage]]\neach = "{place}/boxes/*/overlay"\n'
        f'target = "{{parent}}/new"\nname = "{{name}}"\n{storage}\n'
    )
    return str(place / "plan.toml")


def statuses(plan: str) -> list[str]:
    """Run a plan."""
    return [report["status"] for report in Fleet(read_plan(plan)).run()]


def test_plan_imports_all_and_is_done_once(boxes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In parallel, with hooks and expected paths; a second run skips what is done."""
    hooks = f"before = 'echo \"$MINIFO_NAME\" >> {boxes}/log'\nafter = 'test -e \"$MINIFO_TARGET/minifo.db\"'"
    plan = write_plan(boxes, top="parallel = 3", storage=f'{hooks}\nexpect = ["file"]')
    assert main(["migrate", plan, "--dry-run"]) == 0
    assert capsys.readouterr().out == "planned  b0\nplanned  b1\nplanned  b2\n"
    assert not (boxes / "log").exists()
    assert main(["migrate", plan]) == 0
    assert sorted((boxes / "log").read_text().split()) == ["b0", "b1", "b2"]
    report = json.loads((boxes / "plan.toml.reports" / "b1.json").read_text())
    assert (report["status"], report["states"], report["compared"]) == ("done", {"MODIFIED": 1, "CREATED": 1}, 1)
    summary = json.loads((boxes / "plan.toml.reports" / "summary.json").read_text())
    assert summary["counts"] == {"done": 3}
    assert b"/file" in overlay_contents.shown(boxes / "rom", boxes / "boxes" / "b2" / "new")
    capsys.readouterr()
    assert main(["migrate", plan, "--json"]) == 0
    assert {r["status"] for r in json.loads(capsys.readouterr().out)["storages"]} == {"skipped"}


@pytest.mark.parametrize(("policy", "expected"), [("stop", "stopped"), ("continue", "done")])
def test_failure_stops_or_not(boxes: Path, policy: str, expected: str) -> None:
    """One bad storage is told; the others wait or go on."""
    plan = write_plan(boxes, top=f'on_error = "{policy}"', storage='before = "test $MINIFO_NAME != b1"')
    assert statuses(plan) == ["done", "failed", expected]
    plan = write_plan(boxes, top=f'on_error = "{policy}"')
    assert "failed" not in statuses(plan)


@pytest.mark.parametrize("name", ["b; touch pwned", "$(touch pwned)", "-rf", "b 4", "b'4", "b\n4", "ü"])
@pytest.mark.parametrize("key", ["before", "after"])
def test_names_do_not_command(boxes: Path, monkeypatch: pytest.MonkeyPatch, name: str, key: str) -> None:
    """A directory's name is no part of a shell command where the shell would not take it as it is; a variable is."""
    monkeypatch.chdir(boxes)
    (boxes / "boxes/b1").rename(boxes / "boxes" / name)
    plan = write_plan(boxes, storage=f"{key} = 'echo {{name}} >> log'")
    with pytest.raises(UsageError, match="the shell would interpret"):
        read_plan(plan)
    plan = write_plan(boxes, storage=f'{key} = \'echo "$MINIFO_DIR" >> log; test -e "$MINIFO_PARENT/overlay"\'')
    assert statuses(plan) == ["done"] * 3
    assert sorted((boxes / "log").read_text()) == sorted(f"b0\nb2\n{name}\n")
    assert not (boxes / "pwned").exists()


def test_harmless_names_stand_in_commands(boxes: Path) -> None:
    """As ever."""
    plan = write_plan(boxes, storage=f"before = 'echo box@{{name}} {{parent}} >> {boxes}/log'")
    assert statuses(plan) == ["done"] * 3
    assert (boxes / "log").read_text() == "".join(f"box@b{n} {boxes}/boxes/b{n}\n" for n in range(3))


@pytest.mark.parametrize("what", ["b1", "b1/overlay", "b1/new"])
def test_a_match_leads_nowhere_else(boxes: Path, what: str) -> None:
    """Who may write to a box could else send an import in place, or a new storage, to any directory."""
    elsewhere = boxes / "elsewhere"
    place = boxes / "boxes" / what
    if place.exists():
        place.rename(elsewhere)
    place.symlink_to(elsewhere)
    with pytest.raises(UsageError, match=f"{what.partition('/')[0]}.* leads elsewhere"):
        read_plan(write_plan(boxes))
    assert not (elsewhere / "minifo.db").exists()


def test_a_match_that_comes_to_lead_elsewhere(boxes: Path) -> None:
    """The plan was read before."""
    plan = read_plan(write_plan(boxes, top='on_error = "continue"'))
    box = boxes / "boxes" / "b1" / "overlay"
    box.rename(boxes / "elsewhere")
    box.symlink_to(boxes / "elsewhere")
    reports = Fleet(plan).run()
    assert [report["status"] for report in reports] == ["done", "failed", "done"]
    assert "leads elsewhere" in reports[1]["error"]


def test_the_way_to_the_matches_may_have_symlinks(boxes: Path) -> None:
    """That one the user has named."""
    (boxes / "true").mkdir()
    (boxes / "boxes").rename(boxes / "true" / "boxes")
    (boxes / "boxes").symlink_to(boxes / "true" / "boxes")
    assert statuses(write_plan(boxes)) == ["done"] * 3


def test_notes_can_be_refused(boxes: Path) -> None:
    """A plan may accept clean storages only; nothing was changed then."""
    (boxes / "boxes" / "b0" / "overlay" / legacy_trees.META_NAME.decode()).write_bytes(b"D torn")
    plan = write_plan(boxes, top='on_error = "continue"', storage='refuse = ["skipped"]')
    assert statuses(plan) == ["failed", "done", "done"]
    assert not (boxes / "boxes" / "b0" / "new").exists()


def test_upgrades_by_plan(storage: str, tmp_path: Path) -> None:
    """The other action."""
    (tmp_path / "plan.toml").write_text(f'[[storage]]\nsource = "{storage}"\naction = "upgrade"\n')
    assert statuses(str(tmp_path / "plan.toml")) == ["done"]


@pytest.mark.parametrize(
    "text",
    [
        "colour = 1",
        "[[storage]]\nsource = 'x'",
        "[[storage]]\nsource = 'x'\nbase = '/'\ntarget = 1",
        "on_error = 'x'",
        "parallel = true",
        "storage = 3",
        "storage = ['x']",
        "defaults = 3\n[[storage]]\nsource = 'x'",
        "reports = 3",
        "[[storage]]\nsource = 3",
        "[[storage]]\neach = '/nowhere/*'\nbase = '/'\nin_place = true",
        "",
        "]",
        "\udcff",
    ],
)
def test_wrong_plan_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """No traceback, nothing done."""
    (tmp_path / "plan.toml").write_bytes(os.fsencode(text))
    with pytest.raises(UsageError):
        read_plan(str(tmp_path / "plan.toml"))
    assert main(["migrate", str(tmp_path / "plan.toml")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_crash_of_a_plan_is_resumed(boxes: Path) -> None:
    """Whatever it was cut short at, the same command brings all storages over."""
    plan = write_plan(boxes)

    def reset() -> None:
        for path in (*(boxes / "boxes").glob("*/new"), boxes / "plan.toml.reports"):
            if path.exists():
                legacy_trees.shutil.rmtree(path)

    for _ in every_crash(reset, lambda: Fleet(read_plan(plan)).run(), step=5):
        assert set(statuses(plan)) <= {"done", "skipped"}
        for number in range(3):
            assert len(overlay_contents.shown(boxes / "rom", boxes / "boxes" / f"b{number}" / "new")) == 2
