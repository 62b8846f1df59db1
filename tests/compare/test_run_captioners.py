"""``vitrine compare`` of captioners: its tests computed anew from the files by scipy and by slow, obvious code."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from support.made_runs import made_captioner, made_run

from vitrine.compare.run import compare
from vitrine.errors import RunError
from vitrine.metrics import caption_ngrams

HUMANS = ("a red star above a blue circle", "a star and a circle", "the red star")
NEAR = "a red star and a circle"
FAR = "two green squares"


def captions(count: int, exact: range, near: range) -> list[str]:
    """One for each picture: one of its own, something near, or something else."""
    return [HUMANS[i % 3] if i in exact else NEAR if i in near else FAR for i in range(count)]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three captioners on 60 pictures: one is word for word right more often, one is merely nearer than the third."""
    folder = tmp_path / "runs"
    humans = [HUMANS] * 60
    made_captioner(folder / "exact", captions(60, range(30), range(30, 40)), humans, learning_rate=1e-3)
    made_captioner(folder / "near", captions(60, range(2), range(2, 50)), humans, learning_rate=2e-3)
    made_captioner(folder / "far", captions(60, range(1), range(1, 10)), humans, learning_rate=3e-3)
    return folder


def longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Words in common in order, by trying all ways."""
    if not one or not other:
        return 0
    if one[-1] == other[-1]:
        return 1 + longest_common(one[:-1], other[:-1])
    return max(longest_common(one[:-1], other), longest_common(one, other[:-1]))


def rouge(caption: str, humans: Sequence[str]) -> float:
    """Lin 2004 with beta 1.2, precision and recall each the best over the references."""
    words = caption.split()
    common = [(longest_common(words, human.split()), len(human.split())) for human in humans]
    precision, recall = max(c / len(words) for c, _ in common), max(c / n for c, n in common)
    return 0.0 if not precision * recall else (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


def outcomes(run: Path) -> tuple[list[bool], list[float]]:
    """Of each picture: whether its caption is one of its own, and how near it is; from the files alone."""
    humans = {
        row["name"]: row["captions"] for row in json.loads((run / "data.json").read_text())["splits"]["validation"]
    }
    with (run / "captions.csv").open(newline="") as stream:
        predictions = {row["filename"]: row["caption"] for row in csv.DictReader(stream)}
    assert predictions.keys() == humans.keys()
    return [predictions[n] in humans[n] for n in sorted(predictions)], [
        rouge(predictions[n], humans[n]) for n in sorted(predictions)
    ]


def holm_by_bounds(p_values: Sequence[float]) -> list[float]:
    """Adjusted p by its definition: the largest of (m - k + 1) times the k-th smallest up to a value's own rank."""
    p = np.sort(p_values)
    bounds = [(len(p) - k) * value for k, value in enumerate(p)]
    return [float(min(1.0, max(bounds[: int(np.searchsorted(p, value, "right"))]))) for value in p_values]


def test_claims_agree_with_scipy(runs: Path) -> None:
    result = compare([str(runs)])
    outcomes_by_run = {run.name: outcomes(run) for run in runs.iterdir() if run.is_dir()}
    expected = {}
    for one, other in combinations(("exact", "far", "near"), 2):
        for which, question in enumerate(("exact", "nearer")):
            pairs = list(zip(outcomes_by_run[one][which], outcomes_by_run[other][which], strict=True))
            ahead = sum(a > b + 1e-9 for a, b in pairs), sum(b > a + 1e-9 for a, b in pairs)
            p = binomtest(ahead[0], sum(ahead)).pvalue if sum(ahead) else 1.0
            expected[frozenset((one, other)), question] = ({one: ahead[0], other: ahead[1]}, p)
    adjusted_p = dict(zip(expected, holm_by_bounds([p for _, p in expected.values()]), strict=True))
    assert len(result.claims) == 6 and {claim.tests for claim in result.claims} == {6}
    verdicts = {}
    for claim in result.claims:
        key = frozenset((claim.first, claim.second)), claim.question
        ahead, p = expected[key]
        assert (claim.counts.first, claim.counts.second) == (ahead[claim.first], ahead[claim.second])
        assert claim.counts.n == 60
        assert claim.counts.p == pytest.approx(p, rel=1e-9) and claim.corrected_p == pytest.approx(
            adjusted_p[key], rel=1e-9
        )
        is_ahead = ahead[claim.first] > ahead[claim.second]
        verdict = "undecided" if adjusted_p[key] > 0.05 else "supported" if is_ahead else "not supported"
        assert claim.verdict == verdict
        verdicts[claim.first, claim.second, claim.question] = verdict
        assert f": {verdict}" in claim.sentence and str(claim.counts.first) in claim.sentence
    assert verdicts["near", "far", "exact"] == "undecided" and verdicts["near", "far", "nearer"] == "supported"
    assert verdicts["exact", "far", "exact"] == "supported"


