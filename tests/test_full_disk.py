"""A disk that is full or read-only: one sentence with the person's own name, nothing half, and it goes on with room."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError

from vitrine.io.files import atomic_path, write_atomically, writing

Command = Callable[..., tuple[int, str, str]]


class SmallDisk:
    """A file system in memory, of the size that is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, size: str) -> None:
        self.path.mkdir()
        self._run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.path))

    def remount(self, options: str) -> None:
        self._run("mount", "-o", f"remount,{options}", str(self.path))

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], capture_output=True)

    def hidden_files(self) -> list[str]:
        """Of a temporary name; the list of a folder's figures has a hidden name for good."""
        return [str(path) for path in self.path.rglob(".*") if path.name != ".vitrine-figures.json"]

    def _run(self, *command: str) -> None:
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small tmpfs cannot be mounted here, so no disk can be filled")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    disk = SmallDisk(tmp_path / "disk")
    yield disk
    disk.unmount()


TRAIN = "train {data} --recipe scratch-tiny -o {out}/run --set epochs=1 --set workers=0 --set image_size=32"
TRAIN += " --set model_args.depth=1 --set model_args.embed_dim=48"


@pytest.mark.parametrize(
    ("size", "command", "again"),
    [
        ("4k", TRAIN, ""),
        ("60k", TRAIN, "--resume"),
        ("160k", TRAIN, "--resume"),
        ("4k", "predict {run} {data} -o {out}/p.csv", "--resume"),
        ("8k", "predict {run} {data} -o {out}/p.csv", "--resume"),
        ("4k", "explain {run} {data} -o {out}/maps --limit 2", ""),
        ("40k", "explain {run} {data} -o {out}/maps --limit 2", ""),
        ("8k", "evaluate {run} {data} -o {out}/test", ""),
        ("40k", "evaluate {run} {data} -o {out}/test", ""),
        ("60k", "export {run} --to hf -o {out}/x", ""),
        ("60k", "export {run} --to timm -o {out}/x", ""),
        ("60k", "export {run} --to pt2 -o {out}/x", ""),
        ("40k", "shards {data} -o {out}/shards", ""),
        ("4k", "positions {run} -o {out}/p.png", ""),
    ],
)
def test_a_full_disk_is_one_sentence_and_room_lets_it_go_on(
    size: str,
    command: str,
    again: str,
    disk: SmallDisk,
    vitrine_command: Command,
    small_scenes: Path,
    small_run: Path,
) -> None:
    disk.mount(size)
    words = [word.format(data=small_scenes, run=small_run, out=disk.path) for word in command.split()]
    status, _, error = vitrine_command(*words)
    last = error.strip().splitlines()[-1]
    assert status == 2, error
    assert re.fullmatch(rf"vitrine: No space left on device: {disk.path}/\S+", last), error
    assert not re.search(r"\.part\b|/\.(?!vitrine-figures\.json$)", last), "a temporary name"
    assert "Traceback" not in error and not disk.hidden_files()
    disk.remount("size=64m")
    repeat = words if again != "--resume" else [*words, "--resume"]
    status, _, error = vitrine_command(*repeat)
    assert status == 0, error
    assert not disk.hidden_files()


@pytest.mark.parametrize("verb", ["predict {run} {data} -o {out}/p.csv", "export {run} --to timm -o {out}/x"])
def test_a_read_only_folder_is_said_before_the_work(
    verb: str, disk: SmallDisk, vitrine_command: Command, small_scenes: Path, small_run: Path
) -> None:
    disk.mount("1m")
    disk.remount("ro")
    status, _, error = vitrine_command(
        *(word.format(data=small_scenes, run=small_run, out=disk.path) for word in verb.split())
    )
    assert status == 2 and "Read-only file system" in error and str(disk.path) in error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left"),
        (RuntimeError("[enforce fail at inline_container.cc:668] . Disk quota exceeded"), "Disk quota exceeded"),
        (RuntimeError("PytorchStreamWriter failed: Read-only file system"), "Read-only"),
        (OSError(28, "No space left on device"), "No space left"),
        (OSError(5, "Input/output error", "THE TEMPORARY ONE"), "Input/output error"),
    ],
)
def test_whatever_a_library_raises_names_the_file_as_the_person_does(
    error: Exception, said: str, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match=said) as caught, atomic_path(tmp_path / "x.bin") as file:
        file.write_bytes(b"half")
        if isinstance(error, OSError) and error.filename:
            error.filename = str(file)
        raise error
    assert caught.value.filename == str(tmp_path / "x.bin")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_something_else_stay_what_they_are(tmp_path: Path) -> None:
    for error in (ValueError("a fault"), FileNotFoundError(2, "No such file", "/another/file"), KeyError("os error")):
        with pytest.raises(type(error)) as caught, writing(tmp_path / "x"):
            raise error
        assert caught.value is error
    with pytest.raises(FileNotFoundError) as gone:
        write_atomically(tmp_path / "gone" / "x", b"")
    assert gone.value.filename == str(tmp_path / "gone" / "x")
