"""One process at a time writes an output: the lock of a file or folder, with a note of who has it.

The operating system's own lock (flock) decides where the file system has one: it ends with its process, however that
ends, so a crash never leaves an output locked. Where the file system refuses it (some network file systems), the lock
file itself is the lock: its process is looked for on its own machine; of another machine's process the lock file has to
be touched every few seconds to count.
"""

from __future__ import annotations

import errno
import functools
import inspect
import json
import os
import re
import socket
import stat
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from vitrine.errors import OutputInUseError, RunError
from vitrine.io.file_names import fit_name, temporary_path
from vitrine.io.files import remove_unfinished
from vitrine.io.process_identity import ProcessIdentity

try:
    import fcntl
except ImportError:  # Windows: its lock files are the locks
    fcntl = None  # type: ignore[assignment]

HEARTBEAT_SECONDS = 10.0
"""How often a lock file that is itself the lock is touched."""

SILENCE_SECONDS = 60.0
"""After how long without a touch such a lock file of another machine's process counts for nothing."""

_NO_KERNEL_LOCK = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
_MAX_NOTE_BYTES = 1024
_ATTEMPTS = 20

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Holder:
    """Who writes an output, as the note in its lock file says.

    Attributes:
        verb: of the command.
        pid: the process.
        host: its machine's name.
        since: when it began, as a local time with its offset from UTC, in ISO 8601.
        process: its tag, see :class:`~vitrine.io.process_identity.ProcessIdentity`.
        token: of this one lock.
    """

    verb: str
    pid: int
    host: str
    since: str
    process: str
    token: str

    @classmethod
    def new(cls, verb: str) -> Holder:
        """This process, from now on."""
        process, since = ProcessIdentity.current(), datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(verb, process.pid, socket.gethostname(), since, process.tag, uuid.uuid4().hex)

    @classmethod
    def from_note(cls, note: bytes) -> Holder | None:
        """Read a note back; None where it is torn, or something else: anybody may have written the file."""
        try:
            holder = cls(**json.loads(note))
            datetime.fromisoformat(holder.since)
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (holder.verb, holder.host, holder.process, holder.token)
        is_ours = all(isinstance(text, str) and re.fullmatch(r"[\w.-]{1,64}", text, re.ASCII) for text in texts)
        return holder if is_ours and type(holder.pid) is int else None

    def to_note(self) -> bytes:
        """The content of the lock file."""
        return json.dumps(asdict(self)).encode() + b"\n"

    def is_running(self) -> bool | None:
        """Whether its process is still running; None where that cannot be known here."""
        process = ProcessIdentity.from_tag(self.process)
        return None if process is None else process.is_running()

    def __str__(self) -> str:
        since = datetime.fromisoformat(self.since).astimezone()
        is_today = since.date() == datetime.now().astimezone().date()
        time = since.strftime("%H:%M" if is_today else "%Y-%m-%d %H:%M")
        return f"another vitrine {self.verb} (process {self.pid} on {self.host}, since {time})"


@contextmanager
def lock_file(out: Path, verb: str) -> Iterator[None]:
    """Be the only process that writes a file, or a folder that is put in its place whole; see :func:`lock_folder`.

    The lock is ``.NAME.lock`` beside it, so that files of one folder do not disturb one another.
    """
    path = out.absolute() if out.name not in ("", "..") else out.resolve()
    if not path.name:
        raise RunError(f"{out} is a folder that cannot be replaced. Choose another -o.")
    with _create_folder(out.parent), _hold(path.with_name(fit_name(f".{path.name}", ".lock")), out, verb):
        remove_unfinished(out.parent)
        yield


@contextmanager
def lock_folder(out: Path, verb: str, subfolders: Sequence[str] = ()) -> Iterator[None]:
    """Be the only process that writes into a folder, which is made where it is missing.

    The lock is ``.lock`` in it, which is gone at the end; so are folders that were made for it where they are empty.
    What killed processes left half written directly in the folder is deleted. Workers of this process need no lock.

    Args:
        out: the folder.
        verb: of the command, for the message that another process gets.
        subfolders: others in which half written files are deleted.

    Raises:
        OutputInUseError: another process has it; nothing was written.
        RunError: there is a file in its place, or no lock file can be written.
    """
    if out.is_file():
        raise RunError(f"{out} is a file, and a folder is to be written there. Choose another -o.")
    with _create_folder(out), _hold(out / ".lock", out, verb):
        remove_unfinished(out, *(out / name for name in subfolders))
        yield


