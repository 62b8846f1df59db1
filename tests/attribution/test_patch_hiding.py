"""The test of one picture: exact for random maps, right on toys whose answer is known, silent without power."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch

from vitrine.attribution.occlusion import occlusion
from vitrine.attribution.patch_hiding import (
    DRAWS,
    FILLINGS,
    MIN_EFFECT,
    SIGNIFICANT,
    HidingTest,
    PatchHiding,
    compact_maps,
    count_hiding_tests,
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


def hiding(probability: Probability, whole_CHW: torch.Tensor, **options: object) -> PatchHiding:
    others_OCHW = -pictures(3, seed=9)
    return PatchHiding(probability, whole_CHW, 0, "cat", others_OCHW, (GRID, GRID), **options)  # type: ignore[arg-type]


def hide(probability: Probability, whole_CHW: torch.Tensor, scores_RC: np.ndarray, **options: object) -> HidingTest:
    return hiding(probability, whole_CHW, **options).test(scores_RC)


def block(top: int, left: int, size: int = 2) -> np.ndarray:
    scores_RC = np.zeros((GRID, GRID))
    scores_RC[top : top + size, left : left + size] = 1
    return scores_RC


def test_p_of_random_maps_is_uniform_whatever_the_model() -> None:
    """By construction: a random map is one more draw. 400 pictures, 19 draws: every value of p comes in 1 of 20."""
    count, draws = 400, 19
    whole_CHW, rng = pictures(1)[0], np.random.default_rng(1)
    weights_RC = rng.random((GRID, GRID)) ** 4  # some patches are needed much more than others
    values = [
        hide(
            needs(weights_RC, whole_CHW), whole_CHW, rng.random((GRID, GRID)), draws=draws, seed=seed,
            fillings=("elsewhere",),
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
    whole_CHW, needed_RC = pictures(1)[0], block(1, 2)
    model = needs(needed_RC, whole_CHW)
    right = hide(model, whole_CHW, needed_RC)
    assert right.flag == "depends"
    assert right.p == pytest.approx(1 / (DRAWS + 1))
    assert [each.patches for each in right.sets] == [2, 3, 4]
    assert right.answer == pytest.approx(0.95)
    # Each of the four patches is worth 0.225, and so much is lost for every one that is hidden.
    for each in right.sets:
        assert each.answer == pytest.approx(0.95 - 0.225 * each.patches)
        assert each.most_needed == pytest.approx(each.answer)
        assert min(abs(0.95 - each.random - hit) for hit in (0, 0.225)) < 1e-6  # random sets hit one at most, mostly
    assert right.effect == pytest.approx(np.mean([min(each.random, each.compact) - each.answer for each in right.sets]))
    assert right.effect > 0.2
    wrong = hide(model, whole_CHW, block(4, 4))
    assert wrong.flag == "not shown"
    assert wrong.p > 0.5
    assert wrong.effect <= 0


def test_the_sentence_has_the_numbers_that_were_measured() -> None:
    whole_CHW, needed_RC = pictures(1)[0], block(1, 2)
    for scores_RC in (needed_RC, block(4, 4)):
        result = hide(needs(needed_RC, whole_CHW), whole_CHW, scores_RC)
        match = re.search(
            r"hiding its ([\d, and]+) strongest of (\d+) \w+ cat from ([\d.]+) to ([\d., and]+); as many at random, to "
            r"([\d., and]+) \(median of (\d+)\); as many about the middle, to ([\d., and]+); p = ([\d.e-]+)\. They "
            r"were hidden behind patches of (.*?)\.",
            result.sentence,
        )
        assert match is not None, result.sentence
        assert match[1] == "2, 3 and 4"
        assert (match[2], match[6]) == (str(GRID * GRID), str(result.draws))
        assert [float(match[3]), float(match[8])] == pytest.approx([result.answer, result.p], abs=0.005)
        for words, name in ((match[4], "answer"), (match[5], "random"), (match[7], "compact")):
            numbers = [float(number) for number in re.findall(r"[\d.]+", words)]
            assert numbers == pytest.approx([getattr(each, name) for each in result.sets], abs=0.005)
        assert match[9] == "other pictures and other places in the picture"
        assert "believ" not in result.sentence and "object" not in result.sentence


def test_where_nothing_can_be_shown_it_says_so() -> None:
    whole_CHW = pictures(1)[0]

    def constant(pixels_JCHW: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.9, 0.1]]).expand(len(pixels_JCHW), 2)

    result = hide(constant, whole_CHW, block(1, 2))
    assert result.flag == "cannot tell"
    assert "With all patches hidden it is 0.90" in result.sentence
    assert result.p == 1  # ties count against the map
    # Two places, either of which is enough: no set of one patch lowers the answer.
    either_one = either((0, 0), (5, 5), whole_CHW)
    scores_RC = np.zeros((GRID, GRID))
    scores_RC[0, 0] = 1
    result = hide(either_one, whole_CHW, scores_RC, fillings=("other pictures",))
    assert [each.patches for each in result.sets] == [1]
    assert result.flag == "cannot tell"
    assert "stands in several places" in result.sentence
    assert result.all_hidden == pytest.approx(0.05)
    # A map that marks nothing.
    result = hide(needs(block(1, 2), whole_CHW), whole_CHW, np.full((GRID, GRID), 0.3))
    assert result.flag == "cannot tell"
    assert result.sentence.endswith("it is the same everywhere, and marks none.")


def test_a_small_effect_shows_nothing_however_small_its_p() -> None:
    whole_CHW, needed_RC = pictures(1)[0], block(1, 2)
    weights_RC = needed_RC + 0.0
    full = needs(weights_RC, whole_CHW)

    def faint(pixels_JCHW: torch.Tensor) -> torch.Tensor:
        share_J = 0.95 + 0.03 * full(pixels_JCHW)[:, 0]
        return torch.stack([share_J, 1 - share_J], dim=1)

    result = hide(faint, whole_CHW, needed_RC)
    assert result.p == pytest.approx(1 / (DRAWS + 1))
    assert 0 < result.random_effect < MIN_EFFECT
    assert result.flag == "cannot tell"


def test_results_do_not_depend_on_batches_and_repeat_with_their_seed() -> None:
    whole_CHW, rng = pictures(1)[0], np.random.default_rng(0)
    first_RC, second_RC, weights_RC = rng.random((3, GRID, GRID))

    def probability(pixels_JCHW: torch.Tensor) -> torch.Tensor:
        share_J = torch.sigmoid((patch_means(pixels_JCHW) * torch.from_numpy(weights_RC)).sum(dim=(1, 2)) - 27)
        return torch.stack([share_J, 1 - share_J], dim=1).float()

    alone = hide(probability, whole_CHW, second_RC, draws=9)
    after = hiding(probability, whole_CHW, draws=9, batch_size=7)
    after.test(first_RC)
    again = after.test(second_RC)
    assert alone.p == again.p
    for one, two in zip(alone.sets, again.sets, strict=True):
        assert list(vars(one).values()) == pytest.approx(list(vars(two).values()), abs=1e-6)
    other = hide(probability, whole_CHW, second_RC, draws=9, seed=1)
    assert [each.random for each in alone.sets] != [each.random for each in other.sets]


def test_what_any_patches_about_the_middle_do_is_no_dependence_on_the_marked_ones() -> None:
    """The answer needs the four patches in the middle; the map marks one of them and three beside."""
    whole_CHW = pictures(1)[0]
    model = needs(block(2, 2), whole_CHW)
    scores_RC = np.zeros((GRID, GRID))
    scores_RC[2, 2] = scores_RC[0, 0] = scores_RC[0, 5] = scores_RC[5, 0] = 1
    result = hide(model, whole_CHW, scores_RC, draws=200)
    assert result.effect < 0
    assert result.flag == "not shown"
    assert ("those about the middle take more" in result.sentence) is (result.p <= SIGNIFICANT)
    assert hide(model, whole_CHW, block(2, 2)).flag == "depends"


def test_compact_maps_mark_patches_side_by_side_about_the_middle() -> None:
    maps_KRC = compact_maps(8, 12, 400, np.random.default_rng(0))
    strongest_KRC = maps_KRC >= np.sort(maps_KRC.reshape(400, -1))[:, -8][:, None, None]
    assert (strongest_KRC.sum(axis=(1, 2)) == 8).all()
    beside = (strongest_KRC[:, :, 1:] & strongest_KRC[:, :, :-1]).sum(axis=(1, 2))
    below = (strongest_KRC[:, 1:] & strongest_KRC[:, :-1]).sum(axis=(1, 2))
    assert (beside + below).mean() > 6  # eight scattered patches have one or so
    middle = strongest_KRC[:, 2:6, 3:9].sum() / strongest_KRC.sum()
    assert middle > 0.5  # a quarter of all patches
    assert strongest_KRC.any(axis=0).mean() > 0.5  # not always the same ones


def test_hidden_patches_are_behind_what_the_fillings_say() -> None:
    """Every changed patch is another picture's, or a visible one; the others are as they were."""
    whole_CHW = pictures(1)[0]
    seen: list[torch.Tensor] = []

    def look(pixels_JCHW: torch.Tensor) -> torch.Tensor:
        seen.append(pixels_JCHW)
        return torch.tensor([[0.9, 0.1]]).expand(len(pixels_JCHW), 2)

    for filling in FILLINGS:
        seen.clear()
        hide(look, whole_CHW, block(1, 2), fillings=(filling,), draws=3)
        means_JRC, whole_RC = patch_means(torch.cat(seen)), patch_means(whole_CHW[None])[0]
        changed_JRC = (means_JRC - whole_RC).abs() > 1e-6
        counts = {int(count) for count in changed_JRC.sum(dim=(1, 2))}
        assert {0, 2, 3, 4} < counts and all(count > 30 for count in counts - {0, 2, 3, 4})
        values = means_JRC[(changed_JRC.sum(dim=(1, 2)) <= 4)[:, None, None] & changed_JRC]
        from_here = torch.tensor([bool((whole_RC - value).abs().min() < 1e-6) for value in values])
        assert (values < 0).all() if filling == "other pictures" else (values > 0).all()
        assert from_here.all() if filling == "elsewhere" else not from_here.any()
        assert len(values) > 20


