"""The lock of an output, by the kernel and by a file alone: who is refused, what a crash leaves, what notes may say."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from vitrine.errors import OutputInUseError, RunError
from vitrine.io import output_lock
from vitrine.io.output_lock import SILENCE_SECONDS, Holder, lock_file, lock_folder, writes_folder
from vitrine.io.process_identity import ProcessIdentity

REFUSED = errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS


def refuse(number: int) -> Callable[..., None]:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.fixture(params=["kernel", "file"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file system with locks of the kernel, and one without."""
    if request.param == "file":
        monkeypatch.setattr(output_lock.fcntl, "flock", refuse(errno.ENOLCK))
    return str(request.param)


@contextmanager
def child(work: Callable[[], object]) -> Iterator[Any]:
    """A forked process that works, says so, and waits until it is killed: at the end, or before by ``kill()``."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        with suppress(BaseException):
            work()
        os._exit(0)
    os.close(write)

    class Process:
        number = pid
        is_killed = False

        def kill(self) -> None:
            if not self.is_killed:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                self.is_killed = True

    process = Process()
    try:
        yield process
    finally:
        process.kill()
        os.close(read)


@contextmanager
def holder_of(folder: Path) -> Iterator[Any]:
    """Another process that has the lock of a folder."""
    ready, hold = os.pipe()

    def work() -> None:
        with lock_folder(folder, "predict"):
            os.write(hold, b"1")
            signal.pause()

    with child(work) as process:
        os.read(ready, 1)
        yield process
    os.close(ready)
    os.close(hold)


def test_another_process_is_refused_with_one_sentence_and_a_crash_leaves_nothing_in_use(
    kind: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with holder_of(out) as process:
        for _ in range(2):
            with pytest.raises(OutputInUseError) as refusal, lock_folder(out, "explain"):
                pass
            since = time.strftime("%H:%M")
            who = f"Another vitrine predict (process {process.number} on {socket.gethostname()}, since "
            assert str(refusal.value).startswith(who) and since[:2] in str(refusal.value)
            assert str(refusal.value).endswith(f") is writing {out}: wait for it, or choose another -o.")
            assert refusal.value.exit_code == 2
        (out / "result").touch()
        process.kill()
        assert [path.name for path in out.iterdir() if "lock" in path.name], "the crash left its lock file"
        with lock_folder(out, "explain"):
            assert len(list(out.iterdir())) == (2 if kind == "kernel" else 3) - (kind == "file")
    assert [path.name for path in out.iterdir()] == ["result"]


def test_what_was_created_for_a_lock_is_gone_where_it_is_empty(kind: str, tmp_path: Path) -> None:
    for lock, out in ((lock_folder, tmp_path / "a" / "b"), (lock_file, tmp_path / "a" / "b" / "c.csv")):
        with lock(out, "predict"):
            assert out.parent.is_dir()
        assert not list(tmp_path.iterdir())
        with pytest.raises(ZeroDivisionError), lock(out, "predict"):
            out.write_bytes(b"") if lock is lock_file else (out / "file").touch()
            raise ZeroDivisionError
        assert sum(path.is_file() for path in tmp_path.rglob("*")) == 1
        for path in sorted(tmp_path.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()


def test_files_of_one_folder_are_locked_one_by_one(kind: str, tmp_path: Path) -> None:
    with lock_file(tmp_path / "a.csv", "predict"), lock_file(tmp_path / "b.csv", "predict"), lock_folder(tmp_path, "x"):
        for out in ("a.csv", "b.csv"):
            with pytest.raises(OutputInUseError), lock_file(tmp_path / "." / out, "predict"):
                pass


def test_threads_of_one_process_are_refused_too(kind: str, tmp_path: Path) -> None:
    refusals = []

    def work() -> None:
        with pytest.raises(OutputInUseError) as refusal, lock_folder(tmp_path, "train"):
            pass
        refusals.append(str(refusal.value))

    with lock_folder(tmp_path, "train"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} " in refusals[0]


def test_a_forked_worker_does_not_keep_the_lock_of_its_killed_parent(kind: str, tmp_path: Path) -> None:
    ready, hold = os.pipe()
    out = tmp_path / "out"

    def work() -> None:
        with lock_folder(out, "train"):
            worker = os.fork()
            if not worker:
                signal.pause()
            os.write(hold, worker.to_bytes(4, "big"))
            signal.pause()

    with child(work) as parent:
        worker = int.from_bytes(os.read(ready, 4), "big")
        parent.kill()
        os.kill(worker, 0)
        with lock_folder(out, "train"):
            pass
        os.kill(worker, signal.SIGKILL)


def test_a_forked_child_that_leaves_the_block_leaves_the_lock(kind: str, tmp_path: Path) -> None:
    pid = None
    with suppress(SystemExit), lock_folder(tmp_path, "train"):
        pid = os.fork()
        if not pid:
            raise SystemExit
        os.waitpid(pid, 0)
        with pytest.raises(OutputInUseError), lock_folder(tmp_path, "train"):
            pass
    if not pid:
        os._exit(0)
    assert not list(tmp_path.iterdir())


def test_only_one_of_many_has_it_at_any_time(kind: str, tmp_path: Path) -> None:
    """Files are removed, made again and taken over all the time: whoever is inside must be alone, or a file exists."""
    out, alone = tmp_path / "out", tmp_path / "alone"

    def work() -> None:
        status = 1
        try:
            entries = 0
            while entries < 25:
                with suppress(OutputInUseError), lock_folder(out, "train"):
                    os.close(os.open(alone, os.O_CREAT | os.O_EXCL))
                    entries += 1
                    alone.unlink()
            status = 0
        finally:
            os._exit(status)

    children = []
    for _ in range(4):
        pid = os.fork()
        if not pid:
            work()
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 4
    assert [path for path in tmp_path.rglob("*") if path != out] == []


@pytest.mark.parametrize("number", REFUSED)
def test_a_file_system_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_lock.fcntl, "flock", refuse(number))
    with lock_folder(tmp_path, "train"):
        assert [path.name for path in tmp_path.iterdir()] == [".lockfile"], "the kernel's file is not left"
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(output_lock.fcntl, "flock", refuse(errno.EIO))
    with pytest.raises(RunError, match=f"Nothing can be written to {tmp_path}: Input/output error"):
        lock_folder(tmp_path, "train").__enter__()


def test_without_the_module_of_the_kernel_s_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_lock, "fcntl", None)
    with lock_folder(tmp_path, "train"), pytest.raises(OutputInUseError), lock_folder(tmp_path, "train"):
        pass


def note(**changes: Any) -> bytes:
    process = ProcessIdentity("0" * 6, 4711, 1234)
    holder = Holder("predict", 4711, "far", "2024-05-06T07:08:09+00:00", process.tag, "token")
    return json.dumps(vars(holder) | changes).encode()


@pytest.mark.parametrize(
    ("content", "age", "is_free"),
    [
        (note(), 0, False),
        (note(), SILENCE_SECONDS - 5, False),
        (note(), SILENCE_SECONDS + 5, True),
        (b"", 0, False),  # its process has just made it
        (b"", SILENCE_SECONDS + 5, True),
        (b"{torn", SILENCE_SECONDS + 5, True),
        (note(process=ProcessIdentity.current().tag), 10 * SILENCE_SECONDS, False),  # alive here, and only suspended
        (note(process=f"{ProcessIdentity.current().machine}-{os.getpid()}-1"), 0, True),  # the number was given again
        (note(process=f"{ProcessIdentity.current().machine}-{2**31 - 1}-1"), 0, True),
    ],
)
def test_whose_lock_file_counts(
    content: bytes, age: float, is_free: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this machine: whether the very process runs. Of another one: whether the file was touched lately."""
    monkeypatch.setattr(output_lock.fcntl, "flock", refuse(errno.ENOLCK))
    file = tmp_path / ".lockfile"
    file.write_bytes(content)
    os.utime(file, (time.time() - age,) * 2)
    if is_free:
        with lock_folder(tmp_path, "train"):
            assert Holder.from_note(file.read_bytes()) is not None
        assert not list(tmp_path.iterdir())
    else:
        with pytest.raises(OutputInUseError), lock_folder(tmp_path, "train"):
            pass
        assert file.read_bytes() == content and len(list(tmp_path.iterdir())) == 1


