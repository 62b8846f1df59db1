"""``vitrine compare``: what it says of runs agrees with tests computed anew, by hand, from the files of the runs."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from fractions import Fraction
from itertools import combinations, product
from math import comb
from pathlib import Path

import pytest
from support.made_runs import made_captioner, made_run, run_verb

from vitrine.compare.run import ComparisonResult, compare
from vitrine.config import named_transforms
from vitrine.errors import RunError, UsageError
from vitrine.metrics.intervals import wilson
from vitrine.plotting.tables import Table


def mistakes(n: int, *wrong: range) -> list[bool]:
    """Right on n pictures but those in some ranges."""
    return [not any(i in each for each in wrong) for i in range(n)]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Four runs on 200 pictures: two batch sizes with two seeds each; the smaller batch is right more often."""
    folder = tmp_path / "runs"
    made_run(folder / "small-0", mistakes(200, range(10)), batch_size=8, seed=0)
    made_run(folder / "large-0", mistakes(200, range(5, 45)), batch_size=64, seed=0)
    made_run(folder / "small-1", mistakes(200, range(100, 112)), batch_size=8, seed=1)
    made_run(folder / "large-1", mistakes(200, range(110, 125)), batch_size=64, seed=1)
    return folder


def rights(run: Path) -> dict[str, bool]:
    """Who is right, from the files alone."""
    data = json.loads((run / "data.json").read_text())
    true = {row["name"]: data["labels"][row["label"]] for row in data["splits"]["validation"]}
    with (run / "predictions.csv").open(newline="") as stream:
        return {row["filename"]: row["label"] == true[row["filename"]] for row in csv.DictReader(stream)}


def sign_test(b: int, c: int) -> float:
    """2 P(X <= min) by fractions."""
    tail = sum((Fraction(comb(b + c, k), 2 ** (b + c)) for k in range(min(b, c) + 1)), Fraction(0))
    return float(min(Fraction(1), 2 * tail))


def test_claims_agree_with_tests_computed_anew(runs: Path) -> None:
    tables = {run.name: rights(run) for run in runs.iterdir()}
    result = compare([str(runs)])
    raw = {}
    for one, other in combinations(sorted(tables), 2):
        b = sum(tables[one][name] and not tables[other][name] for name in tables[one])
        c = sum(tables[other][name] and not tables[one][name] for name in tables[one])
        raw[frozenset((one, other))] = ((one, b), (other, c), sign_test(b, c))
    # Holm as he wrote it: the k-th smallest of m is compared with 0.05 / (m - k), and the first above ends it.
    rejections = set()
    for k, (pair, (*_, p)) in enumerate(sorted(raw.items(), key=lambda item: item[1][2])):
        if p > 0.05 / (len(raw) - k):
            break
        rejections.add(pair)
    assert len(result.claims) == len(raw) == 6 and 0 < len(rejections) < 6
    for claim in result.claims:
        pair = frozenset((claim.first, claim.second))
        alone = dict(raw[pair][:2])
        assert (claim.counts.first, claim.counts.second) == (alone[claim.first], alone[claim.second])
        assert claim.counts.p == pytest.approx(raw[pair][2], rel=1e-12)
        better = alone[claim.first] > alone[claim.second]
        verdict = ("supported" if better else "not supported") if pair in rejections else "undecided"
        assert claim.verdict == verdict, claim.sentence
        assert f": {verdict}" in claim.sentence
        for number in (claim.counts.discordant, claim.counts.first, claim.counts.second, 200):
            assert re.search(rf"\b{number}\b", claim.sentence)


def test_what_is_claimed_is_not_chosen_by_the_result(runs: Path, tmp_path: Path) -> None:
    """The smaller batch is claimed to be better, here and where it is the worse one, whatever the order of the runs."""
    small, large = runs / "small-0", runs / "large-0"
    for order in ((small, large), (large, small)):
        (claim,) = compare(list(map(str, order))).claims
        assert (claim.first, claim.second, claim.verdict) == ("small-0", "large-0", "supported")
        assert (
            "(batch 8 against 64, the rest alike): supported. 40 of 200 pictures decide: 35 only the first"
            in claim.sentence
        )
        assert "corrected" not in claim.sentence, "there is one test"
    made_run(tmp_path / "a", mistakes(200, range(40)), batch_size=8)
    made_run(tmp_path / "b", mistakes(200), batch_size=64)
    (claim,) = compare([str(tmp_path / "b"), str(tmp_path / "a")]).claims
    assert claim.first == "a" and claim.verdict == "not supported"
    assert "not supported (b is the better one). 40 of 200" in claim.sentence
    made_run(tmp_path / "c", mistakes(200), batch_size=16, epochs=3, pretrained=False)
    (claim,) = compare([str(tmp_path / "c"), str(tmp_path / "b")]).claims
    assert (claim.first, claim.second) == ("c", "b"), "several settings differ: the one that was named first"
    assert claim.verdict == "undecided" and "both are right on the same 200 of 200 pictures" in claim.sentence


