"""``vitrine predict``: every picture of a folder in name order, in constant memory, to be interrupted at any time."""

from __future__ import annotations

import csv
import gc
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrine.classify import inference
from vitrine.classify.predict import predict
from vitrine.data.loader import Batch
from vitrine.errors import DataError, RunError

Command = Callable[..., tuple[int, str, str]]


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


@pytest.fixture
def pictures(small_scenes: Path, tmp_path: Path) -> Path:
    """Forty pictures in two folders; two of them cannot be read."""
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    for number, path in enumerate(sorted((small_scenes / "test").rglob("*.png"))[:40]):
        shutil.copyfile(
            path, tmp_path / "pictures" / ("more" if number % 4 == 0 else ".") / f"{97 * number % 100:02}.png"
        )
    (tmp_path / "pictures" / "31 broken.png").write_bytes(b"no picture")
    (tmp_path / "pictures" / "zz broken.jpg").write_bytes(b"")
    (tmp_path / "pictures" / "notes.txt").write_text("no picture, and not taken for one")
    return tmp_path / "pictures"


def test_every_picture_in_name_order(small_run: Path, pictures: Path, tmp_path: Path, vitrine_command: Command) -> None:
    status, out, error = vitrine_command("predict", small_run, pictures, "-o", tmp_path / "p.csv")
    assert (status, out) == (0, "")
    assert (tmp_path / "p.csv").read_bytes().startswith(b"filename,label\n")
    table = rows(tmp_path / "p.csv")[1:]
    readable = [p for p in pictures.rglob("*.png") if "broken" not in p.name]
    assert [name for name, _ in table] == sorted(path.relative_to(pictures).as_posix() for path in readable)
    assert {label for _, label in table} <= set((small_run / "labels.txt").read_text().splitlines())
    assert "40 predictions in" in error and "2 pictures could not be read" in error
    assert [row[0] for row in rows(tmp_path / "p.unreadable.csv")] == ["filename", "31 broken.png", "zz broken.jpg"]


def test_labels_against_timm_alone(small_run: Path, pictures: Path, tmp_path: Path) -> None:
    """The probabilities of a model that timm opens, on pixels normalised here."""
    import timm

    predict(str(small_run), pictures, tmp_path / "p.csv", probabilities=True, top=2)
    module = timm.create_model(f"local-dir:{small_run}", pretrained=True).eval()
    mean, std = (torch.tensor(module.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    labels = (small_run / "labels.txt").read_text().splitlines()
    header, *table = rows(tmp_path / "p.csv")
    assert header == [
        "filename", "label", "probability", "top1_label", "top1_probability", "top2_label", "top2_probability"
    ]  # fmt: skip
    for name, label, probability, first, first_probability, second, second_probability in table[::7]:
        pixels = torch.from_numpy(np.array(Image.open(pictures / name).convert("RGB"))).permute(2, 0, 1) / 255
        with torch.inference_mode():
            probabilities_C = module(((pixels - mean) / std)[None])[0].softmax(0)
        values, order = probabilities_C.topk(2)
        assert [labels[i] for i in order] == [first, second] and label == first and probability == first_probability
        assert [float(first_probability), float(second_probability)] == pytest.approx(values.tolist(), abs=2e-5)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 8, 33])
def test_an_interrupted_table_is_continued_to_the_same_bytes(
    after: int, small_run: Path, pictures: Path, tmp_path: Path
) -> None:
    options = {"batch_size": 8, "probabilities": True}
    predict(str(small_run), pictures, tmp_path / "whole.csv", **options)  # type: ignore[arg-type]

    def stop(count: int, total: int) -> None:
        assert total == 42
        if count >= after:
            raise StoppedError

    with pytest.raises(StoppedError):
        predict(str(small_run), pictures, tmp_path / "cut.csv", progress=stop, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "cut.csv").exists(), "a table that is there is whole"
    with pytest.raises(RunError, match="--resume"):
        predict(str(small_run), pictures, tmp_path / "cut.csv", **options)  # type: ignore[arg-type]
    counts: list[int] = []
    result = predict(
        str(small_run),
        pictures,
        tmp_path / "cut.csv",
        resume=True,
        progress=lambda count, _: counts.append(count),
        **options,  # type: ignore[arg-type]
    )
    assert counts[0] > 8, "what was done is not done again"
    assert (tmp_path / "cut.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert (tmp_path / "cut.unreadable.csv").read_bytes() == (tmp_path / "whole.unreadable.csv").read_bytes()
    assert result.table.rows == 40 and len(result.table.unreadable) == 2


def test_one_picture(small_run: Path, pictures: Path, tmp_path: Path) -> None:
    predict(str(small_run), pictures / "97.png", tmp_path / "one.csv")
    predict(str(small_run), pictures, tmp_path / "all.csv")
    (row,) = rows(tmp_path / "one.csv")[1:]
    assert row[0] == "97.png" and row in rows(tmp_path / "all.csv")


def test_nothing_to_predict(small_run: Path, tmp_path: Path, vitrine_command: Command) -> None:
    (tmp_path / "empty").mkdir()
    for images in ("empty", "nowhere"):
        status, out, error = vitrine_command("predict", small_run, tmp_path / images, "-o", tmp_path / "p.csv")
        assert (status, out) == (2, "") and str(tmp_path / images) in error and len(error.splitlines()) <= 2
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_nothing_but_unreadable_pictures(small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    result = predict(str(small_run), tmp_path / "bad", tmp_path / "p.csv")
    assert (result.table.rows, len(result.table.unreadable)) == (0, 1)
    assert (tmp_path / "p.csv").read_bytes() == b"filename,label\n"


def test_more_columns_than_classes_are_all_classes(small_run: Path, pictures: Path, tmp_path: Path) -> None:
    predict(str(small_run), pictures / "97.png", tmp_path / "p.csv", top=500)
    classes = len((small_run / "labels.txt").read_text().splitlines())
    assert len(rows(tmp_path / "p.csv")[0]) == 2 + 2 * classes


def test_a_table_cannot_be_a_folder(small_run: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        predict(str(small_run), pictures, tmp_path)


def test_memory_does_not_grow_with_the_pictures(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2,000 pictures' batches only the one at work is alive, and what is written is not kept."""
    (tmp_path / "many").mkdir()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "many" / "0000.png")
    for number in range(1, 2000):
        (tmp_path / "many" / f"{number:04}.png").hardlink_to(tmp_path / "many" / "0000.png")
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0
    original = inference.eval_batches

    def batches(*arguments: object, **options: object) -> Iterator[Batch]:
        nonlocal most
        for batch in original(*arguments, **(options | {"workers": 0})):  # type: ignore[arg-type]
            alive.append(weakref.ref(batch.pixels_BCHW))
            yield batch
            del batch
            gc.collect(0)
            most = max(most, sum(reference() is not None for reference in alive))

    monkeypatch.setattr(inference, "eval_batches", batches)
    result = predict(str(small_run), tmp_path / "many", tmp_path / "p.csv", batch_size=100)
    assert result.table.rows == 2000 and len(alive) == 20
    assert most <= 2


def test_an_unfinished_run_is_said_to_be_one(small_run: Path, pictures: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    assert not any("has not ended" in note for note in predict(str(run), pictures, tmp_path / "a.csv").notes)
    (run / "metrics.json").unlink()
    (run / "state").mkdir()
    (run / "state" / "training.pt").write_bytes(b"")
    assert any("has not ended" in note for note in predict(str(run), pictures, tmp_path / "b.csv").notes)