def writes_folder(verb: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that it has the :func:`lock_folder` of its argument ``out``, unless that is None."""
    return _with_lock(lambda out: lock_folder(out, verb))


def writes_file(verb: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that it has the :func:`lock_file` of its argument ``out``."""
    return _with_lock(lambda out: lock_file(out, verb))


def _with_lock(lock: Callable[[Path], Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def write(*args: P.args, **kwargs: P.kwargs) -> R:
            out = signature.bind(*args, **kwargs).arguments.get("out")
            if out is None:
                return function(*args, **kwargs)
            with lock(out):
                return function(*args, **kwargs)

        return write

    return decorate


@contextmanager
def _create_folder(folder: Path) -> Iterator[None]:
    """Create a folder and its parents; those that did not exist are deleted again where they are empty at the end."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        _make_directory(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}. Choose another -o.") from error
    try:
        yield
    finally:
        with suppress(OSError):  # it is not empty
            for each in missing:
                each.rmdir()


def _make_directory(folder: Path) -> None:
    """Make a folder that another process may make and remove at the same time, as it does when its work ends."""
    for _ in range(_ATTEMPTS):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return
        except FileExistsError:
            if folder.is_file():
                raise
        except FileNotFoundError:  # a parent was removed meanwhile
            continue
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _hold(path: Path, out: Path, verb: str) -> Iterator[None]:
    holder, pid = Holder.new(verb), os.getpid()
    try:
        lock = _take(path, out, holder)
    except OSError as error:
        raise RunError(f"Nothing can be written to {out}: {error.strerror}.") from error
    try:
        yield
    finally:
        if os.getpid() == pid:  # a forked process that comes by here has no lock
            lock.release()


def _take(path: Path, out: Path, holder: Holder) -> _KernelLock | _LockFile:
    if fcntl is not None:
        try:
            return _KernelLock(path, out, holder)
        except _KernelLockUnsupportedError:
            pass
    return _LockFile(path.with_name(fit_name(path.name, "file")), out, holder)


class _KernelLockUnsupportedError(Exception):
    """The file system has no locks of the kernel."""


_descriptors: set[int] = set()  # of this process's kernel locks


def _close_in_child() -> None:
    """A forked process would keep the lock of a parent that was killed."""
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class _KernelLock:
    """A lock of the kernel on a file, which holds the note; taken when this is made."""

    def __init__(self, path: Path, out: Path, holder: Holder) -> None:
        self._path = path
        for _ in range(_ATTEMPTS):
            self._descriptor = _open_lock(path)
            try:
                if self._lock(out):
                    break
            except BaseException:
                os.close(self._descriptor)
                raise
            os.close(self._descriptor)
        else:
            raise OutputInUseError(_in_use(out, None))
        _descriptors.add(self._descriptor)
        with suppress(OSError):  # the disk is full, or the file another person's: the lock holds without a note
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, holder.to_note(), 0)

    def _lock(self, out: Path) -> bool:
        """False where the process that had the lock has removed the file meanwhile, so that another one is the lock."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputInUseError(_in_use(out, _read_note(self._descriptor))) from error
        except OSError as error:
            if error.errno not in _NO_KERNEL_LOCK:
                raise
            if not os.fstat(self._descriptor).st_size:
                self._path.unlink(missing_ok=True)
            raise _KernelLockUnsupportedError from error
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the file, then let go: never the other way round, or it could be another process's by then."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        _descriptors.discard(self._descriptor)
        os.close(self._descriptor)


def _open_lock(path: Path) -> int:
    """A lock file, made where there is none; one that a killed process of another person left may only be read."""
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a lock is a file of its own, whatever somebody put there
    for _ in range(_ATTEMPTS):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
        except PermissionError:
            if not path.exists():  # it is the folder that may not be written to
                raise
            descriptor = os.open(path, os.O_RDONLY | flags)
        except FileNotFoundError:  # another process has removed its folder, which was empty
            path.parent.mkdir(parents=True, exist_ok=True)
            continue
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        break
    raise RunError(f"{path} is no file that can be locked. Delete it, or choose another -o.")


class _LockFile:
    """A file that is itself the lock, where the kernel has none; taken when this is made, touched until released."""

    def __init__(self, path: Path, out: Path, holder: Holder) -> None:
        self._path, self._holder, self._is_released = path, holder, threading.Event()
        for _ in range(_ATTEMPTS):
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                self._remove_stale(out)
                continue
            except FileNotFoundError:  # another process has removed its folder, which was empty
                path.parent.mkdir(parents=True, exist_ok=True)
                continue
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(holder.to_note())
            break
        else:
            raise OutputInUseError(_in_use(out, None))
        threading.Thread(target=self._touch, daemon=True).start()

    def _touch(self) -> None:
        while not self._is_released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # the network is away; it may come back
                os.utime(self._path)

    def _remove_stale(self, out: Path) -> None:
        """Remove the file where its process has ended.

        Raises:
            OutputInUseError: its process is running, or may be.
        """
        holder = self._read()
        is_running = None if holder is None else holder.is_running()
        try:
            if is_running or (is_running is None and _silence(self._path) < SILENCE_SECONDS):
                raise OutputInUseError(_in_use(out, holder))
            # Two processes may see at once that it is stale: what is taken away must be what was read.
            aside = temporary_path(self._path)
            self._path.rename(aside)
        except FileNotFoundError:  # its process, or a third one, has just removed it
            return
        if Holder.from_note(aside.read_bytes()[:_MAX_NOTE_BYTES]) != holder:
            with suppress(OSError):
                os.link(aside, self._path)
        aside.unlink()

    def _read(self) -> Holder | None:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        except OSError:
            return None
        try:
            return Holder.from_note(os.read(descriptor, _MAX_NOTE_BYTES))
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def release(self) -> None:
        """Remove the file, unless another process thought this one dead and has it now."""
        self._is_released.set()
        if self._read() == self._holder:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def _silence(path: Path) -> float:
    """Seconds since a file was touched, by the clock of its file system."""
    with tempfile.TemporaryFile(dir=path.parent) as now:
        return os.fstat(now.fileno()).st_mtime - path.stat().st_mtime


def _in_use(out: Path, holder: Holder | None) -> str:
    who = str(holder) if holder else "another process"
    return f"{who[0].upper()}{who[1:]} is writing {out}: wait for it, or choose another -o."


def _read_note(descriptor: int) -> Holder | None:
    return Holder.from_note(os.pread(descriptor, _MAX_NOTE_BYTES, 0))
