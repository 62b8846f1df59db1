"""One way to open any model reference: which kind it names, and what both kinds have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_captioners import save_tiny

from vitrine.caption.model import Captioner
from vitrine.classify.model import Classifier, open_classifier
from vitrine.errors import ModelError
from vitrine.models.kind import captioner_kind
from vitrine.open_model import open_model


@pytest.fixture(scope="module")
def captioner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GIT captioner as transformers saves it."""
    folder = tmp_path_factory.mktemp("git")
    save_tiny("git", folder)
    return folder


def test_one_call_opens_either_kind(small_run: Path, captioner_folder: Path) -> None:
    classifier, captioner = open_model(str(small_run), "fp32"), open_model(str(captioner_folder))
    assert isinstance(classifier, Classifier) and isinstance(captioner, Captioner)
    assert classifier.folder == small_run and classifier.labels == open_classifier(str(small_run)).labels
    for model, folder in ((classifier, small_run), (captioner, captioner_folder)):
        assert model.weights is not None and model.weights.path == folder / "model.safetensors"
        assert model.precision == "fp32" and any(str(folder) in note for note in model.notes)
        assert not model.module.training


def test_a_classifier_is_not_made_of_a_captioner(captioner_folder: Path, tmp_path: Path) -> None:
    for reference, architecture in (
        (str(captioner_folder), None),
        ("catr/v3", None),
        (str(tmp_path / "w.pth"), "catr"),
    ):
        with pytest.raises(ModelError, match="is a captioner, which has no classes"):
            open_classifier(reference, architecture=architecture)


def test_the_kind_is_seen_without_opening(small_run: Path, captioner_folder: Path) -> None:
    assert captioner_kind(str(captioner_folder)) == "transformers"
    assert captioner_kind("catr/v1") == captioner_kind("weights.pth", "catr") == "published"
    assert captioner_kind(str(small_run)) is captioner_kind("vit_tiny_patch16_224") is None