def test_switches_and_seeds(tmp_path: Path) -> None:
    made_run(tmp_path / "a", mistakes(50), pretrained=False)
    made_run(tmp_path / "b", mistakes(50, range(3)), pretrained=True)
    made_run(tmp_path / "c", mistakes(50, range(5)), pretrained=True, seed=3)
    sentences = [claim.sentence for claim in compare([str(tmp_path)]).claims]
    assert any(
        s.startswith("b is better than a (pretrained yes against no, the rest alike): undecided") for s in sentences
    )
    assert any(s.startswith("b is better than c (seed 0 against 3, the rest alike): undecided") for s in sentences)


def test_seeds_together(runs: Path) -> None:
    result = compare([str(runs)])
    (claim,) = result.over_seeds
    assert claim.setting == "batch 8 is better than batch 64"
    assert dict(claim.verdicts) == {0: "supported", 1: "undecided"} and claim.verdict == "undecided"
    assert "undecided over 2 seeds (seed 0: supported, seed 1: undecided)" in result.text()


def test_seeds_together_say_what_else_the_pair_has(tmp_path: Path) -> None:
    """Two batches and two learning rates: a claim on the batch names the learning rate that both have."""
    for batch, rate, seed in product((8, 16), (1e-3, 1e-2), (0, 1)):
        right = mistakes(100, range(batch * 2))
        made_run(tmp_path / f"{batch}-{rate}-{seed}", right, batch_size=batch, learning_rate=rate, seed=seed)
    claims = {claim.setting: claim.verdict for claim in compare([str(tmp_path)]).over_seeds}
    assert claims["batch 8 is better than batch 16 (with learning rate 0.01)"] == "supported"
    assert claims["learning rate 0.001 is better than learning rate 0.01 (with batch 8)"] == "undecided"
    assert len(claims) == 6, "all pairs of four settings"


def test_the_table_shows_what_differs_and_what_came_out(runs: Path, tmp_path: Path) -> None:
    result = compare([str(runs)])
    assert [row.name for row in result.rows] == ["small-0", "small-1", "large-1", "large-0"], "by accuracy"
    always = ("model", "input", "pretrained", "batch", "learning rate", "weight decay", "transforms", "epochs")
    assert tuple(result.rows[0].settings) == (*always, "seed") and set(result.varied_settings) == {"batch", "seed"}
    assert result.rows[3].settings["batch"] == 64 and result.rows[0].settings["input"] == 32
    outcome = result.rows[3].outcome()
    low, high = wilson(160, 200).low, wilson(160, 200).high
    assert outcome["accuracy"] == "0.8000" and outcome["95 % interval over pictures"] == f"{low:.4f} to {high:.4f}"
    assert (outcome["pictures/s"], outcome["peak MiB"], outcome["seconds"]) == (25, 300, 10)
    # The parts of transforms are shown only where their name does not tell.
    tfm1 = named_transforms("tfm1")
    made_run(tmp_path / "t1", mistakes(20), transforms=tfm1)
    made_run(tmp_path / "t2", mistakes(20), transforms=named_transforms("tfm2"))
    assert compare([str(tmp_path / "t1"), str(tmp_path / "t2")]).varied_settings == ("transforms",)
    made_run(tmp_path / "t3", mistakes(20), transforms=type(tfm1)(**{**vars(tfm1), "rotation": 5.0}))
    result = compare([str(tmp_path / "t1"), str(tmp_path / "t3")])
    assert result.varied_settings == ("transforms.rotation",)
    assert "t3 is better than t1 (transforms.rotation 5 against 20" in result.claims[0].sentence


def test_every_format_has_every_run(runs: Path, tmp_path: Path) -> None:
    result = compare([str(runs)], out=tmp_path / "out")
    read = list(csv.DictReader(io.StringIO(result.csv().decode())))
    assert [(row["run"], row["batch"], row["accuracy"]) for row in read][::3] == [
        ("small-0", "8", "0.9500"),
        ("large-0", "64", "0.8000"),
    ]
    assert result.markdown().count("\n| ") == 5, "a rule and four runs"
    latex = result.latex()
    assert r"95 \% interval" in latex and latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    assert latex.count(r"\\") == 5 + 7
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [run["run"] for run in content["runs"]] == [row.name for row in result.rows]
    assert len(content["tests"]) == 6 and content["tests"][0]["sentence"] in result.text()
    tests = list(csv.DictReader((tmp_path / "out" / "tests.csv").open()))
    assert [float(row["p (Holm)"]) for row in tests] == [claim.corrected_p for claim in result.claims]
    names = {path.name for path in result.paths}
    assert names == {path.name for path in (tmp_path / "out").iterdir()} >= {"curves.png", "accuracy.png", "tests.csv"}
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_latex_escapes() -> None:
    table = Table(("a_b", "n"), (("50 % & $x$ #1 {y} ~ ^ \\z", 1), ("B", 2)), final=1)
    lines = table.latex().splitlines()
    assert lines[0] == r"\begin{tabular}{lr}" and lines[2] == r"a\_b & n \\"
    latex_row = r"50 \% \& \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z & 1 \\"
    assert lines[4] == latex_row and lines[5] == r"\textbf{B} & \textbf{2} \\"