def test_sentences_say_what_was_tested(runs: Path) -> None:
    text = compare([str(runs)]).text()
    assert "exact gives human captions word for word more often than far (learning rate 0.001 against 0.003" in text
    assert "29 of 60 pictures decide: 29 only the first captions so, 0 only the second; p = " in text
    assert "near is nearer to the human captions than far (learning rate 0.002 against 0.003, the rest alike)" in text
    assert "It is no judgement of what the captions mean." in text
    lines = [line for line in text.splitlines() if line.startswith(("captioner ", "exact ", "near ", "far "))][:4]
    assert "learning rate" in lines[0] and "exact captions" in lines[0] and any("0.5000" in line for line in lines)


def test_one_correction_over_classifiers_and_captioners(runs: Path) -> None:
    made_run(runs / "c0", [True] * 20, seed=0)
    made_run(runs / "c1", [True] * 14 + [False] * 6, learning_rate=3e-4)
    result = compare([str(runs)])
    assert {claim.tests for claim in result.claims} == {7} and len(result.claims) == 7
    (right,) = [claim for claim in result.claims if claim.question == "right"]
    assert right.counts.p == binomtest(6, 6).pvalue <= 0.05 < right.corrected_p, "one test of seven is no finding"
    assert right.verdict == "undecided"


def test_other_captions_of_the_same_pictures_are_not_tested(runs: Path) -> None:
    made_captioner(runs / "other", captions(60, range(5), range(10)), [(*HUMANS[:2], "another")] * 60, exact=4)
    result = compare([str(runs / "exact"), str(runs / "other")])
    assert result.claims == ()
    assert "Not all captioners were measured on the same validation pictures with the same captions" in result.text()


def test_seeds_of_captioners_together(tmp_path: Path) -> None:
    for rate, right in ((1e-3, 40), (1e-2, 5)):
        for seed in (0, 1):
            predictions = captions(60, range(right + seed), range(0))
            made_captioner(tmp_path / f"{rate}-{seed}", predictions, [HUMANS] * 60, learning_rate=rate, seed=seed)
    settings = {claim.setting: claim.verdict for claim in compare([str(tmp_path)]).over_seeds}
    claim_text = "learning rate 0.001 gives human captions word for word more often than learning rate 0.01"
    assert settings[claim_text] == "supported" and len(settings) == 2


def test_captions_that_contradict_the_metrics_are_refused(runs: Path) -> None:
    table = runs / "exact" / "captions.csv"
    whole = table.read_text()
    table.write_text(whole.replace(HUMANS[1], FAR, 1))
    with pytest.raises(
        RunError, match=r"29 captions of captions\.csv are word for word human ones, metrics.json says 30"
    ):
        compare([str(runs)])
    table.write_text("\n".join(whole.splitlines()[:-1]) + "\n")
    with pytest.raises(RunError, match="of other pictures than data"):
        compare([str(runs)])
    table.write_text("filename,label\n")
    with pytest.raises(RunError, match="no table of captions"):
        compare([str(runs)])
    table.unlink()
    with pytest.raises(RunError, match=r"has no captions\.csv"):
        compare([str(runs)])


def test_without_scorers_only_words_are_tested(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_ngrams, "scorers", lambda: None)
    result = compare([str(runs)])
    assert {claim.question for claim in result.claims} == {"exact"} and len(result.claims) == 3
    assert "Nearness to human captions was not tested." in result.text()
