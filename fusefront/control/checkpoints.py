"""What a mounted overlay answers about checkpoints: methods of org.minifo.Overlay."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ...engine import Overlay, StateError
from ...engine.checkpoint_values import Checkpoint, Restored
from ...engine.clone import checkpoint_for_clone
from ...engine.errors import NotDurable, errno_of
from ...engine.model import TRIAL_MOUNTS
from ...engine.reset import Reset
from ...engine.revert import Reverted
from ...engine.tree.path_resolver import is_base_path
from ...engine.vacuum import KINDS, Vacuum
from .patterns import Choice
from .varlink import SERVICE, Answer, Method, VarlinkError

if TYPE_CHECKING:
    from ..serve.live_checkpoints import LiveCheckpoints


def methods(interface: str, overlay: Overlay, live: LiveCheckpoints) -> dict[str, Method]:
    """Return the methods by their full names.

    Args:
        interface: the interface's name.
        overlay: the overlay that is mounted.
        live: makes checkpoints of it.
    """
    checkpoints = overlay.checkpoints

    async def listed(parameters: Mapping[str, Any]) -> Answer:
        return {"checkpoints": [told(checkpoint) for checkpoint in checkpoints.all()]}

    async def create(parameters: Mapping[str, Any]) -> Answer:
        name, note = _text(parameters, "name"), _text(parameters, "note")
        call = partial(checkpoints.create, name, note or "", pinned=_flag(parameters, "pinned"))
        made = await refused(interface, live.change(call))
        return {"checkpoint": told(made)}

    async def begin_clone(parameters: Mapping[str, Any]) -> Answer:
        made = await refused(interface, live.change(partial(checkpoint_for_clone, checkpoints)))
        return {"checkpoint": told(made)}

    async def delete(parameters: Mapping[str, Any]) -> Answer:
        names = _texts(parameters, "names")
        await refused(interface, live.change(partial(checkpoints.delete, names)))
        return {}

    async def prune(parameters: Mapping[str, Any]) -> Answer:
        ids = parameters.get("ids")
        if not isinstance(ids, list) or not all(type(number) is int for number in ids):
            raise VarlinkError(SERVICE + ".InvalidParameter", parameter="ids")
        deleted = await refused(interface, live.change(partial(checkpoints.prune, set(ids))))
        return {"deleted": [told(checkpoint) for checkpoint in deleted]}

    async def rename(parameters: Mapping[str, Any]) -> Answer:
        call = partial(checkpoints.rename, _name(parameters, "name"), _name(parameters, "new_name"))
        await refused(interface, live.change(call))
        return {}

    async def pin(parameters: Mapping[str, Any]) -> Answer:
        call = partial(checkpoints.pin, _name(parameters, "name"), pinned=_flag(parameters, "pinned"))
        await refused(interface, live.change(call))
        return {}

    def back(call: Callable[[Mapping[str, Any]], Callable[[], Restored]]) -> Method:
        async def method(parameters: Mapping[str, Any]) -> Answer:
            return told_return(await refused(interface, live.go_back(call(parameters))))

        return method

    async def trial(parameters: Mapping[str, Any]) -> Answer:
        return {"trial": overlay.trial.state()._asdict()}

    async def start_trial(parameters: Mapping[str, Any]) -> Answer:
        mounts = parameters.get("mounts")
        if mounts is not None and type(mounts) is not int:
            raise VarlinkError(SERVICE + ".InvalidParameter", parameter="mounts")
        await refused(interface, live.change(partial(overlay.trial.start, TRIAL_MOUNTS if mounts is None else mounts)))
        return await trial({})

    async def confirm(parameters: Mapping[str, Any]) -> Answer:
        await refused(interface, live.change(overlay.trial.confirm))
        return await trial({})

    async def revert(parameters: Mapping[str, Any]) -> Answer:
        paths = parameters.get("paths")
        if not isinstance(paths, list) or not all(is_path(path) for path in paths):
            raise VarlinkError(SERVICE + ".InvalidParameter", parameter="paths")
        wanted = [os.fsencode(path) for path in paths]
        to, dry_run = _text(parameters, "to"), _flag(parameters, "dry_run")
        return told_revert(await refused(interface, live.revert(wanted, to=to, dry_run=dry_run)))

    async def reset(parameters: Mapping[str, Any]) -> Answer:
        keep, names = _texts(parameters, "keep"), _texts(parameters, "lists")
        try:
            patterns, lists = overlay.keep_lists.chosen(keep, names, default=_flag(parameters, "default"))
            choice = Choice(patterns)
        except StateError as error:
            raise _refusal(interface, error) from error
        return told_reset(await refused(interface, live.reset(choice)), lists)

    async def vacuum(parameters: Mapping[str, Any]) -> Answer:
        kinds = _texts(parameters, "kinds")
        if not set(kinds) <= set(KINDS):
            raise VarlinkError(SERVICE + ".InvalidParameter", parameter="kinds")
        return told_vacuum(await refused(interface, live.vacuum(tuple(kinds))))

    async def set_keep_list(parameters: Mapping[str, Any]) -> Answer:
        name, patterns = _name(parameters, "name"), _texts(parameters, "patterns")
        try:
            Choice(patterns)
        except StateError as error:
            raise _refusal(interface, error) from error
        call = partial(overlay.keep_lists.set, name, patterns)
        await refused(interface, live.change(call))
        return {}

    async def delete_keep_lists(parameters: Mapping[str, Any]) -> Answer:
        await refused(interface, live.change(partial(overlay.keep_lists.delete, _texts(parameters, "names"))))
        return {}

    found: dict[str, Method] = {
        "Checkpoints": listed,
        "CreateCheckpoint": create,
        "BeginClone": begin_clone,
        "DeleteCheckpoints": delete,
        "PruneCheckpoints": prune,
        "RenameCheckpoint": rename,
        "PinCheckpoint": pin,
        "Rollback": back(lambda parameters: partial(checkpoints.rollback, _name(parameters, "name"))),
        "Undo": back(lambda parameters: checkpoints.undo),
        "Redo": back(lambda parameters: checkpoints.redo),
        "Revert": revert,
        "Reset": reset,
        "Vacuum": vacuum,
        "SetKeepList": set_keep_list,
        "DeleteKeepLists": delete_keep_lists,
        "Trial": trial,
        "StartTrial": start_trial,
        "Confirm": confirm,
        "AbandonTrial": back(lambda parameters: overlay.trial.abandon),
    }
    return {f"{interface}.{name}": method for name, method in found.items()}


def told(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what is told of a checkpoint."""
    return {
        "id": checkpoint.id,
        "name": checkpoint.name,
        "time": checkpoint.time,
        "note": checkpoint.note,
        "pinned": bool(checkpoint.pinned),
        "cause": checkpoint.cause,
    }


