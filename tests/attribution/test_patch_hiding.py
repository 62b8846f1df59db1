"""The test of one picture: exact for random maps, right on toys whose answer is known, silent without power."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from vitrine.attribution.methods import METHODS, Method
from vitrine.attribution.patch_hiding import (
    DRAWS,
    FILLINGS,
    MIN_EFFECT,
    SIGNIFICANT,
    HidingTest,
    count_hiding_tests,
    hiding_tests,
    marked_counts,
    monte_carlo_p,
    needed_order,
)

Probability = Callable[[torch.Tensor], torch.Tensor]
SIDE, GRID = 4, 6  # pixels of a patch, patches of a side


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Bright patches that differ: hiding one behind the mean colour or blur changes it."""
    rng = torch.Generator().manual_seed(seed)
    return 1 + torch.rand(count, 3, GRID, GRID, generator=rng).repeat_interleave(SIDE, 2).repeat_interleave(SIDE, 3)


def patch_means(pixels_JCHW: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(pixels_JCHW, SIDE).mean(dim=1)


def needs(weights_RC: np.ndarray, whole_CHW: torch.Tensor) -> Probability:
    """A model of one picture: the answer is 0.05 and 0.9 times the weighted share of patches that are as they were."""
    weights_RC = weights_RC / weights_RC.sum()

    def probability(pixels_JCHW: torch.Tensor) -> torch.Tensor:
        same_JRC = (patch_means(pixels_JCHW) - patch_means(whole_CHW[None])).abs() < 1e-6
        answer_J = 0.05 + 0.9 * (same_JRC * torch.from_numpy(weights_RC)).sum(dim=(1, 2))
        return torch.stack([answer_J, 1 - answer_J], dim=1).float()

    return probability


def either(first: tuple[int, int], second: tuple[int, int], whole_CHW: torch.Tensor) -> Probability:
    """A model that answers as long as one of two far patches is as it was."""

    def probability(pixels_JCHW: torch.Tensor) -> torch.Tensor:
        same_JRC = (patch_means(pixels_JCHW) - patch_means(whole_CHW[None])).abs() < 1e-6
        answer_J = 0.05 + 0.9 * (same_JRC[:, *first] | same_JRC[:, *second]).double()
        return torch.stack([answer_J, 1 - answer_J], dim=1).float()

    return probability


def hide(probability: Probability, pixels_BCHW: torch.Tensor, scores_BRC: np.ndarray, **options: object) -> HidingTest:
    (result,) = hiding_tests(probability, pixels_BCHW, scores_BRC, [0], ["cat", "dog"], **options)  # type: ignore[arg-type]
    return result


def block(top: int, left: int, size: int = 2) -> np.ndarray:
    scores_RC = np.zeros((GRID, GRID))
    scores_RC[top : top + size, left : left + size] = 1
    return scores_RC


def test_p_of_random_maps_is_uniform_whatever_the_model() -> None:
    """By construction: a random map is one more draw. 400 pictures, 19 draws: every value of p comes in 1 of 20."""
    count, draws = 400, 19
    whole_BCHW, rng = pictures(1), np.random.default_rng(1)
    weights_RC = rng.random((GRID, GRID)) ** 4  # some patches are needed much more than others
    values = [
        hide(
            needs(weights_RC, whole_BCHW[0]), whole_BCHW, rng.random((1, GRID, GRID)), draws=draws, seed=seed,
            fillings=("mean colour", "blur"),
        ).p
        for seed in range(count)
    ]  # fmt: skip
    counts = np.bincount(np.rint(np.array(values) * (draws + 1)).astype(int) - 1, minlength=draws + 1)
    expected = count / (draws + 1)
    assert counts.sum() == count and len(counts) == draws + 1
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees of freedom, 0.1 %
    share = np.mean(np.array(values) <= SIGNIFICANT)
    assert share <= SIGNIFICANT + 3 * np.sqrt(SIGNIFICANT / count)


def test_a_map_of_the_needed_patches_and_a_map_of_others() -> None:
    whole_BCHW, needed_RC = pictures(1), block(1, 2)
    model = needs(needed_RC, whole_BCHW[0])
    right = hide(model, whole_BCHW, needed_RC[None])
    assert right.flag == "depends"
    assert right.p == pytest.approx(1 / (DRAWS + 1))
    assert [each.patches for each in right.sets] == [1, 2, 3]
    assert right.answer == pytest.approx(0.95)
    # Each of the four patches is worth 0.225, and so much is lost for every one that is hidden.
    for each in right.sets:
        assert each.answer == pytest.approx(0.95 - 0.225 * each.patches)
        assert each.most_needed == pytest.approx(each.answer)
        assert each.random == pytest.approx(0.95)  # most random sets miss them
    assert right.effect == pytest.approx(0.225 * 2)
    wrong = hide(model, whole_BCHW, block(4, 4)[None])
    assert wrong.flag == "not shown"
    assert wrong.p > 0.5
    assert wrong.effect == pytest.approx(0)


def test_the_sentence_has_the_numbers_that_were_measured() -> None:
    whole_BCHW, needed_RC = pictures(1), block(1, 2)
    for scores_RC in (needed_RC, block(4, 4)):
        result = hide(needs(needed_RC, whole_BCHW[0]), whole_BCHW, scores_RC[None])
        match = re.search(
            r"hiding the (\d+) strongest of (\d+) \w+ cat from ([\d.]+) to ([\d.]+); hiding (\d+) at random, to "
            r"([\d.]+) \(median of (\d+)\); p = ([\d.e-]+) over ([\d, and]+) patches, hidden behind (.*)\.",
            result.sentence,
        )
        assert match is not None, result.sentence
        shown, numbers = result.sets[1], [float(match[i]) for i in range(1, 9)]
        assert numbers[0] == numbers[4] == shown.patches
        assert numbers[1] == GRID * GRID and numbers[6] == result.draws
        assert numbers[2:4] == pytest.approx([result.answer, shown.answer], abs=0.005)
        assert numbers[5] == pytest.approx(shown.random, abs=0.005)
        assert numbers[7] == pytest.approx(result.p, abs=0.005)
        assert match[9] == "1, 2 and 3"
        assert match[10] == "blur, the mean colour and other patches of the picture"
        assert "believ" not in result.sentence and "object" not in result.sentence


def test_where_nothing_can_be_shown_it_says_so() -> None:
    whole_BCHW = pictures(1)

    def constant(pixels_JCHW: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.9, 0.1]]).expand(len(pixels_JCHW), 2)

    result = hide(constant, whole_BCHW, block(1, 2)[None])
    assert result.flag == "cannot tell"
    assert "With all patches hidden it is 0.90" in result.sentence
    assert result.p == 1  # ties count against the map
    # Two places, either of which is enough: no set of one patch lowers the answer.
    either_one = either((0, 0), (5, 5), whole_BCHW[0])
    scores_RC = np.zeros((GRID, GRID))
    scores_RC[0, 0] = 1
    result = hide(either_one, whole_BCHW, scores_RC[None])
    assert [each.patches for each in result.sets] == [1]
    assert result.flag == "cannot tell"
    assert "stands in several places" in result.sentence
    assert result.all_hidden == pytest.approx(0.05)
    # A map that marks nothing.
    result = hide(needs(block(1, 2), whole_BCHW[0]), whole_BCHW, np.full((1, GRID, GRID), 0.3))
    assert result.flag == "cannot tell"
    assert result.sentence.endswith("it is the same everywhere, and marks none.")