def test_a_lock_file_is_touched_while_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_lock.fcntl, "flock", refuse(errno.ENOLCK))
    monkeypatch.setattr(output_lock, "HEARTBEAT_SECONDS", 0.01)
    with lock_folder(tmp_path, "train"):
        file = tmp_path / ".lockfile"
        os.utime(file, (0, 0))
        while not file.stat().st_mtime:
            time.sleep(0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"verb": "\x1b[31mred"},
        {"verb": ""},
        {"host": "a\nvitrine: all is well"},
        {"host": "h" * 65},
        {"pid": "1"},
        {"pid": True},
        {"since": "yesterday"},
        {"since": 3},
        {"more": 1},
        {"process": None},
    ],
)
def test_a_note_that_vitrine_cannot_have_written_is_not_quoted(changes: dict[str, Any]) -> None:
    assert Holder.from_note(note()) is not None
    assert Holder.from_note(note(**changes)) is None


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"\xff", b"null", b"{}"])
def test_a_note_of_another_shape(content: bytes) -> None:
    assert Holder.from_note(content) is None


def test_the_sentence_has_the_day_where_it_is_another() -> None:
    holder = Holder.from_note(note())
    assert str(holder) == "another vitrine predict (process 4711 on far, since 2024-05-06 07:08)" or time.timezone


