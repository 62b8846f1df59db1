"""A sweep whose trainings run in the tests' own process, for tests that are not about its processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from vitrine.config.sweep import SweepRun
from vitrine.errors import VitrineError
from vitrine.sweep.worker import Failure
from vitrine.train.events import Event
from vitrine.train.run import train


class TrainingHere:
    """Stands in for ``vitrine.sweep.worker.RunProcess``: the same events and failures, without a start of Python."""

    def __init__(
        self, run: SweepRun, data: str, folder: Path, environment: Mapping[str, str], output: Path | None = None
    ) -> None:
        self._run, self._data, self._folder = run, data, folder
        self.failure: Failure | None = None

    def events(self) -> Iterator[Event]:
        events: list[Event] = []
        try:
            train(self._data, self._run.recipe, self._folder, resume=True, report=events.append)
        except VitrineError as error:
            self.failure = Failure(str(error), type(error).__name__)
        yield from events

    def stop(self) -> None:
        """It cannot be stopped: it has ended when its first event comes."""
