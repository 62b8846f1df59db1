"""Grounding: every number by brute force over pixels and by an obvious loop; verdicts by their rules."""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
import pytest
from support.grounded_captions import COLUMNS, HEIGHT, ROWS, WHOLE, WIDTH, box, perfect, random_caption

from vitrine.attribution.baselines import centre_blob
from vitrine.attribution.grounding import (
    CONTROLS,
    MAPS,
    ClusteredMean,
    GroundedCaption,
    Grounding,
    alignment_drop,
    grounding,
    score_nouns,
)
from vitrine.attribution.placement import Placement
from vitrine.data.transforms import CropGeometry
from vitrine.results import Interval

Array = npt.NDArray[np.float64]


# --- nouns


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shift", [0, 1, -1])
def test_scores_are_those_of_a_count_over_pixels(seed: int, shift: int) -> None:
    """Patches of whole pixels, so that a picture of one score a pixel says the same."""
    caption = random_caption(seed)
    mean_RC = sum(np.asarray(each, np.float64) for each in caption.maps) / len(caption.maps)
    for (word, mask_HW), score in zip(caption.nouns, score_nouns(caption, shift), strict=True):
        if not 0 <= word + shift < len(caption.maps):
            assert score is None
            continue
        assert score is not None
        assert (score.name, score.word) == (caption.name, word)
        maps = {
            "word": caption.maps[word + shift],
            "mean": mean_RC,
            "centre": centre_blob(ROWS, COLUMNS),
            "uniform": np.ones((ROWS, COLUMNS)),
        }
        assert set(maps) == set(MAPS)
        for key, map_RC in maps.items():
            inside = total = 0.0
            hits = []
            for y in range(HEIGHT):
                for x in range(WIDTH):
                    value = float(map_RC[y // 6, x // 6])
                    total += value
                    inside += value * bool(mask_HW[y, x])
                    if y % 6 == 3 and x % 6 == 3 and value == float(map_RC.max()):
                        hits.append(bool(mask_HW[y, x]))
            assert score.values["inside"][key] == pytest.approx(inside / total, rel=1e-5)
            assert score.values["pointing"][key] == pytest.approx(sum(hits) / len(hits))


def test_the_map_lies_where_the_placement_says() -> None:
    """A crop: the same mask is under another patch than on the whole picture."""
    crop = Placement(CropGeometry(WIDTH, HEIGHT, WIDTH, HEIGHT, 12, 0, 24, 24), 2, 2)
    map_RC = np.array([[1.0, 0.0], [0.0, 0.0]])
    (score,) = score_nouns(GroundedCaption("1.png", [map_RC], crop, [(0, box(12, 0, 24, 12))]))
    assert score is not None
    assert (score.values["pointing"]["word"], score.values["inside"]["word"]) == (1, 1)
    (other,) = score_nouns(GroundedCaption("1.png", [map_RC], crop, [(0, box(24, 0, 36, 12))]))
    assert other is not None
    assert (other.values["pointing"]["word"], other.values["inside"]["word"]) == (0, 0)


def test_nouns_on_which_all_maps_are_alike_are_left_out_and_counted() -> None:
    base = random_caption(1)
    nouns = [
        (0, box(0, 0, WIDTH, HEIGHT)),  # everything
        (1, box(0, 0, 2, 2)),  # between the centres: no map can hit it, but mass can lie inside
        (2, box(0, 0, 12, 12)),
    ]
    caption = GroundedCaption("1.png", base.maps, WHOLE, nouns, absent_nouns=2)
    assert [set(score.values) for score in score_nouns(caption) if score] == [set(), {"inside"}, {"inside", "pointing"}]
    result = grounding([caption, GroundedCaption("2.png", base.maps, WHOLE, [], absent_nouns=1)])
    assert (result.captions, result.pictures, result.nouns, result.absent_nouns, result.unpaired_nouns) == (
        2,
        2,
        3,
        3,
        0,
    )
    assert (result.tied_nouns("pointing"), result.tied_nouns("inside")) == (2, 1)
    assert result.estimates["pointing"]["word"].nouns == 1
    shifted_result = grounding([caption], shift=-1)
    assert (
        shifted_result.unpaired_nouns,
        shifted_result.tied_nouns("pointing"),
        shifted_result.tied_nouns("inside"),
    ) == (1, 1, 0)


def test_bad_captions_are_refused() -> None:
    maps = [np.ones((ROWS, COLUMNS))]
    with pytest.raises(ValueError, match=r"expected maps of 4 x 6 cells; got \(6, 4\)"):
        GroundedCaption("1.png", [maps[0].T], WHOLE, [])
    with pytest.raises(ValueError, match="word 1 is a noun, but there is 1 map"):
        GroundedCaption("1.png", maps, WHOLE, [(1, box(0, 0, 9, 9))])
    with pytest.raises(ValueError, match="mask of 24 x 36 pixels"):
        score_nouns(GroundedCaption("1.png", maps, WHOLE, [(0, box(0, 0, 9, 9).T)]))


# --- means and intervals


def test_means_are_over_nouns_and_differences_over_pairs() -> None:
    captions = [random_caption(seed, name=f"{seed // 2}.png") for seed in range(48)]
    result = grounding(captions)
    scores = [score for caption in captions for score in score_nouns(caption) if score is not None]
    for key in ("pointing", "inside"):
        rows = [score.values[key] for score in scores if key in score.values]
        for name in MAPS:
            mean = result.estimates[key][name]
            assert mean.mean == pytest.approx(sum(row[name] for row in rows) / len(rows))
            assert (mean.nouns, mean.pictures) == (len(rows), 24)
            assert mean.interval is not None
            assert mean.interval.low < mean.mean < mean.interval.high
        for name in CONTROLS:
            lead = result.leads[key][name]
            assert lead.mean == pytest.approx(sum(row["word"] - row[name] for row in rows) / len(rows))


def test_all_hits_still_have_an_interval() -> None:
    result = grounding([perfect(seed) for seed in range(20)])
    estimate = result.estimates["pointing"]["word"]
    assert estimate.mean == 1
    assert estimate.interval == Interval(pytest.approx(0.025 ** (1 / 20)), 1.0)
    assert estimate.pictures == 20


# --- verdicts


def test_words_that_look_at_what_they_name() -> None:
    result = grounding([perfect(seed) for seed in range(20)])
    assert result.flag == "points"
    assert result.sentence.startswith(
        "Word maps point at what they name: pointing hit 1.00 (0.83 to 1.00), mean map 0.00"
    )


def test_shifting_the_rows_by_one_is_seen() -> None:
    # The noun comes first, so that it has a next word, which looks elsewhere.
    captions = [perfect(seed, at=0) for seed in range(20)]
    assert grounding(captions).flag == "points"
    shifted_result = grounding(captions, shift=1)
    assert shifted_result.flag != "points"
    assert shifted_result.estimates["pointing"]["word"].mean == 0
    assert shifted_result.sentence.startswith("With the map of the next word for each noun, word maps are ")
    drop = alignment_drop(captions)
    assert drop is not None
    assert (drop.mean, drop.nouns, drop.pictures) == (1, 20, 20)
    assert drop.interval is not None
    assert drop.interval.low > 0.6
    assert alignment_drop(captions, shift=-1) is None  # the first word has none before it
    assert grounding(captions, shift=-1).flag == "nothing"
    assert grounding(captions, shift=-1).unpaired_nouns == 20
    # Rows that are one too late, as in figures that pair word t with row t: the score comes back with a shift.
    late = [GroundedCaption(each.name, [each.maps[1], each.maps[0]], WHOLE, each.nouns) for each in captions]
    assert grounding(late).flag != "points"
    assert grounding(late, shift=1).flag == "points"
    late_drop = alignment_drop(late)
    assert late_drop is not None
    assert late_drop.mean == -1


def test_the_same_map_for_every_word_is_no_better_than_the_mean_map() -> None:
    captions = []
    for seed in range(24):
        one = perfect(seed)
        captions.append(GroundedCaption(one.name, [one.maps[1]] * 2, WHOLE, one.nouns))
    result = grounding(captions)
    lead = result.leads["pointing"]["mean"]
    assert (lead.mean, lead.nouns, lead.pictures) == (0, 24, 24)
    assert lead.interval is not None
    assert lead.interval.low < 0 < lead.interval.high  # equal on 24 pictures is not equal everywhere
    assert result.flag == "no better"
    assert result.sentence.startswith("Word maps are no better than the mean map of the caption: pointing hit 1.00")


def grounding_with(word: tuple[float, float], leads: dict[str, tuple[float, float]], shift: int = 0) -> Grounding:
    def mean(ends: tuple[float, float]) -> ClusteredMean:
        return ClusteredMean(sum(ends) / 2, Interval(*ends), 30, 10)

    return Grounding(
        estimates={"pointing": {"word": mean(word), **{key: mean((0.1, 0.2)) for key in CONTROLS}}},
        leads={"pointing": {key: mean(leads.get(key, (0.1, 0.2))) for key in CONTROLS}},
        captions=10,
        pictures=10,
        nouns=30,
        absent_nouns=0,
        unpaired_nouns=0,
        shift=shift,
    )


@pytest.mark.parametrize(
    ("word", "leads", "flag", "finding"),
    [
        ((0.51, 0.7), {}, "points", "Word maps point at what they name"),
        ((0.5, 0.7), {}, "leans", "Word maps hit what they name more often than every control, but not reliably"),
        ((0.6, 0.7), {"centre": (0.0, 0.2)}, "no better", "Word maps are no better than a centre blob"),
        (
            (0.6, 0.7),
            {"mean": (-0.1, 0.1), "uniform": (-0.1, 0.3)},
            "no better",
            "Word maps are no better than the mean map of the caption and a uniform map",
        ),
        ((0.6, 0.7), {"centre": (-0.2, -0.1), "mean": (-1, 1)}, "worse", "Word maps are worse than a centre blob"),
    ],
)
def test_verdicts_follow_from_the_intervals(
    word: tuple[float, float], leads: dict[str, tuple[float, float]], flag: str, finding: str
) -> None:
    result = grounding_with(word, leads)
    assert (result.flag, result.finding) == (flag, finding)
    assert result.sentence.startswith(f"{finding}: pointing hit {sum(word) / 2:.2f} ({word[0]:.2f} to {word[1]:.2f}), ")
    assert result.sentence.endswith("mean map 0.15, centre blob 0.15, uniform 0.15.")


def test_too_few_pictures_and_none_say_so() -> None:
    few = grounding([perfect(seed) for seed in range(5)])
    assert few.flag == "too few"
    assert few.estimates["pointing"]["word"].interval is None
    assert few.sentence.startswith("Too few pictures to say whether words look at what they name: pointing hit 1.00, ")
    none = grounding([])
    assert (none.flag, none.sentence) == ("nothing", "No noun of these captions can be scored.")
    assert alignment_drop([]) is None


def test_results_are_json() -> None:
    for captions in ([random_caption(seed) for seed in range(8)], []):
        result = grounding(captions)
        content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
        assert content["sentence"] == result.sentence
        assert content["nouns"] == result.nouns
        for key, row in result.estimates.items():
            for name, mean in row.items():
                assert content["metrics"][key][name]["mean"] == round(mean.mean, 6)
        assert content["intervals"]["unit"] == "picture"
