"""Runs one mount from its start to its end: open the overlay, mount, serve, commit, unmount.

The overlay is opened before the mount, so the base may be the mount point, and closed after the kernel has closed the
connection.  A mount ends by umount(8), or by a signal (signals.py) after which this module commits and unmounts.  If
the daemon fails, the mount stays in place without a server on purpose: to unmount it would uncover the base, and
programs would write there.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

import trio

from ..engine import Overlay, StateError, StorageBusy
from ..engine.recovery import BaseCheck
from ..engine.store.layers import layers_of
from ..engine.store.memory_directory import memory_directory
from ..engine.store.storage import Storage
from .control.interface import Mounted, conversation, service
from .control.metrics import collect, served
from .control.server import ControlSocket
from .control.textfile import MetricsFile
from .extension import loader
from .mount import mount_flags, mount_table
from .mount.end_report import EndReport
from .mount.helper_process import HelperProcess
from .mount.options import MountOptions
from .mount.source import format_source
from .process import descriptor_limits, privileges, signals
from .process.command_names import CommandNames
from .process.service_manager import ServiceManager
from .process.stderr_capture import captured_stderr
from .process.system_log import set_relay
from .serve import shared_rules
from .serve.base_reader import BaseReader, is_remote
from .serve.committer import Committer
from .serve.digester import record_digests
from .serve.eager_trio import EagerTrio
from .serve.name_limit import default_limit, limit_inodes
from .serve.range_handlers import RangeHandlers
from .serve.reply_cache import ReplyCache

log = logging.getLogger(__name__)

_TASKS_MAX = 100_000  # requests that pyfuse3 serves at a time; many may wait for a commit while others must be served
_KEPT_MEMORY = 8 << 20  # bytes that malloc keeps for reuse
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LAST_COMMIT = 10.0  # seconds to wait for the last commit of a daemon whose mount was removed


def run(
    options: MountOptions,
    mountpoint: str,
    helper: HelperProcess,
    *,
    ready: Callable[[], None],
    manager: ServiceManager | None = None,
) -> None:
    """Mount an overlay and serve it until it is unmounted.

    Args:
        options: of the mount, with true paths.
        mountpoint: its true path.
        helper: makes calls on the mount; it is closed here.
        ready: called once, when the mount responds.
        manager: is told that the mount still responds, and that the daemon ends; None for nobody.

    Raises:
        StateError: the overlay cannot be opened or mounted, or its last commit failed.
    """
    set_relay(helper.relay)
    extension = loader.load()
    loader.activate(not options.plain)
    if extension is not None:
        shared_rules.pass_to(extension)
    import pyfuse3  # after the hook, so that the dynamic linker finds the hook's functions first

    pyfuse3.trio = EagerTrio(extension)  # type: ignore[attr-defined]

    descriptor_limits.raise_limit()
    overlay = _open(options, extension)
    if overlay.journal.limit:
        overlay.journal.command_of = CommandNames().of
    # a signal between the mount and the event loop, which handles it, would leave a dead mount
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.ending_signals())
    source = format_source(options.base, options.storage, options.at)
    report = EndReport(source)
    try:
        with _closing(overlay):
            committer = Committer(overlay, helper, mountpoint, options.commit)
            hook = None if options.plain else extension
            # before the mount, for afterwards these paths may lead through it
            textfile = MetricsFile(options.metrics, overlay.uuid) if options.metrics is not None else None
            writable = [options.storage, options.memory or memory_directory(), textfile.directory if textfile else None]
            ruleset = privileges.landlock_ruleset(path for path in writable if path is not None)
            control = ControlSocket(options.storage)
            base_reader = _base_reader(overlay, options.base)
            make_synchronous = _mount(overlay, committer, helper, base_reader, hook, options, mountpoint)
            _tune_memory()
            try:
                _count_mount(overlay, options)
                from .serve.live_checkpoints import LiveCheckpoints  # imports pyfuse3

                report.serving(helper.mounted())
                if not (options.read_only or options.untrusted):  # of such a storage nothing is changed
                    control.listen()
                privileges.drop_in_process()
                helper.keep_privileges()
                privileges.drop_in_server_thread(ruleset)
                limit = options.max_names or default_limit()
                live = LiveCheckpoints(overlay, committer, helper, hook)
                mounted = Mounted(overlay, committer, live, options.base, mountpoint)
                stays = options.root_storage
                trio.run(_serve, mounted, control, textfile, helper, limit, stays, make_synchronous, ready, manager)
            except BaseException:
                pyfuse3.close(unmount=False)
                raise
            finally:
                control.close()
                if textfile is not None:
                    textfile.close()
            report.ending()
            if manager is not None:
                manager.stopping(f"the last commit of {mountpoint}")
            helper.unmark(source)
            pyfuse3.close(unmount=True)
    except BaseException as error:
        report.failed(*_message_and_hint(error))
        raise
    finally:
        set_relay(None)
        helper.close()
    if options.throwaway:
        shutil.rmtree(options.storage, ignore_errors=True)  # what stays is in memory
    report.done()


@contextlib.contextmanager
def _closing(overlay: Overlay) -> Iterator[None]:
    """Close an overlay at the end of the block, also after an exception.

    Raises:
        StateError: some changes are not durable.
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
    """Return the error for changes that are not durable; *redo* is the path of the redo log that has them, if any."""
    if redo is None:
        return StateError(f"its last changes are lost: {why}", "repair the storage before you mount it again")
    return StateError(
        f"its last changes are not durable: {why}",
        f"they are in {redo}, in memory: repair the storage, and mount it again before this machine restarts",
    )


