"""``vitrine features`` on scenes and the package's own model: figures, table, numbers, other pictures, and refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import vitrine
from vitrine.cli.app import app
from vitrine.data.scenes import write_scenes
from vitrine.errors import DataError, ModelError, UsageError
from vitrine.features.run import FeatureSettings, FeaturesResult, features
from vitrine.plotting.provenance import read_provenance

MODEL = "vitrine/scenes-tiny"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, "new", {"test": 4}, seed=3)
    (folder / "test" / "broken.png").write_bytes(b"no picture")
    return folder / "test"


@pytest.fixture(scope="module")
def result(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> FeaturesResult:
    settings = FeatureSettings(regions=3, query=(-4, 4))
    return features(MODEL, scenes, tmp_path_factory.mktemp("features"), settings)


def test_a_figure_a_picture_a_sheet_and_a_table(result: FeaturesResult, scenes: Path) -> None:
    assert [record.name for record in result.pictures] == sorted(
        path.relative_to(scenes).as_posix() for path in scenes.glob("*/*.png")
    )
    for path in (*(record.figure for record in result.pictures), *result.sheets):
        with Image.open(path) as figure:
            assert min(figure.size) > 200
    rows = list(csv.DictReader(result.table.open(encoding="utf-8")))
    assert [row["filename"] for row in rows] == [record.name for record in result.pictures]
    assert all((result.out / row["figure"]).is_file() for row in rows)
    assert [name for name, _ in result.unreadable] == ["broken.png"]


def test_in_memory_nothing_is_written_and_all_is_the_same(
    result: FeaturesResult, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    in_memory = vitrine.features(MODEL, scenes, regions=3, query=(4, 4), quiet=True)
    assert not list(tmp_path.iterdir())
    assert (in_memory.out, in_memory.table, in_memory.components, in_memory.sheets) == (None, None, None, ())
    for one, other in zip(in_memory, result, strict=True):
        assert (one.name, one.figure, one.outliers) == (other.name, None, other.outliers)
        np.testing.assert_array_equal(one.colours_RC3, other.colours_RC3)
        np.testing.assert_array_equal(one.regions_RC, other.regions_RC)
    assert in_memory.variance_shares == result.variance_shares
    files = ("filename", "outliers")
    assert [[row[name] for name in files] for row in in_memory.table_rows()] == [
        [row[name] for name in files] for row in result.table_rows()
    ]
    assert (
        "components" in in_memory.text()
        and str(result.out) not in in_memory.text()
        and " in None" not in repr(in_memory)
    )
    saved = in_memory[0].save(tmp_path / "one.png")
    with Image.open(saved) as one, Image.open(result.pictures[0].figure) as other:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert in_memory[0]._repr_png_()[:4] == in_memory._repr_png_()[:4] == b"\x89PNG"
    with pytest.raises(UsageError, match="format is of what is written: give out too"):
        vitrine.features(MODEL, scenes, format="svg", quiet=True)


def test_the_numbers_are_of_all_patches(result: FeaturesResult) -> None:
    assert (result.grid, result.channels, result.fitted_pictures) == ((8, 8), 128, 4)
    assert result.untrained is not None
    for shares in (result.variance_shares, result.untrained):
        assert list(shares) == sorted(shares, reverse=True)
        assert 0 < sum(shares) < 1
    assert result.variance_shares != result.untrained
    assert result.agreement is not None
    assert [control.name for control in result.agreement.controls] == [
        "the patches' colours",
        "their places",
        "the untrained model",
    ]
    text = result.text()
    first, together = round(100 * result.variance_shares[0]), round(100 * sum(result.variance_shares))
    assert f"{first}, " in text
    assert f"({together} % together)" in text
    assert result.agreement.sentence in text
    assert json.loads(json.dumps(result.to_dict()))["agreement"]["regions"] == 3


def test_the_asked_patch_is_like_itself(result: FeaturesResult) -> None:
    first = result.pictures[0]
    assert first.similarity_RC is not None
    assert first.similarity_RC[4, 4] == pytest.approx(1, abs=1e-5)
    assert first.similarity_RC.max() == first.similarity_RC[4, 4]
    for record in result.pictures:
        assert record.similarity_RC is not None
        assert np.abs(record.similarity_RC).max() <= 1 + 1e-5


def test_a_figure_says_what_draws_it_again(result: FeaturesResult) -> None:
    texts = read_provenance(result.pictures[1].figure)
    assert texts["vitrine:model"] == MODEL
    assert "--regions 3 --query -4,4" in texts["vitrine:command"]
    assert texts["vitrine:layer"] == "5"


def test_other_pictures_get_the_same_colours(result: FeaturesResult, scenes: Path, tmp_path: Path) -> None:
    again = features(MODEL, scenes, tmp_path / "again", FeatureSettings(components=result.components), limit=2)
    colours = {record.name: record.colours_RC3 for record in result.pictures}
    regions = {record.name: record.regions_RC for record in result.pictures}
    for record in again.pictures:
        assert np.allclose(record.colours_RC3, colours[record.name], atol=1e-5)
        assert np.array_equal(record.regions_RC, regions[record.name])  # type: ignore[arg-type]
    assert again.untrained is None
    assert again.fitted_pictures == 4
    with pytest.raises(DataError, match="one model, layer and input size"):
        features(MODEL, scenes, tmp_path / "other", FeatureSettings(components=result.components, layer=0))


def test_a_larger_input_has_more_patches_and_a_foreground(scenes: Path, tmp_path: Path) -> None:
    settings = FeatureSettings(image_size=128, foreground=True, controls=False, layer=2, kind="svg")
    large = features(MODEL, scenes, tmp_path, settings)
    assert large.grid == (16, 16)
    assert large.layer.startswith("layer 2 of 0 to 5")
    assert large.untrained is None
    for record in large.pictures:
        assert record.foreground is not None
        assert 0 <= record.foreground <= 1
        assert record.figure.read_text("utf-8").startswith("<?xml")


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"regions": 1}, UsageError, "expected 2 to 10"),
        ({"regions": 11}, UsageError, "expected 2 to 10"),
        ({"query_picture": "a.png"}, UsageError, "give a query"),
        ({"components": Path("c"), "regions": 2}, UsageError, "not both"),
        ({"components": Path("missing")}, DataError, "cannot be used as components"),
        ({"layer": 6}, ModelError, "There is no layer 6"),
        ({"query": (8, 0)}, ModelError, "no patch"),
        ({"query": (0, 0), "query_picture": "none.png"}, DataError, "no picture none.png"),
        ({"image_size": 100}, ModelError, "For example 96"),
        ({"masks": Path("nowhere")}, DataError, "no folder of masks"),
    ],
)
def test_what_cannot_be_is_said(
    settings: dict[str, object], error: type[Exception], words: str, scenes: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        features(MODEL, scenes, tmp_path / "out", FeatureSettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--query", "a,b"], "counted from 0"),
        (["--query", "1"], "counted from 0"),
        (["--masks", "m"], "give --regions"),
        (["--category", "cat"], "--category is of --masks"),
        (["--format", "pdf"], "expected png or svg"),
        (["--query-picture", "x"], "needs a patch"),
    ],
)
def test_the_command_line_refuses_what_would_not_act(options: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        CliRunner().invoke(app, ["features", MODEL, "x", "-o", str(tmp_path), *options], catch_exceptions=False)


def test_the_command_line_prints_what_was_made(scenes: Path, tmp_path: Path) -> None:
    words = ["features", MODEL, str(scenes), "-o", str(tmp_path), "--no-controls", "--limit", "2", "--json"]
    answer = CliRunner().invoke(app, words, catch_exceptions=False)
    assert answer.exit_code == 0
    assert len(json.loads(answer.stdout)["pictures"]) == 2


def test_a_model_and_pictures_in_memory(scenes: Path, tmp_path: Path) -> None:
    paths = sorted(scenes.glob("*/*.png"))[:3]
    module = vitrine.load(MODEL).classifier.module  # type: ignore[union-attr]
    module.train()
    here = vitrine.features(module, [Image.open(path) for path in paths], tmp_path / "here", quiet=True)
    there = vitrine.features(MODEL, paths, tmp_path / "there", controls=False, quiet=True)
    assert module.training
    assert here.untrained is None, "a module in memory is not built anew"
    assert here.variance_shares == pytest.approx(there.variance_shares, abs=1e-5)
    assert "vitrine:command" not in read_provenance(here.pictures[0].figure)
    with pytest.raises(UsageError, match="another size"):
        vitrine.features(module, paths, tmp_path / "large", image_size=128, quiet=True)