def test_other_pictures_or_labels_are_not_tested(runs: Path, tmp_path: Path) -> None:
    made_run(tmp_path / "other", mistakes(200), pictures="another set")
    made_run(tmp_path / "renamed", mistakes(200), labels=("cat", "hound"))
    result = compare([str(runs / "small-0"), str(runs / "large-0"), str(tmp_path / "other"), str(tmp_path / "renamed")])
    assert len(result.claims) == 1 and len(result.groups) == 3
    text = result.text()
    assert "Runs of different groups are not tested against one another" in text
    assert "same validation pictures with other labels" in text


def test_what_is_not_finished_is_named(runs: Path) -> None:
    (runs / "large-1" / "metrics.json").unlink()
    failed_run = runs / "broken"
    failed_run.mkdir()
    (failed_run / "failed.json").write_text(json.dumps({"error": "The loss became nan.\nmore"}))
    (runs / "notes").mkdir()
    result = compare([str(runs)])
    reasons = {each.name: each.reason for each in result.skipped_folders}
    assert reasons == {
        "broken": "it failed: The loss became nan.",
        "large-1": "its training has not ended (2 epochs so far)",
    }
    assert "Left out: broken: it failed: The loss became nan." in result.text()
    reasons = {each.name: each.reason for each in compare([str(runs / "*")]).skipped_folders}
    assert reasons["notes"] == "it is not a run that vitrine train wrote", "a pattern named it, so that it is named"