def _message_and_hint(error: BaseException) -> tuple[str, str]:
    """Return what failed and what to do, for the report that umount reads."""
    if isinstance(error, StateError):
        return error.message, error.hint
    return f"its daemon failed ({type(error).__name__}: {error})", "see the system log"


def _tune_memory() -> None:
    """Set up the garbage collector and malloc so that they take less time."""
    # the garbage collector would mostly examine nodes, which are in no cycle
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    # glibc returns large buffers to the kernel at once, and each page of the next buffer costs a page fault: for a
    # write of 1 MiB more than to copy its bytes.  With these limits it keeps up to 8 MiB.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_THRESHOLD, _KEPT_MEMORY // 2)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_MEMORY)


def _open(options: MountOptions, extension: ModuleType | None) -> Overlay:
    """Return the open overlay; if an ending daemon still holds the storage, wait for its last commit.

    Args:
        options: of the mount, with true paths.
        extension: reads the kernel's clock, and encodes operations for the redo log; the engine's own functions do that
            if it is None.

    Raises:
        StateError: the overlay cannot be opened, or another process holds the storage.
    """
    directory = options.memory or memory_directory()
    if directory is None and not options.read_only:
        log.warning(
            "%s: there is no tmpfs for the redo log, so every operation is committed by itself, which is slow",
            options.storage,
        )
    deadline = time.monotonic() + _LAST_COMMIT
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
                journal=options.journal,
                storage_io=partial(Storage, untrusted=options.untrusted),
                max_size=options.max_size,
                clock=extension.kernel_time if extension is not None else None,
                encode=extension.encode_operation if extension is not None else None,
                hidden=options.hidden,
                at=options.at,
            )
        except StorageBusy:
            sources = [mount_table.overlay_of(entry) for entry in mount_table.minifo_mounts()]
            live = [source.storage for source in sources if source is not None and source.at is None]
            mounted = options.storage in live
            if mounted or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _count_mount(overlay: Overlay, options: MountOptions) -> None:
    """Count a mount for a trial, or fall back, before anything is answered.

    If storage has no room even for that, the mount serves nevertheless: a device must come up.
    """
    if options.read_only:
        return
    try:
        overlay.trial.mounting(options.trial)
    except StateError as error:
        log.error("%s: the mount is not counted for its trial: %s", options.storage, error)