def test_a_small_effect_shows_nothing_however_small_its_p() -> None:
    whole_BCHW, needed_RC = pictures(1), block(1, 2)
    weights_RC = needed_RC + 0.0
    full = needs(weights_RC, whole_BCHW[0])

    def faint(pixels_JCHW: torch.Tensor) -> torch.Tensor:
        share_J = 0.9 + 0.05 * full(pixels_JCHW)[:, 0]
        return torch.stack([share_J, 1 - share_J], dim=1)

    result = hide(faint, whole_BCHW, needed_RC[None])
    assert result.p == pytest.approx(1 / (DRAWS + 1))
    assert 0 < result.effect < MIN_EFFECT
    assert result.flag == "cannot tell"


def test_results_do_not_depend_on_batches_and_repeat_with_their_seed() -> None:
    whole_BCHW, rng = pictures(2), np.random.default_rng(0)
    scores_BRC, weights_RC = rng.random((2, GRID, GRID)), rng.random((GRID, GRID))

    def probability(pixels_JCHW: torch.Tensor) -> torch.Tensor:
        share_J = torch.sigmoid((patch_means(pixels_JCHW) * torch.from_numpy(weights_RC)).sum(dim=(1, 2)) - 27)
        return torch.stack([share_J, 1 - share_J], dim=1).float()

    both = hiding_tests(probability, whole_BCHW, scores_BRC, [0, 1], ["cat", "dog"], draws=9)
    again = hiding_tests(probability, whole_BCHW, scores_BRC, [0, 1], ["cat", "dog"], draws=9, batch_size=7)
    alone = hiding_tests(probability, whole_BCHW[1:], scores_BRC[1:], [1], ["cat", "dog"], draws=9)
    other = hiding_tests(probability, whole_BCHW, scores_BRC, [0, 1], ["cat", "dog"], draws=9, seed=1)
    for one, two in zip((*both, both[1]), (*again, *alone), strict=True):
        assert one.p == two.p
        assert [each.answer for each in one.sets] == pytest.approx([each.answer for each in two.sets], abs=1e-6)
    assert [each.random for each in both[0].sets] != [each.random for each in other[0].sets]