def told_return(restored: Restored) -> dict[str, Any]:
    """Return what is told of a return to a checkpoint."""
    return {"to": told(restored.to), "left": told(restored.left), "objects": len(restored.inos)}


def told_revert(reverted: Reverted) -> dict[str, Any]:
    """Return what is told of a revert."""
    restored = reverted.restored
    return {
        "actions": [
            {
                "what": action.what,
                "path": os.fsdecode(action.path),
                "other": None if action.other is None else os.fsdecode(action.other),
            }
            for action in reverted.actions
        ],
        "left": None if restored is None else told(restored.left),
        "objects": 0 if restored is None else len(restored.inos),
    }


def told_reset(done: Reset, lists: list[str]) -> dict[str, Any]:
    """Return what is told of a reset, which used some keep-lists."""
    restored = done.restored
    return {
        "taken": done.taken,
        "kept": done.kept,
        "lists": lists,
        "left": None if restored is None else told(restored.left),
        "objects": 0 if restored is None else len(restored.inos),
    }


def told_vacuum(work: Vacuum) -> dict[str, Any]:
    """Return what is told of a vacuum."""
    return {
        "found": [
            {"kind": kind, "count": found.number, "freed": found.freed, "kept": found.kept}
            for kind, found in work.found.items()
        ],
        "skipped": work.skipped,
    }


def is_path(path: object) -> bool:
    """Return whether a value is an absolute path without ``.``, ``..`` and empty names."""
    return isinstance(path, str) and (path == "/" or is_base_path(os.fsencode(path)))


async def refused(interface: str, call: Awaitable[Any]) -> Any:
    """Return the result of a call; say why it is refused."""
    try:
        return await call
    except StateError as error:
        raise _refusal(interface, error) from error


def _refusal(interface: str, error: StateError) -> VarlinkError:
    reasons = {"reason": error.message, "hint": error.hint, "errno": errno_of(error)}
    name = "NotDurable" if isinstance(error, NotDurable) else "Refused"
    return VarlinkError(f"{interface}.{name}", **reasons)


def _texts(parameters: Mapping[str, Any], name: str) -> list[str]:
    values = parameters.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise VarlinkError(SERVICE + ".InvalidParameter", parameter=name)
    return values


def _text(parameters: Mapping[str, Any], name: str) -> str | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, str):
        raise VarlinkError(SERVICE + ".InvalidParameter", parameter=name)
    return value


def _name(parameters: Mapping[str, Any], name: str) -> str:
    value = _text(parameters, name)
    if value is None:
        raise VarlinkError(SERVICE + ".InvalidParameter", parameter=name)
    return value


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name)
    if not isinstance(value, bool | None):
        raise VarlinkError(SERVICE + ".InvalidParameter", parameter=name)
    return bool(value)