def _base_reader(overlay: Overlay, base: str) -> BaseReader:
    """Return a reader for files of the base, which knows whether that is on a remote file system."""
    entries = [mount_table.locate(layer)[1] for layer in layers_of(base)]
    remote = any(entry is not None and is_remote(entry.fstype) for entry in entries)
    return BaseReader(overlay, remote=remote)


def _mount(
    overlay: Overlay,
    committer: Committer,
    helper: HelperProcess,
    base_reader: BaseReader,
    extension: ModuleType | None,
    options: MountOptions,
    mountpoint: str,
) -> Callable[[], None]:
    """Mount the overlay; from then on requests can be received.

    Args:
        overlay: the open overlay.
        committer: makes changes durable.
        helper: tells whether a process is writing to a file.
        base_reader: reads files.
        extension: the session hook, or None in plain mode.
        options: of the mount, with true paths.
        mountpoint: its true path.

    Returns:
        A function that switches to the mode of the mount option ``sync``: every change is durable before it is
        acknowledged.

    Raises:
        StateError: libfuse cannot mount it.
    """
    import pyfuse3

    from .serve.fast_path import FastPath
    from .serve.handlers import Handlers
    from .serve.mapped_handlers import MappedHandlers, MappedReplyCache
    from .serve.operations import FuseOperations

    reply_cache = None
    if extension is not None:
        reply_cache = (
            ReplyCache(overlay, extension) if options.ids is None else MappedReplyCache(overlay, extension, options.ids)
        )
    ranges = RangeHandlers(overlay, committer, extension) if extension is not None else None
    synchronous = options.sync or (not overlay.durability.keeps_redo and not options.read_only)
    parts = (overlay, base_reader, reply_cache, helper.is_writing, options.access_times)
    handlers = Handlers(*parts) if options.ids is None else MappedHandlers(options.ids, *parts)
    operations = FuseOperations(overlay, handlers, committer, ranges, synchronous=synchronous)
    if extension is not None:
        FastPath(overlay, handlers, synchronous=synchronous).install(extension)
    lines: list[str] = []
    try:
        with captured_stderr() as lines:
            pyfuse3.init(operations, mountpoint, _fuse_options(options))
    except RuntimeError as error:
        said = "; ".join(lines) or str(error)
        raise StateError(f"{mountpoint} cannot be mounted ({said})", "the kernel's log may say why: dmesg") from error

    def make_synchronous() -> None:
        operations.synchronous = True
        if extension is not None:
            FastPath(overlay, handlers, synchronous=True).install(extension)

    return make_synchronous


def _fuse_options(options: MountOptions) -> set[str]:
    """Return the options for ``pyfuse3.init``."""
    words = {
        "default_permissions",
        "subtype=minifo",
        mount_table.fuse_option("fsname", format_source(options.base, options.storage, options.at)),
        *options.kernel,
    }
    if options.access_times is None:
        words.add("noatime")  # has no effect in the kernel; it shows users that access times are not set
    is_root = os.geteuid() == 0
    if options.allow_other or (options.allow_other is None and is_root):
        words.add("allow_other")
    return words | mount_flags.words(options)


