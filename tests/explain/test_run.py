"""``vitrine explain`` and ``vitrine.load``: figures, tables, provenance, errors, on a micro run."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrine
from vitrine.attribution.attention import attention_map
from vitrine.attribution.methods import Method
from vitrine.cli import main
from vitrine.errors import DataError, ModelError, PictureError
from vitrine.explain.run import ExplainSettings, explain
from vitrine.io.figure_folder import MANIFEST
from vitrine.plotting.provenance import read_provenance


@pytest.fixture(scope="module")
def pictures(small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures in two class folders, one of them unreadable, and one at the top."""
    folder = tmp_path_factory.mktemp("pictures")
    for label in ("clover", "pie"):
        (folder / label).mkdir()
        for path in sorted((small_scenes / "test" / label).glob("*.png"))[:2]:
            shutil.copy(path, folder / label)
    (folder / "pie" / "zz.png").write_bytes(b"not a picture")
    Image.new("RGB", (90, 40), "red").save(folder / "wide.jpg")
    return folder


def command(*arguments: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["vitrine", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    output = capsys.readouterr()
    return end.value.code, output.out, output.err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    return lambda *arguments: command(*arguments, capsys=capsys, monkeypatch=monkeypatch)


def test_a_figure_a_picture_a_sheet_and_a_table(run, small_run: Path, pictures: Path, tmp_path: Path) -> None:
    status, out, err = run("explain", small_run, pictures, "-o", tmp_path / "maps")
    assert status == 0
    assert "5 figures" in out
    assert "not readable: pie/zz.png" in err
    paths = sorted(path.relative_to(tmp_path / "maps").as_posix() for path in (tmp_path / "maps").rglob("*.*"))
    stems = sorted(path.relative_to(pictures).with_suffix(".png").as_posix() for path in pictures.rglob("*.*"))
    stems.remove("pie/zz.png")
    assert paths == sorted([*stems, ".vitrine-figures.json", "contact-sheet.png", "maps.csv"])
    rows = list(csv.DictReader((tmp_path / "maps" / "maps.csv").open()))
    assert [row["filename"] for row in rows][-1] == "wide.jpg"
    assert [row["true"] for row in rows] == ["clover", "clover", "pie", "pie", ""]
    assert all(row["verdict"] == "" and float(row["prefix_share"]) < 1 for row in rows)


def test_the_map_is_the_models_attention_on_what_it_sees(small_run: Path, pictures: Path) -> None:
    model = vitrine.load(small_run)
    path = next((pictures / "pie").glob("0*.png"))
    explanation = model.explain(path)
    pixels_HWC = torch.from_numpy(np.array(Image.open(path))).float() / 255
    spec = model.classifier.spec
    pixels_BCHW = ((pixels_HWC - torch.tensor(spec.mean)) / torch.tensor(spec.std)).permute(2, 0, 1)[None]
    with torch.no_grad():
        probabilities = model.classifier.module(pixels_BCHW).softmax(-1)[0]
    assert explanation.prediction.label == model.labels[int(probabilities.argmax())]
    assert explanation.prediction.probability == pytest.approx(float(probabilities.max()), abs=1e-5)
    assert model.predict(path) == explanation.prediction
    expected = attention_map(model.classifier.module, pixels_BCHW).scores_BRC[0].numpy()
    np.testing.assert_allclose(explanation.map, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(explanation.picture.map_RC, expected / expected.mean(), rtol=1e-4)
    assert explanation.to_image().shape == (32, 32)


def test_results_show_themselves(small_run: Path, pictures: Path, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    model = vitrine.load(str(small_run))
    explanation = model.explain(pictures / "wide.jpg", method="relevance", target="pie")
    assert explanation.target == "pie"
    assert explanation._repr_png_().startswith(b"\x89PNG")
    axes = Figure().subplots()
    assert explanation.plot(axes) is axes
    assert len(axes.images) > 0
    assert np.isnan(explanation.to_image()[:, 0]).all()  # a wide picture is cut left and right
    assert explanation.verdict.flag in ("depends", "not shown", "cannot tell")
    assert explanation.verdict.label == "pie"
    assert explanation.overlay().size == Image.open(explanation.save(tmp_path / "wide.png")).size
    assert len(model.predict(pictures / "wide.jpg").top(3)) == 3
    assert sum(p for _, p in model.predict(pictures / "wide.jpg").top(99)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "method", ["attention", "gradcam", "occlusion", "value-output", "rise"]
)  # a unit each, and layers
def test_the_command_in_a_figure_draws_the_same_figure(
    method: str, run, small_run: Path, pictures: Path, tmp_path: Path
) -> None:
    target = ["--target", "drop"] if Method(method).for_a_class else ["--heads", "1"] if method == "attention" else []
    shutil.copytree(pictures / "clover", tmp_path / "in" / "clover")
    status, _, _ = run("explain", small_run, tmp_path / "in", "-o", tmp_path / "maps", "--method", method, *target)
    assert status == 0
    figure = next((tmp_path / "maps" / "clover").glob("*.png"))
    before = figure.read_bytes()
    origin = read_provenance(figure)
    assert origin["vitrine:method"] == method
    figure.unlink()
    status, _, _ = run(*shlex.split(origin["vitrine:command"])[1:])
    assert status == 0
    assert read_provenance(figure)["vitrine:picture-sha256"] == origin["vitrine:picture-sha256"]
    again, first = np.asarray(Image.open(figure)), np.asarray(Image.open(io.BytesIO(before)))
    # The name in the caption lacks the folder when one picture is given; all below it is the same, but for the last
    # bits of a picture that was mapped alone and in a batch.
    assert again.shape == first.shape
    difference = np.abs(again[200:].astype(int) - first[200:])
    assert difference.max() <= 2, (difference.max(), difference.any(axis=-1).mean())
    assert difference.any(axis=-1).mean() < 0.001


def test_heads_matrix_check_and_svg(run, small_run: Path, pictures: Path, tmp_path: Path) -> None:
    options = ("--heads", "each", "--matrix", "--check", "--format", "svg", "--json")
    status, out, _ = run("explain", small_run, pictures / "clover", "-o", tmp_path, *options)
    assert status == 0
    content = json.loads(out)
    assert len(content["pictures"]) == 2
    for picture in content["pictures"]:
        path = Path(picture["figure"])
        for figure in (path, path.with_name(f"{path.stem}-heads.svg"), path.with_name(f"{path.stem}-matrix.svg")):
            assert figure.read_text().startswith("<?xml")
            assert read_provenance(figure)["vitrine:method"] == "attention"
        assert np.array(picture["map"]).shape == (4, 4)
        verdict = picture["verdict"]
        assert verdict["flag"] in ("depends", "not shown", "cannot tell")
        assert verdict["label"] == picture["predicted"]
        assert verdict["answer"] == pytest.approx(picture["probability"], abs=1e-5)
        assert 1 / (verdict["draws"] + 1) - 1e-6 <= verdict["p"] <= 1
        assert picture["true"] is None and picture["wrong_answer"] is None


def test_a_wrong_answer_is_called_one_wherever_its_map_goes(
    run, small_run: Path, pictures: Path, tmp_path: Path
) -> None:
    """On the figure, in the JSON, in the summary and in Python; a right answer, or an unknown truth, is not."""
    status, out, _ = run("explain", small_run, pictures, "-o", tmp_path / "maps")
    wrong = re.findall(r"Wrong answers, whose maps explain wrong answers: \d+ \((.*)\)", out)
    answers = {path: vitrine.load(small_run).explain(path) for path in sorted(pictures.glob("*/0*.png"))}
    names = [
        str(path.relative_to(pictures))
        for path, explanation in answers.items()
        if explanation.prediction.label != path.parent.name
    ]
    assert status == 0 and names and wrong == [", ".join(names)]
    for path, explanation in answers.items():
        is_wrong = str(path.relative_to(pictures)) in names
        sentence = (
            f"explains a wrong answer: {explanation.prediction.label}, where the true label is {path.parent.name}"
        )
        assert any(sentence in note for note in explanation.picture.notes) is is_wrong
    status, out, _ = run("explain", small_run, pictures, "-o", tmp_path / "again", "--json")
    wrong_answers = {each["filename"]: each["wrong_answer"] for each in json.loads(out)["pictures"]}
    assert wrong_answers == {str(p.relative_to(pictures)): str(p.relative_to(pictures)) in names for p in answers} | {
        "wide.jpg": None
    }


def test_one_scale_for_all_pictures_unless_stretched(small_run: Path, pictures: Path, tmp_path: Path) -> None:
    explain(str(small_run), pictures, tmp_path / "shared", ExplainSettings(), batch_size=2)
    scales = {
        json.loads(read_provenance(path)["vitrine:options"])["scale"] for path in (tmp_path / "shared").rglob("*.png")
    }
    assert len(scales) == 1
    assert scales.pop() >= 2
    explain(str(small_run), pictures / "wide.jpg", tmp_path / "own", ExplainSettings(stretch=True))
    assert json.loads(read_provenance(tmp_path / "own" / "wide.png")["vitrine:options"])["stretch"] is True


def test_pictures_of_one_stem_do_not_overwrite_each_other(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for ending in ("png", "jpg"):
        Image.new("RGB", (32, 32), "blue").save(tmp_path / "in" / f"a.{ending}")
    result = explain(str(small_run), tmp_path / "in", tmp_path / "out", ExplainSettings())
    assert sorted(picture.figure.name for picture in result.pictures) == ["a.png", "a.png.png"]


def test_what_was_drawn_before_an_interruption_stays(
    small_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain(str(small_run), pictures, tmp_path, ExplainSettings(), batch_size=2, progress=interrupt)
    assert len(list(tmp_path.rglob("*.png"))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["IMAGES"], "-o is missing"),
        (["-o", "OUT"], "Give pictures to draw maps for"),
        (["IMAGES", "--score", "IMAGES", "-o", "OUT"], "Give pictures to draw maps for"),
        (["IMAGES", "-o", "OUT", "--method", "magic"], "no method 'magic': expected attention, rollout"),
        (["IMAGES", "-o", "OUT", "--heads", "9"], "no head 9"),
        (["IMAGES", "-o", "OUT", "--heads", "many"], "heads = 'many' cannot be used"),
        (["IMAGES", "-o", "OUT", "--layer", "7"], "no layer 7: the model has 2"),
        (["IMAGES", "-o", "OUT", "--query", "4,0"], "no patch in row 4, column 0: the grid has rows 0 to 3"),
        (["IMAGES", "-o", "OUT", "--query", "0,a"], "expected ROW,COLUMN, counted from 0"),
        (["IMAGES", "-o", "OUT", "--query", "sky"], "expected auto, class, distillation, pool or ROW,COLUMN"),
        (["IMAGES", "-o", "OUT", "--method", "relevance", "--target", "dog"], "no class 'dog'"),
        (["IMAGES", "-o", "OUT", "--format", "pdf"], "expected png or svg"),
        (
            ["IMAGES", "-o", "OUT", "--method", "rollout", "--heads", "max"],
            "--heads is an option of attention; rollout would ignore it",
        ),
        (
            ["IMAGES", "-o", "OUT", "--method", "rollout", "--method", "gradcam", "--matrix"],
            "where one method is drawn by itself",
        ),
        (["NOWHERE", "-o", "OUT"], "no file or folder"),
    ],
)
def test_errors_are_two_lines_at_most(
    options: list[str], message: str, run, small_run: Path, pictures: Path, tmp_path: Path
) -> None:
    names = {"IMAGES": str(pictures), "OUT": str(tmp_path / "out"), "NOWHERE": str(tmp_path / "nowhere")}
    status, out, err = run("explain", small_run, *[names.get(option, option) for option in options])
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) <= 3
    assert out == ""
    assert not list(tmp_path.rglob("*.png"))


def test_only_unreadable_pictures_are_an_error(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="None of the 1 picture can be read"):
        explain(str(small_run), tmp_path / "in", tmp_path / "out", ExplainSettings())
    model = vitrine.load(small_run)
    for ask in (model.predict, model.explain):
        with pytest.raises(PictureError, match="the file is empty"):
            ask(tmp_path / "in" / "a.png")
        with pytest.raises(DataError, match="is a folder"):
            ask(tmp_path)
    with pytest.raises(ModelError, match="no class 'dog'"):
        model.explain(tmp_path / "in" / "a.png", "relevance", target="dog")


LONG_NAMES = (
    f"{'n' * 240}.png",
    f"{'n' * 250}x.png",
    f"{'文' * 83}.png",
    f"{'é' * 125}.png",
    f"{'s' * 235}/{'n' * 251}.png",
)


def test_the_longest_names_have_figures(small_run: Path, pictures: Path, tmp_path: Path) -> None:
    """One name of 244 bytes ended the call; the figures of heads and of matrices have longer names still."""
    for name in LONG_NAMES:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / "wide.jpg", path)
    settings = ExplainSettings(each_head=True, matrix=True)
    result = explain(str(small_run), tmp_path / "in", tmp_path / "out", settings)
    assert {picture.name for picture in result.pictures} == set(LONG_NAMES) and not result.unwritten
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == 3 * len(LONG_NAMES) + 3 and not [path for path in files if path.name.endswith(".part")]
    assert all(picture.figure.is_file() for picture in result.pictures)


def test_a_figure_that_cannot_be_written_does_not_end_the_others(
    run, small_run: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    (out / "wide.png").mkdir(parents=True)
    (out / "pie").write_text("a file where a folder has to be")
    status, shown, err = run("explain", small_run, pictures, "-o", out, "--check")
    assert status == 0 and "2 figures" in shown
    assert "no figure: wide.jpg: its figure cannot be written: Is a directory" in err
    assert "3 figures could not be written." in err and "not readable: pie/zz.png" in err
    assert "1 picture could not be read" in shown
    status, _, err = run("explain", small_run, pictures / "wide.jpg", "-o", out, "--check")
    assert status == 2 and "None of the 1 picture has a figure, for example wide.jpg: its figure cannot be" in err


def test_what_would_end_every_figure_ends_the_first(
    small_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(import_module("vitrine.explain.run"), "save_map_figure", full)
    with pytest.raises(OSError, match="No space left"):
        explain(str(small_run), pictures, tmp_path / "out", ExplainSettings())


def test_figures_of_another_method_do_not_stay_beside_new_ones(
    run, small_run: Path, pictures: Path, tmp_path: Path
) -> None:
    maps, clover = tmp_path / "maps", pictures / "clover"
    assert run("explain", small_run, clover, "-o", maps, "--heads", "each")[0] == 0
    first = {path: path.read_bytes() for path in maps.iterdir()}
    status, _, err = run("explain", small_run, clover, "-o", maps, "--method", "rollout")
    assert status == 2 and "of another call: vitrine explain" in err and "--replace" in err
    assert {path: path.read_bytes() for path in maps.iterdir()} == first
    assert run("explain", small_run, clover, "-o", maps, "--method", "rollout", "--replace")[0] == 0
    assert not list(maps.glob("*-heads.png"))
    listed = set(json.loads((maps / MANIFEST).read_text())["files"])
    assert listed == {path.name for path in maps.iterdir()} - {MANIFEST}
    # The one picture alone, into the same folder: its figure anew, the table as it was.
    table = (maps / "maps.csv").read_text()
    assert run("explain", small_run, next(clover.glob("*.png")), "-o", maps, "--method", "rollout")[0] == 0
    assert (maps / "maps.csv").read_text() == table
    assert run("explain", small_run, pictures / "wide.jpg", "-o", maps, "--method", "rollout")[0] == 0
    assert (maps / "maps.csv").read_text().startswith(table)
    assert len((maps / "maps.csv").read_text().splitlines()) == len(table.splitlines()) + 1
