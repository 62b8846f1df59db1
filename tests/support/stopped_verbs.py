"""Verbs that write, killed or held at any of the changes that they make: the harness of tests of kills and locks."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support import stop_at

OUT = "out"
"""The folder, in each call's own working folder, that everything is written into."""


@dataclass(frozen=True)
class VerbCase:
    """A command, and what is to be expected of the files that it writes into :data:`OUT`.

    Attributes:
        name: of the test.
        arguments: of the command line.
        again: what the second call has more: ``--resume`` where it is the verb's way.
        growing: files under whose final names there may be less than the result before the end.
        varying: files that differ from call to call, because they hold times.
        environment: more variables.
        attributes: attributes of modules that are set, by their path.
    """

    name: str
    arguments: tuple[str, ...]
    again: tuple[str, ...] = ()
    growing: tuple[str, ...] = ()
    varying: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class VerbRunner:
    """Starts a case's command in a folder.

    Attributes:
        python: a warm Python.
        case: what is started.
    """

    python: str
    case: VerbCase

    def start(
        self, folder: Path, *more: str, change: int = 0, how: str = "kill", arguments: Sequence[str] | None = None
    ) -> subprocess.Popen[str]:
        """The command in a working folder, which is made; it stops before the given change."""
        folder.mkdir(exist_ok=True)
        settings = {
            "watch": [str(folder / OUT)],
            "change": change,
            "how": how,
            "count": str(folder / "changes.txt"),
            "set": dict(self.case.attributes),
        }
        call = self.case.arguments if arguments is None else arguments
        return subprocess.Popen(
            [self.python, stop_at.__file__, json.dumps(settings), *call, *more],
            cwd=folder,
            env=os.environ | {"VITRINE_CACHE": f"{OUT}/cache"} | self.case.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, folder: Path, *more: str, change: int = 0, arguments: Sequence[str] | None = None) -> tuple[int, str]:
        """Exit status, -9 after a kill, and what was printed to the standard error."""
        process = self.start(folder, *more, change=change, arguments=arguments)
        _, error = process.communicate()
        return process.returncode, error

    @contextmanager
    def held(self, folder: Path, *more: str, change: int) -> Iterator[subprocess.Popen[str]]:
        """A process that waits before the given change; at the end it goes on, and has ended afterwards."""
        process = self.start(folder, *more, change=change, how="wait")
        assert process.stdout is not None
        try:
            while (line := process.stdout.readline()) != "stopped\n":
                assert line, process.communicate()[1]
            yield process
        finally:
            process.communicate("\n")

    def count_changes(self, folder: Path) -> int:
        """How many changes the last call in a folder made to :data:`OUT`."""
        return int((folder / "changes.txt").read_text())

    def files(self, folder: Path) -> dict[str, bytes]:
        """What was written, by path from :data:`OUT` on; folders too, but for files that hold times.

        The name of the working folder, which some files record, is taken out.
        """
        out, name = folder / OUT, str(folder).encode()
        return {
            path.relative_to(out).as_posix(): path.read_bytes().replace(name, b"") if path.is_file() else b""
            for path in sorted(out.rglob("*"))
            if not path.match("cache/uses/*.json") and path.name not in self.case.varying
        }


def moments(changes: int, count: int, name: str) -> list[int]:
    """``count`` different changes to be killed at, drawn with the case's name; the last one is always among them."""
    drawn = random.Random(name).sample(range(1, changes), min(count, changes) - 1)
    return sorted({*drawn, changes})
