"""The life of one mount: open, mount, serve, commit, unmount.

The engine is opened before anything is mounted, so the base may become the mount point, and closed after the kernel has
let go.  A mount ends by umount(8), or by a signal that asks for it (signals.py), which commits and unmounts.  If
serving fails the mount is left in place on purpose, dead: to take it away would show the bare base to programs that
write.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

import trio

from ..engine import Overlay, StateError, StorageBusy
from ..engine.recovery import BaseCheck
from ..engine.store.redo_log import memory_directory
from ..engine.store.storage import Storage
from .extension import loader
from .mount import mount_flags, mount_table
from .mount.end_report import EndReport
from .mount.helper_process import MountHelper
from .mount.options import MountOptions, format_source
from .process import descriptor_limits, privileges, signals
from .process.stderr_capture import captured_stderr
from .process.system_log import set_relay
from .serve.base_reader import BaseReader, is_remote
from .serve.committer import Committer
from .serve.eager_trio import EagerTrio
from .serve.name_limit import default_limit, limit_inodes
from .serve.range_handlers import RangeHandlers
from .serve.reply_cache import ReplyCache

log = logging.getLogger(__name__)

_TASKS = 100_000  # requests that may be under way; each that waits for durability is one, and more must be served
_KEPT_MEMORY = 8 << 20  # bytes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_ENDING = 10.0  # seconds a daemon whose mount is gone already may take for its last commit


def run(options: MountOptions, mountpoint: str, *, ready: Callable[[], None]) -> None:
    """Mount an overlay and serve it until it is unmounted.

    Args:
        options: with true paths.
        mountpoint: its true path.
        ready: called once, when the mount answers.

    Raises:
        StateError: the overlay cannot be opened or mounted, or its last commit failed.
    """
    mount_helper = MountHelper(mountpoint)  # forked first: it must hold nothing open
    set_relay(mount_helper.relay)
    extension = loader.load()
    loader.activate(not options.plain)
    import pyfuse3  # after the hook: it must find the hook's symbols first

    pyfuse3.trio = EagerTrio(extension)  # type: ignore[attr-defined]

    descriptor_limits.raise_limit()
    overlay = _open(options, extension.kernel_time if extension is not None else None)
    # one that came between the mount and the loop that waits for it would leave a dead mount
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.ending_signals())
    source = format_source(options.base, options.storage)
    report = EndReport(source)
    try:
        with _closing(overlay):
            committer = Committer(overlay, mount_helper, mountpoint, options.commit)
            used = None if options.plain else extension
            # before the mount, for afterwards these paths may lead through it
            writable = [path for path in (options.storage, memory_directory()) if path is not None]
            ruleset = privileges.landlock_ruleset(writable)
            base_reader = _base_reader(overlay, options.base)
            insist = _mount(overlay, committer, mount_helper, base_reader, used, options, mountpoint)
            _tune_memory()
            try:
                report.serving(mount_helper.mounted())
                privileges.drop_in_process()
                mount_helper.stay_unbound()
                privileges.drop_in_server_thread(ruleset)
                limit = options.max_names or default_limit()
                trio.run(_serve, overlay, committer, mount_helper, mountpoint, limit, insist, ready)
            except BaseException:
                pyfuse3.close(unmount=False)
                raise
            report.ending()
            mount_helper.unmark(source)
            pyfuse3.close(unmount=True)
    except BaseException as error:
        report.failed(*_said(error))
        raise
    finally:
        set_relay(None)
        mount_helper.close()
    report.done()


@contextlib.contextmanager
def _closing(overlay: Overlay) -> Iterator[None]:
    """Close an overlay at the end, whatever happened.

    Raises:
        StateError: not everything is durable.
    """
    try:
        yield
    finally:
        redo = overlay.durability.redo_path
        try:
            overlay.close()
        except StateError as error:
            raise _not_durable(error.message, redo) from error
        if overlay.durability.failure is not None:
            raise _not_durable(f"storage {overlay.storage_path} failed ({overlay.durability.failure})", redo)


def _not_durable(why: str, redo: str | None) -> StateError:
    if redo is None:
        return StateError(f"its last changes are lost: {why}", "repair the storage")
    return StateError(
        f"its last changes are not durable: {why}",
        f"they are in {redo}, in memory: repair the storage, and mount it again before this machine restarts",
    )


def _said(error: BaseException) -> tuple[str, str]:
    """Message and hint for whoever waits for the end."""
    if isinstance(error, StateError):
        return error.message, error.hint
    return f"its daemon failed ({type(error).__name__}: {error})", "see the system log"


def _tune_memory() -> None:
    """Spend less time on getting and giving back memory."""
    # what the cyclic garbage collector would look at is nodes, which are in no cycle
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    # glibc gives large buffers back at once, and each page of the next one costs a fault: more than the bytes of a
    # write of 1 MiB cost.  It keeps up to 8 MiB now.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_THRESHOLD, _KEPT_MEMORY // 2)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_MEMORY)


def _open(options: MountOptions, clock: Callable[[], int] | None) -> Overlay:
    """Open the overlay; a daemon that is just ending is given time to finish its last commit.

    Args:
        options: with true paths.
        clock: the kernel's clock, or None where only the extension could read it.
    """
    directory = memory_directory()
    if directory is None and not options.read_only:
        log.warning("no tmpfs for the redo log; every operation is committed by itself")
    deadline = time.monotonic() + _ENDING
    while True:
        try:
            return Overlay.open(
                options.base,
                options.storage,
                read_only=options.read_only,
                redo_directory=directory,
                redo_aside=options.redo_aside,
                base_check=BaseCheck(options.base_check),
                copy_whole=options.copy_whole,
                keep_origin=options.keep_origin,
                storage_io=partial(Storage, untrusted=options.untrusted),
                max_size=options.max_size,
                clock=clock,
            )
        except StorageBusy:
            overlays = [mount_table.overlay_of(entry) for entry in mount_table.minifo_mounts()]
            mounted = any(overlay is not None and overlay[1] == options.storage for overlay in overlays)
            if mounted or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _base_reader(overlay: Overlay, base: str) -> BaseReader:
    entry = mount_table.locate(base)[1]
    return BaseReader(overlay, remote=entry is not None and is_remote(entry.fstype))


def _mount(
    overlay: Overlay,
    committer: Committer,
    mount_helper: MountHelper,
    base_reader: BaseReader,
    extension: ModuleType | None,
    options: MountOptions,
    mountpoint: str,
) -> Callable[[], None]:
    """Mount.

    Args:
        extension: the session hook, or None in plain mode.

    Returns:
        What makes every change durable before it is acknowledged, from the call on.
    """
    import pyfuse3

    from .serve.fast_path import FastPath
    from .serve.handlers import Handlers
    from .serve.operations import FuseOperations

    reply_cache = ReplyCache(overlay, extension) if extension is not None else None
    ranges = RangeHandlers(overlay, committer, extension) if extension is not None else None
    synchronous = options.sync or (not overlay.durability.keeps_redo and not options.read_only)
    handlers = Handlers(overlay, base_reader, reply_cache, mount_helper.is_writing, options.access_times)
    operations = FuseOperations(overlay, handlers, committer, ranges, synchronous=synchronous)
    if extension is not None:
        FastPath(overlay, handlers, synchronous=synchronous).install(extension)
    lines: list[str] = []
    try:
        with captured_stderr() as lines:
            pyfuse3.init(operations, mountpoint, _fuse_options(options))
    except RuntimeError as error:
        said = "; ".join(lines) or str(error)
        raise StateError(f"{mountpoint} cannot be mounted ({said})", "see kernel messages: dmesg") from error

    def insist() -> None:
        operations.synchronous = True
        if extension is not None:
            FastPath(overlay, handlers, synchronous=True).install(extension)

    return insist


def _fuse_options(options: MountOptions) -> set[str]:
    words = {
        "default_permissions",
        "subtype=minifo",
        mount_table.fuse_option("fsname", format_source(options.base, options.storage)),
        *options.kernel,
    }
    if options.access_times is None:
        words.add("noatime")  # for the kernel it makes no difference: it is what users are told
    is_root = os.geteuid() == 0
    if options.allow_other or (options.allow_other is None and is_root):
        words.add("allow_other")
    return words | mount_flags.words(options)


async def _serve(
    overlay: Overlay,
    committer: Committer,
    mount_helper: MountHelper,
    mountpoint: str,
    max_names: int,
    insist: Callable[[], None],
    ready: Callable[[], None],
) -> None:
    import pyfuse3

    trio.to_thread.current_default_thread_limiter().total_tokens = descriptor_limits.thread_limit()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(committer.run)
        nursery.start_soon(_end_on_signal, committer, mount_helper, mountpoint, insist)
        nursery.start_soon(_look_after, mount_helper)
        nursery.start_soon(_say_ready, mount_helper, mountpoint, ready)
        nursery.start_soon(limit_inodes, overlay, mount_helper, max_names)
        await pyfuse3.main(min_tasks=2, max_tasks=_TASKS)
        nursery.cancel_scope.cancel()


async def _say_ready(mount_helper: MountHelper, mountpoint: str, ready: Callable[[], None]) -> None:
    await trio.to_thread.run_sync(mount_helper.probe)
    status = loader.verify()
    if not status.active:
        log.warning("%s runs in plain mode, slower and without default ACLs: %s", mountpoint, status.reason)
    elif status.reason:
        log.warning("%s runs with the session hook, but %s", mountpoint, status.reason)
    ready()


async def _look_after(mount_helper: MountHelper) -> None:
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        mount_helper.look_after()
        async for _ in signals:
            mount_helper.look_after()


async def _end_on_signal(
    committer: Committer, mount_helper: MountHelper, mountpoint: str, insist: Callable[[], None]
) -> None:
    import pyfuse3

    ending = signals.ending_signals()
    with trio.open_signal_receiver(*ending) as arriving:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
        async for number in arriving:
            log.info("%s: %s, unmounting", mountpoint, signal.Signals(number).name)
            try:
                await committer.flush()
            except StateError as error:
                log.error("%s", error)
            if number == signal.SIGTERM and await _carries_the_system(mount_helper):
                # at shutdown everybody is told to end, and needs files until then; SIGKILL is what comes next
                log.warning("%s is the root directory: its daemon stays, and commits each change at once", mountpoint)
                insist()
                continue
            try:
                await trio.to_thread.run_sync(lambda: mount_helper.detach(lazy=False))
            except StateError as error:
                # we were told to end, and files are open: their owners get ENOTCONN, what they wrote is committed
                log.warning("%s; ending all the same", error)
                await trio.to_thread.run_sync(lambda: mount_helper.detach(lazy=True))
                pyfuse3.terminate()
            return


async def _carries_the_system(mount_helper: MountHelper) -> bool:
    try:
        return await trio.to_thread.run_sync(mount_helper.is_root)
    except OSError as error:
        log.debug("process 1: %s", error)  # another user's
        return False
