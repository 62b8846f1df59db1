"""Several seeds of one recipe: mean and range by hand, and what is said where there is one seed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.made_runs import made_captioner, made_run

from vitrine.compare.run import compare
from vitrine.compare.seeds import ONE_SEED


def rights(n: int, wrong: int) -> list[bool]:
    return [i >= wrong for i in range(n)]


def test_seeds_of_one_recipe_have_a_mean_and_a_range(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed, wrong in ((0, 10), (1, 30), (2, 14)):
        made_run(runs / f"small-{seed}", rights(100, wrong), seed=seed, batch_size=8)
    made_run(runs / "large-0", rights(100, 50), seed=0, batch_size=64)
    result = compare([str(runs)])
    (spread,) = result.seed_spreads
    assert set(spread.names) == {"small-0", "small-1", "small-2"} and spread.shares_pictures
    assert spread.mean == pytest.approx((0.90 + 0.70 + 0.86) / 3)
    sentence = "3 seeds of one recipe (small-0, small-1, small-2): mean accuracy 0.8200, range 0.7000 to 0.9000."
    for text in (result.text(), result.markdown()):
        assert sentence in text and ONE_SEED not in text
    (row,) = result.to_dict()["seeds"]
    assert row["range"] == [0.7, 0.9] and row["seeds"] == [0, 1, 2] and row["same_pictures"]


def test_a_seed_that_draws_the_split_too_is_said_to(tmp_path: Path) -> None:
    for seed in (0, 1):
        made_run(tmp_path / "runs" / f"s{seed}", rights(20, seed), seed=seed, pictures=f"set {seed}")
    text = compare([str(tmp_path / "runs")]).text()
    assert "2 seeds of one recipe (s0, s1): mean accuracy 0.9750, range 0.9500 to 1.0000. The seed also drew" in text


def test_one_seed_says_nothing_of_another(tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "a", rights(20, 2), batch_size=8)
    made_run(tmp_path / "runs" / "b", rights(20, 3), batch_size=16, seed=1)  # another recipe
    result = compare([str(tmp_path / "runs")])
    assert result.seed_spreads == () and ONE_SEED in result.text()
    assert "95 % interval over pictures" in result.text()


def test_captioners_of_several_seeds(tmp_path: Path) -> None:
    humans = [["a red star", "a star"]] * 6
    for seed in (0, 1):
        made_captioner(tmp_path / "runs" / f"c{seed}", ["a red star"] * 6, humans, seed=seed)
    assert "2 seeds of one recipe (c0, c1): mean word-piece accuracy " in compare([str(tmp_path / "runs")]).text()