def test_no_map_is_judged_by_what_it_was_made_of() -> None:
    """Occlusion covers patches with the mean colour, which the test does not use; the sentence names what it uses."""
    assert "mean" not in " ".join(FILLINGS)
    whole_CHW = pictures(1)[0]
    covered: list[torch.Tensor] = []

    def look(pixels_JCHW: torch.Tensor) -> torch.Tensor:
        covered.append(pixels_JCHW)
        return torch.tensor([[0.9, 0.1]]).expand(len(pixels_JCHW), 2)

    occlusion(look, whole_CHW[None], torch.tensor([0]), (GRID, GRID))
    assert (patch_means(torch.cat(covered)) == 0).any()
    covered.clear()
    hide(look, whole_CHW, block(1, 2), draws=5)
    assert not (patch_means(torch.cat(covered)) == 0).any()


def test_counts_come_from_the_maps_own_mass() -> None:
    assert marked_counts(block(1, 2)) == (2, 3, 4)
    one = np.zeros((GRID, GRID))
    one[3, 3] = 5
    assert marked_counts(one) == (1,)
    assert marked_counts(np.ones((GRID, GRID))) == (8,)  # never more than a quarter, in steps
    assert marked_counts(-np.ones((GRID, GRID))) == (8,)
    assert marked_counts(np.ones((14, 14))) == (48,)
    # 8 + 4 + 2 + 1 + 1: half lies in the first, three quarters in the first two, 95 % in all five, rounded to 6.
    scores_RC = np.zeros((6, 6))
    scores_RC.flat[:5] = 1, 8, 1, 4, 2
    assert marked_counts(scores_RC) == (1, 2, 6)
    # 44 patches to 10 or 11 of them: the steps are 1, 2, 3, 4, 6, 8 and 12.
    assert marked_counts(np.repeat([[1.0], [0.0], [0.0], [0.0]], 11, axis=1)) == (6, 8)


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
    whole_CHW = pictures(1)[0]
    with pytest.raises(ValueError, match="Expected draws, and fillings"):
        hide(needs(block(1, 2), whole_CHW), whole_CHW, block(1, 2), **options)


def test_what_does_not_fit_is_refused() -> None:
    whole_CHW = pictures(1)[0]
    model = needs(block(1, 2), whole_CHW)
    with pytest.raises(ValueError, match="finite"):
        hide(model, whole_CHW, np.full((GRID, GRID), np.nan))
    with pytest.raises(ValueError, match="Expected finite scores of 6 x 6"):
        hide(model, whole_CHW, np.ones((5, 5)))
    with pytest.raises(ValueError, match="evenly"):
        PatchHiding(model, whole_CHW, 0, "cat", whole_CHW[None], (5, 5))
    with pytest.raises(ValueError, match="others of its size"):
        PatchHiding(model, whole_CHW, 0, "cat", whole_CHW[None, :, 1:], (GRID, GRID))