def test_folders_patterns_and_names(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "small-0", tmp_path / "again" / "small-0")
    result = compare([str(runs / "small-*"), str(tmp_path / "again"), str(runs / "small-0")])
    assert sorted(row.name for row in result.rows) == ["again/small-0", "runs/small-0", "runs/small-1"]
    assert len(compare([str(tmp_path / "**")]).rows) == 5, "each once, however many patterns find it"
    for reference, message in (("nowhere", "There is no folder"), ("no*where", "No folder is called like")):
        with pytest.raises(RunError, match=message):
            compare([str(tmp_path / reference)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="is no run and holds none"):
        compare([str(tmp_path / "empty")])


def test_files_that_do_not_fit_one_another_are_refused(runs: Path) -> None:
    table = runs / "small-0" / "predictions.csv"
    whole = table.read_text()
    lines = whole.splitlines(keepends=True)
    other_label = lines[100].replace("cat", "dog") if "cat" in lines[100] else lines[100].replace("dog", "cat")
    table.write_text("".join([*lines[:100], other_label, *lines[101:]]))
    with pytest.raises(RunError, match=r"gives an accuracy of 0.9450, metrics.json says 0.9500"):
        compare([str(runs)])
    table.write_text("".join(lines[:-1]))
    with pytest.raises(RunError, match="of other pictures than data"):
        compare([str(runs)])


@pytest.mark.parametrize("name", ["data.json", "metrics.json"])
@pytest.mark.parametrize("content", ["{}", "", '{"splits": {"train": []}}'])
def test_damaged_files_are_named(name: str, content: str, runs: Path) -> None:
    (runs / "small-0" / name).write_text(content)
    with pytest.raises(RunError, match=name) as error:
        compare([str(runs)])
    assert len(str(error.value).splitlines()) <= 2


def test_captioners_are_listed_apart(runs: Path) -> None:
    folder = made_captioner(
        runs / "captioner", ["a cat", "a dog", "two dogs"], [["a cat"], ["A dog."], ["a dog"]], exact=2
    )
    result = compare([str(runs)])
    assert len(result.rows) == 4 and len(result.claims) == 6
    (row,) = result.captioners
    assert (row.name, row.accuracy, row.pieces, row.exact) == ("captioner", 0.625, 30, 2)
    text = result.text()
    assert "0.6250" in text and "Captioners are listed apart" in text
    alone = compare([str(folder)])
    assert alone.rows == () and "0.6250" in alone.text() and "0.6250" in alone.markdown() and b"0.6250" in alone.csv()
    (row_content,) = json.loads(json.dumps(result.to_dict()))["captioners"]
    assert row_content["exact_captions"] == 2 and row_content["exact_interval_95"] == [
        wilson(2, 3).low,
        wilson(2, 3).high,
    ]


def test_many_pairs_are_not_all_read_out(tmp_path: Path) -> None:
    for i in range(8):
        made_run(tmp_path / f"run-{i}", mistakes(60, range(i)), seed=i)
    result = compare([str(tmp_path)], out=tmp_path / "out")
    assert len(result.claims) == 28
    assert result.text().count(" is better than ") == 7, "the pairs of the best run"
    assert "of all 28, 0 are decided" in result.text()
    assert "curves.png shows the 7 best of 8 runs" in result.text()
    with (tmp_path / "out" / "tests.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 28


def test_pictures_on_which_two_runs_disagree(runs: Path, tmp_path: Path) -> None:
    result = compare([str(runs / "small-0"), str(runs / "large-0")], pictures=True)
    assert result.disagreements is not None
    differ = [name for name, right in rights(runs / "small-0").items() if right != rights(runs / "large-0")[name]]
    assert [each.name for each in result.disagreements.pictures] == differ and len(differ) == 40
    assert result.csv().decode().splitlines()[:2] == [
        "picture,true,small-0,large-0",
        "validation/0000.png,cat,dog,cat",
    ]
    with pytest.raises(UsageError, match="exactly two runs of classifiers; there are 4"):
        compare([str(runs)], pictures=True)
    # The pictures of a made run are nowhere: a sentence instead of maps.
    result = compare([str(runs / "small-0"), str(runs / "large-0")], pictures=True, out=tmp_path / "out")
    assert "No maps were drawn, as the pictures cannot be opened" in result.text()
    assert not (tmp_path / "out" / "pictures.png").exists()


def test_maps_of_both_runs(small_run: Path, tmp_path: Path) -> None:
    other = with_other_head(small_run, tmp_path / "other")
    result: ComparisonResult = compare([str(small_run), str(other)], pictures=True, out=tmp_path / "out")
    assert result.disagreements is not None and result.disagreements.pictures
    assert tmp_path / "out" / "pictures.png" in result.paths
    assert (tmp_path / "out" / "pictures.png").stat().st_size > 20_000


def with_other_head(run: Path, copy: Path) -> Path:
    """A copy of a run whose classes are mixed up in the head, with the files that its measurement writes."""
    from safetensors.torch import load_file, save_file

    from vitrine.classify.evaluate import evaluate

    shutil.copytree(run, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors["head.weight"] = tensors["head.weight"].roll(1, 0).contiguous()
    save_file(tensors, copy / "model.safetensors")
    reference = json.loads((run / "data.json").read_text())["reference"]
    evaluate(str(copy), reference, split="validation", out=copy / "measured")
    for name in ("metrics.json", "predictions.csv"):
        (copy / "measured" / name).replace(copy / name)
    return copy


def test_the_verb(runs: Path, tmp_path: Path) -> None:
    from vitrine.cli.compare import compare as verb

    result = compare([str(runs)])
    for form, expected in (("text", result.text()), ("markdown", result.markdown()), ("latex", result.latex())):
        assert run_verb(verb, runs, "--format", form) == (0, expected.rstrip("\n") + "\n")
    assert run_verb(verb, runs, "--format", "csv") == (0, result.csv().decode())
    assert json.loads(run_verb(verb, runs, "--json")[1]) == json.loads(json.dumps(result.to_dict()))
    with pytest.raises(UsageError, match="--format html cannot be used: expected text, markdown, csv, latex"):
        run_verb(verb, runs, "--format", "html")


def test_long_names_are_replaced_in_figures(tmp_path: Path) -> None:
    from vitrine.compare.figures import figure_labels

    for batch in (8, 16):
        made_run(tmp_path / f"a-name-that-no-figure-has-room-for-{batch}", mistakes(20, range(batch)), batch_size=batch)
    result = compare([str(tmp_path)])
    labels = figure_labels(result.rows, result.varied_settings)
    assert [labels[row.name] for row in result.rows] == ["batch 8", "batch 16"]
    shorter = compare([str(made_run(tmp_path / "short", mistakes(20)))])
    assert figure_labels(shorter.rows, shorter.varied_settings) == {"short": "short"}


def test_markdown_and_latex_leave_names_as_they_are(tmp_path: Path) -> None:
    made_run(tmp_path / "runs" / "<img src=x>", mistakes(20, range(3)))
    made_run(tmp_path / "runs" / "[x](y)", mistakes(20, range(5)), batch_size=8)
    result = compare([str(tmp_path / "runs")])
    text = result.markdown()
    assert "<img" not in text.replace("\\<img", "") and "[x](y)" not in text
    assert r"\\ [" not in result.latex() and "{[}x](y)" in result.latex()