@pytest.mark.parametrize("put", ["link", "fifo", "folder", "socket"])
def test_something_else_under_the_name_of_the_lock(put: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run folders are passed between people: the lock neither follows a link nor waits for a pipe."""
    out, path, precious = tmp_path / "out", tmp_path / "out" / ".lock", tmp_path / "precious"
    out.mkdir()
    precious.write_text("precious")
    with socket.socket(socket.AF_UNIX) as listener:
        match put:
            case "link":
                path.symlink_to(precious)
            case "fifo":
                os.mkfifo(path)
            case "folder":
                path.mkdir()
            case _:
                monkeypatch.chdir(out)  # a socket's path has 107 bytes at most
                listener.bind(".lock")
        with pytest.raises(RunError) as refusal, lock_folder(out, "train"):
            pass
    assert len(str(refusal.value).splitlines()) == 1 and str(out) in str(refusal.value)
    assert precious.read_text() == "precious"


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is a file, and a folder is to be written there"):
        lock_folder(tmp_path / "file", "train").__enter__()
    with pytest.raises(RunError, match=r"file/run cannot be made: Not a directory\. Choose another -o\."):
        lock_folder(tmp_path / "file" / "run", "train").__enter__()
    with pytest.raises(RunError, match="/ is a folder that cannot be replaced"):
        lock_file(Path("/"), "export").__enter__()
    monkeypatch.setattr(os, "open", refuse(errno.ENOSPC))
    with pytest.raises(RunError, match=f"Nothing can be written to {tmp_path}: No space left on device"):
        lock_folder(tmp_path, "train").__enter__()


def test_what_another_person_owns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock file that a crash left may be read alone, and is locked; a folder that may not be written to is named."""
    real_open = os.open

    def read_only(path: Any, flags: int, *more: Any, **others: Any) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real_open(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(RunError, match=f"Nothing can be written to {tmp_path}: Permission denied"):
        lock_folder(tmp_path, "train").__enter__()
    (tmp_path / ".lock").write_bytes(note())
    with lock_folder(tmp_path, "train"), pytest.raises(OutputInUseError):
        lock_folder(tmp_path, "train").__enter__()
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_for_the_note_is_locked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", refuse(errno.ENOSPC))
    with lock_folder(tmp_path, "train"), pytest.raises(OutputInUseError, match=r"^Another process is writing"):
        lock_folder(tmp_path, "train").__enter__()


def test_a_decorated_function_keeps_its_face_and_locks_what_it_is_given(tmp_path: Path) -> None:
    @writes_folder("evaluate")
    def measure(model: str, *, out: Path | None = None) -> int:
        """Measure."""
        return 0 if out is None else len(list(out.iterdir()))

    assert (measure.__doc__, measure.__name__) == ("Measure.", "measure")
    assert (measure("m"), measure("m", out=None), measure("m", out=tmp_path)) == (0, 0, 1)
    with lock_folder(tmp_path, "evaluate"), pytest.raises(OutputInUseError):
        measure("m", out=tmp_path)


def test_a_zombie_does_not_run(tmp_path: Path) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, ProcessIdentity.current().tag.encode())
        os._exit(0)
    process = ProcessIdentity.from_tag(os.read(read, 100).decode())
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert process is not None and process.pid == pid and process.is_running() is False
    os.waitpid(pid, 0)
    assert process.is_running() is False
    assert ProcessIdentity.current().is_running() is True
    assert ProcessIdentity("0" * 6, os.getpid(), 1).is_running() is None
    assert ProcessIdentity.from_tag("x-1-1") is None