async def _serve(
    mounted: Mounted,
    control: ControlSocket,
    textfile: MetricsFile | None,
    helper: HelperProcess,
    max_names: int,
    stays: bool,
    make_synchronous: Callable[[], None],
    ready: Callable[[], None],
    manager: ServiceManager | None,
) -> None:
    import pyfuse3

    trio.to_thread.current_default_thread_limiter().total_tokens = descriptor_limits.thread_limit()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mounted.committer.run)
        nursery.start_soon(_unmount_on_signal, mounted, helper, stays, make_synchronous)
        nursery.start_soon(_watch_helper, helper)
        nursery.start_soon(_report_ready, helper, mounted.mountpoint, ready)
        if manager is not None and manager.watchdog is not None:
            nursery.start_soon(_feed_watchdog, manager, manager.watchdog, helper)
        nursery.start_soon(limit_inodes, mounted.overlay, helper, max_names)
        nursery.start_soon(control.serve, partial(conversation, service(mounted), mounted))
        nursery.start_soon(record_digests, mounted.overlay, served, mounted.checkpoints.changed)
        if textfile is not None:
            nursery.start_soon(textfile.keep, mounted.mountpoint, partial(collect, mounted.overlay, mounted.committer))
        await pyfuse3.main(min_tasks=2, max_tasks=_TASKS_MAX)
        nursery.cancel_scope.cancel()


async def _report_ready(helper: HelperProcess, mountpoint: str, ready: Callable[[], None]) -> None:
    """Call *ready* when the mount responds; log what the session hook lacks."""
    await trio.to_thread.run_sync(helper.probe)
    status = loader.verify()
    if not status.active:
        log.warning("%s runs in plain mode, so slower and without default ACLs: %s", mountpoint, status.reason)
    elif status.reason:
        log.warning("%s runs with the session hook, but %s", mountpoint, status.reason)
    ready()


async def _feed_watchdog(manager: ServiceManager, seconds: float, helper: HelperProcess) -> None:
    """Tell the service manager again and again that the mount answers, until cancelled or until it does not answer.

    Args:
        manager: is told.
        seconds: the longest time that it waits.
        helper: asks the mount: this process is well only if a request goes through the kernel and back.
    """
    while True:
        await trio.to_thread.run_sync(helper.await_answer, abandon_on_cancel=True)
        manager.alive()
        await trio.sleep(seconds / 3)


async def _watch_helper(helper: HelperProcess) -> None:
    """Replace the helper process when it has ended or was stopped, until cancelled."""
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        helper.check_child()
        async for _ in signals:
            helper.check_child()


async def _unmount_on_signal(
    mounted: Mounted, helper: HelperProcess, stays: bool, make_synchronous: Callable[[], None]
) -> None:
    """Wait for a signal that ends the mount; commit and unmount.

    SIGTERM does not end a mount that the system runs on: from then on each change is durable at once.

    Args:
        mounted: the mount.
        helper: unmounts.
        stays: the system runs on the mount (``root_storage``); else it does if it is the root directory.
        make_synchronous: switches to the mode of the mount option ``sync``.
    """
    import pyfuse3

    mountpoint = mounted.mountpoint
    ending = signals.ending_signals()
    with trio.open_signal_receiver(*ending) as arriving:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
        async for number in arriving:
            log.info("%s is unmounted after %s", mountpoint, signal.Signals(number).name)
            try:
                await mounted.committer.commit_all()
            except StateError as error:
                log.error("%s", error)
            if number == signal.SIGTERM and (stays or await _is_system_root(helper)):
                # at shutdown every process gets SIGTERM, and needs files until it has ended; SIGKILL comes next
                log.warning(
                    "the system runs on %s: its daemon goes on after SIGTERM, and commits each change at once",
                    mountpoint,
                )
                make_synchronous()
                continue
            try:
                await trio.to_thread.run_sync(lambda: helper.detach(lazy=False))
            except StateError as error:
                # files are open: programs get ENOTCONN for them, and what they wrote before is committed
                log.warning("%s; the daemon ends after the signal, and open files fail with ENOTCONN", error)
                await trio.to_thread.run_sync(lambda: helper.detach(lazy=True))
                pyfuse3.terminate()
            return


async def _is_system_root(helper: HelperProcess) -> bool:
    """Return whether the mount is the root directory of process 1; False if this user may not know."""
    try:
        return await trio.to_thread.run_sync(helper.is_root)
    except OSError as error:
        log.debug("the root directory of process 1 is unknown: %s", error)
        return False
