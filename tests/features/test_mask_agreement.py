"""What is said of regions and masks is what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from vitrine.features.mask_agreement import agreement, place_control


def _case(pictures: int, own_errors: int, control_errors: int) -> tuple[list, list, list]:
    rng = np.random.default_rng(0)
    inside = [np.zeros((6, 6), dtype=bool) for _ in range(pictures)]
    for mask in inside:
        row, column = rng.integers(0, 4, 2)
        mask[row : row + 2, column : column + 3] = True

    def disturbed(mask: np.ndarray, errors: int) -> np.ndarray:
        labels = mask.astype(np.int64).ravel()
        at = rng.choice(36, errors, replace=False)
        labels[at] = 1 - labels[at]
        return labels.reshape(6, 6)

    return [disturbed(m, own_errors) for m in inside], [disturbed(m, control_errors) for m in inside], inside


@pytest.mark.parametrize(
    ("pictures", "own", "control", "words"),
    [
        (40, 0, 6, "They agree more than every control does."),
        (40, 6, 0, "That is not clearly more than colours."),
        (40, 3, 3, "That is not clearly more than colours."),
        (5, 0, 6, "There are too few pictures to compare these."),
    ],
)
def test_the_sentence_follows_the_paired_interval(pictures: int, own: int, control: int, words: str) -> None:
    own_labels, control_labels, inside = _case(pictures, own, control)
    result = agreement(own_labels, {"colours": control_labels}, inside, "masks")
    assert result.sentence.endswith(words)
    assert result.pictures == pictures
    (row,) = result.controls
    assert row.lead is not None
    assert row.lead[0] == pytest.approx(result.own.mean - row.mean)
    assert result.to_dict()["controls"]["colours"]["mean"] == pytest.approx(row.mean, abs=1e-6)  # type: ignore[index]
    assert (result.own.interval is None) == (pictures < 20)


def test_of_two_controls_the_one_that_is_as_good_is_named() -> None:
    own, worse, inside = _case(40, 2, 9)
    result = agreement(own, {"colours": worse, "places": own}, inside, "masks")
    assert result.sentence.endswith("That is not clearly more than places.")


def test_places_alone_make_compact_regions() -> None:
    labels_RC = place_control(8, 8, 4, seed=0)
    assert sorted(np.unique(labels_RC)) == [0, 1, 2, 3]
    assert min(np.bincount(labels_RC.ravel())) >= 8


def test_there_must_be_a_mask() -> None:
    with pytest.raises(ValueError, match="no picture"):
        agreement([], {}, [], "masks")
