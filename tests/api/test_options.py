"""Arguments of the wrong kind are refused by name, before any work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import vitrine
from vitrine.errors import DataError, UsageError, VitrineError
from vitrine.train.events import TrainResult


@pytest.mark.parametrize("data", [None, 5, ["a.jpg", "b.jpg"], nn.Linear(1, 1)], ids=["none", "int", "list", "module"])
@pytest.mark.parametrize("verb", ["train", "check"])
def test_data_of_a_training_are_a_reference(verb: str, data: Any) -> None:
    with pytest.raises(UsageError, match=r"^Data with labels or captions are a folder, a table or a reference"):
        getattr(vitrine, verb)(data)


def test_a_path_is_text_or_a_path() -> None:
    with pytest.raises(
        UsageError, match=r"A path is expected, as text or a pathlib\.Path; got an object of the type int"
    ):
        vitrine.positions("vitrine/scenes-tiny", 3)  # type: ignore[arg-type]


def test_a_training_is_given_as_its_folder(tmp_path: Path) -> None:
    result = TrainResult(tmp_path / "mine", 1, 1, metrics=None)  # type: ignore[arg-type]
    assert Path(result) == result.run
    for ask in (vitrine.load, vitrine.verify, lambda runs: vitrine.compare([runs, runs])):
        with pytest.raises(VitrineError, match=re.escape(str(result.run))):
            ask(result)


def test_data_that_are_not_there_are_told_before_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file or folder"):
        vitrine.train(
            tmp_path / "nowhere", tmp_path / "run", settings={"model": "timm/vit_tiny_patch16_224.no_such_tag"}
        )


def test_a_notebook_shows_the_sentence_and_the_persons_own_line() -> None:
    """No way through the package, which is no help to whoever misspelt a name."""
    with pytest.raises(DataError) as caught:
        vitrine.check("no/such/folder")
    first, line = caught.value._render_traceback_()
    assert first == f"DataError: {caught.value}"
    assert re.fullmatch(r'  line \d+: vitrine\.check\("no/such/folder"\)', line)
