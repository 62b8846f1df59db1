"""Pictures explained by an open classifier: what is said of each is what the model says, whatever makes its map."""

from __future__ import annotations

import numpy as np
import pytest

from vitrine.attribution.methods import Method
from vitrine.attribution.registry import ENTRIES, LIBRARY_ENTRIES
from vitrine.classify.model import open_classifier
from vitrine.data.scenes import open_scenes
from vitrine.explain.explainer import Explainer

OF_NO_CLASS = [entry.name for entry in (*ENTRIES, *LIBRARY_ENTRIES) if not entry.for_a_class]


@pytest.mark.parametrize("name", OF_NO_CLASS)
def test_a_map_of_no_class_comes_with_the_models_probabilities(name: str) -> None:
    """Some methods run the model once for the batch, and libraries picture by picture, with gradients."""
    if name.startswith("cam:"):
        pytest.importorskip("pytorch_grad_cam")
    explainer = Explainer(open_classifier("vitrine/scenes-tiny"), Method(name))
    (batch,) = explainer.run(open_scenes("scenes:base?test=3").splits["test"], 3, workers=0)
    expected_BC = explainer.probability(batch.pixels_BCHW).numpy()
    for picture, expected_C in zip(batch.pictures, expected_BC, strict=True):
        assert picture.probabilities_C == pytest.approx(expected_C, abs=1e-6)
        assert picture.predicted == explainer.classifier.labels[int(np.argmax(expected_C))]