def test_controls_are_tested_as_the_map_is() -> None:
    whole_BCHW, needed_RC = pictures(1), block(1, 2)
    model = needs(needed_RC, whole_BCHW[0])
    result = hide(model, whole_BCHW, block(4, 4)[None], controls={"the needed": needed_RC[None]})
    (control,) = result.controls
    assert control.name == "the needed" and control.p == pytest.approx(1 / (DRAWS + 1))
    assert control.answers == pytest.approx([0.95 - 0.225 * each.patches for each in result.sets])


def test_hidden_patches_are_behind_what_the_fillings_say() -> None:
    """Every changed patch is the blurred one, 0, or one of the visible ones; the others are as they were."""
    whole_BCHW = pictures(1)
    seen: list[torch.Tensor] = []

    def look(pixels_JCHW: torch.Tensor) -> torch.Tensor:
        seen.append(pixels_JCHW)
        return torch.tensor([[0.9, 0.1]]).expand(len(pixels_JCHW), 2)

    for filling in FILLINGS:
        seen.clear()
        hide(look, whole_BCHW, block(1, 2)[None], fillings=(filling,), draws=3)
        means_JRC, whole_RC = patch_means(torch.cat(seen)), patch_means(whole_BCHW)[0]
        changed_JRC = (means_JRC - whole_RC).abs() > 1e-6
        hidden = sorted({int(count) for count in changed_JRC.sum(dim=(1, 2))})
        assert hidden[0] == 0 and hidden[1] == 1
        values = means_JRC[(changed_JRC.sum(dim=(1, 2)) <= 3)[:, None, None] & changed_JRC]
        if filling == "mean colour":
            assert values.abs().max() == 0
        elif filling == "other patches":
            assert all((whole_RC - value).abs().min() < 1e-6 for value in values)
        else:
            assert not any((whole_RC - value).abs().min() < 1e-6 for value in values)


def test_occlusion_is_not_judged_by_what_it_was_made_of() -> None:
    assert Method("occlusion").filling == "mean colour"
    assert "mean colour" in FILLINGS
    assert [name for name in METHODS if Method(name).filling] == ["occlusion"]


def test_counts_come_from_the_maps_own_mass() -> None:
    assert marked_counts(block(1, 2)) == (1, 2, 3)
    one = np.zeros((GRID, GRID))
    one[3, 3] = 5
    assert marked_counts(one) == (1,)
    assert marked_counts(np.ones((GRID, GRID))) == (9, 18)  # never more than half
    assert marked_counts(-np.ones((GRID, GRID))) == (9, 18)
    # 8 + 4 + 2 + 1 + 1: a quarter and a half lie in the first, three quarters in the first two.
    assert marked_counts(np.array([[1, 8, 1], [4, 2, 0], [0, 0, 0]])) == (1, 2)


def test_p_counts_draws_that_are_as_small() -> None:
    assert monte_carlo_p(0.2, np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx(3 / 5)
    assert monte_carlo_p(0.0, np.full(99, 0.5)) == pytest.approx(0.01)


def test_random_sets_show_which_patches_are_needed() -> None:
    rng = np.random.default_rng(0)
    ranks_KN = np.stack([rng.permutation(12) for _ in range(200)])
    left_SK = [1 - 0.5 * (ranks_KN[:, 7] < count) - 0.2 * (ranks_KN[:, 2] < count) for count in (3, 6)]
    left_KS = np.stack(left_SK, axis=1)
    order_N = needed_order(ranks_KN, left_KS, (3, 6))
    assert (order_N[7], order_N[2]) == (0, 1)
    assert sorted(order_N) == list(range(12))


def test_counts_of_tests_in_a_sentence() -> None:
    assert count_hiding_tests(["depends", "depends", "not shown"]).startswith(
        "Of 3 maps, 2 mark patches that the answer depends on"
    )
    assert "1 marks" in count_hiding_tests(["depends"])


@pytest.mark.parametrize(
    "options", [{"fillings": ()}, {"fillings": ("fog",)}, {"draws": 0}], ids=["no filling", "fog", "no draws"]
)
def test_what_cannot_be_tested_is_refused(options: dict[str, object]) -> None:
    whole_BCHW = pictures(1)
    with pytest.raises(ValueError, match="Expected draws, and fillings"):
        hide(needs(block(1, 2), whole_BCHW[0]), whole_BCHW, block(1, 2)[None], **options)


def test_maps_that_do_not_fit_are_refused() -> None:
    whole_BCHW = pictures(1)
    model = needs(block(1, 2), whole_BCHW[0])
    with pytest.raises(ValueError, match="finite"):
        hide(model, whole_BCHW, np.full((1, GRID, GRID), np.nan))
    with pytest.raises(ValueError, match="evenly"):
        hide(model, whole_BCHW, np.ones((1, 5, 5)))
    with pytest.raises(ValueError, match="of one B"):
        hide(model, whole_BCHW, np.ones((GRID, GRID)))
