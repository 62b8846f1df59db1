"""Shards of captioned pictures: what is written is what files say, and a captioner learns the same from both."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.damaged_shards import damage_first_picture

from vitrine.config import CaptionSpec, Recipe, named_transforms, recipe_to_toml
from vitrine.config.preprocessing import CaptionInput
from vitrine.data import loader as loading
from vitrine.data.batch_plan import BatchShard
from vitrine.data.captions.datasets import open_captions
from vitrine.data.captions.transforms import CaptionTrainTransform, CaptionTransform
from vitrine.data.loader import PictureLoader
from vitrine.data.samples import clean_caption
from vitrine.data.scenes import write_scenes
from vitrine.data.shards.index import Shard
from vitrine.data.shards.reader import MAX_SHARD_TEXT_BYTES, read_members, read_shard
from vitrine.data.shards.stream import ShardSplit
from vitrine.data.sources import open_data
from vitrine.errors import DataError, RecipeError
from vitrine.shards import write_shards
from vitrine.train.captioner import CaptionerTask
from vitrine.train.data import ShardedBatches, prepare_captions
from vitrine.train.loop import StepDone
from vitrine.train.run import train
from vitrine.train.settings import BatchSettings, DataSettings, TaskSettings

webdataset = pytest.importorskip("webdataset", reason="webdataset comes with the extra [shards]")

Command = Callable[..., tuple[int, str, str]]
COUNTS = {"train": 45, "validation": 13, "test": 7}
SPEC = CaptionSpec(
    vocabulary_size=120, width=32, heads=2, encoder_layers=1, decoder_layers=1, feed_forward=64, dropout=0.1, longest=30
)
RESULTS = ("model.safetensors", "history.jsonl", "metrics.json", "captions.csv", "tokenizer.json", "config.json")


def recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {
        "name": "micro",
        "model": "vit_tiny_patch16_224",
        "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
        "pretrained": False,
        "image_size": 32,
        "transforms": named_transforms("scenes"),
        "caption": SPEC,
        "batch_size": 8,
        "epochs": 2,
        "learning_rate": 2e-3,
        "shuffle_buffer": 12,
        "workers": 0,
        "precision": "fp32",
    }
    return Recipe(**{**settings, **changes})


def same_results(one: Path, other: Path) -> None:
    for name in RESULTS:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", "new", COUNTS, size=32)


@pytest.fixture(scope="module")
def shards(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "scenes"
    write_shards(str(scenes), folder, megabytes=0.03, captions=True)
    return folder


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random changes, and captions that are drawn: both follow from seed, epoch and place."""
    run = tmp_path_factory.mktemp("runs") / "shards"
    train(str(shards), recipe(caption=replace(SPEC, captions_a_picture=2)), run)
    return run


# What is written


def test_shards_hold_every_picture_with_its_bytes_name_and_captions(scenes: Path, shards: Path) -> None:
    """Read by the library whose layout it is."""
    data = open_captions(str(scenes))
    for split, count in COUNTS.items():
        expected = {each.name: (each.picture.read_bytes(), list(each.captions)) for each in data.splits[split]}
        urls = sorted(str(path) for path in shards.glob(f"{split}-*.tar"))
        rows = list(webdataset.WebDataset(urls, shardshuffle=False))
        contents = {json.loads(row["json"])["name"]: (row["png"], row["txt"].decode().split("\n")) for row in rows}
        assert len(rows) == len(contents) == count and contents == expected
        assert not any("cls" in row for row in rows)
    index = json.loads((shards / "index.json").read_text())
    assert index["captions"] is True and index["labels"] == []
    assert all(
        row["bytes"] == (shards / row["file"]).stat().st_size <= 30_000 + 10 * tarfile.RECORDSIZE
        for rows in index["splits"].values()
        for row in rows
    )


def test_splits_that_are_listed_are_those_of_the_files_in_their_order(scenes: Path, shards: Path) -> None:
    direct, from_shards = open_captions(str(scenes)), open_captions(str(shards))
    for split in ("validation", "test"):
        assert [(s.name, s.captions) for s in from_shards.splits[split]] == [
            (s.name, s.captions) for s in direct.splits[split]
        ]
    stream_samples = [
        s for part in stream_of(shards).batches(batch_size=9, seed=0, epoch=0, buffer=5) for s in part.samples
    ]
    assert {s.name: s.captions for s in stream_samples} == {s.name: s.captions for s in direct.splits["train"]}
    assert sorted(stream_of(shards).captions()) == sorted(s.captions for s in direct.splits["train"])


def stream_of(shards: Path) -> ShardSplit:
    pictures = open_captions(str(shards)).splits["train"]
    assert isinstance(pictures, ShardSplit)
    return pictures


STRANGE = (
    ' "quoted", said  it\t',
    "dödö\u2028next\x85line\x0b!",
    "\ufeffmark",
    "same",
    "same",
    "a\\nb",
    "日本 🐈",
    "\u202eleft",
)


def table_of(folder: Path, pictures: int, captions: tuple[str, ...] = STRANGE) -> Path:
    """A folder with captions.jsonl, without splits."""
    folder.mkdir(parents=True)
    rows = []
    for i in range(pictures):
        Image.new("RGB", (9, 9), (i, 0, 0)).save(folder / f"{i:02}.png")
        rows.append({"path": f"{i:02}.png", "captions": [*captions, f"number {i}"]})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_captions_and_a_split_that_is_made_are_those_of_the_files(tmp_path: Path) -> None:
    """Whatever the captions are made of; and a split by another seed is another one."""
    data = table_of(tmp_path / "data", 20)
    for seed in (0, 4):
        write_shards(str(data), tmp_path / f"out {seed}", seed=seed)
        direct, from_shards = open_captions(str(data), seed=seed), open_captions(str(tmp_path / f"out {seed}"))
        assert {s.name: s.captions for s in from_shards.splits["validation"]} == {
            s.name: s.captions for s in direct.splits["validation"]
        }
        assert sorted(stream_of(tmp_path / f"out {seed}").captions()) == sorted(
            s.captions for s in direct.splits["train"]
        )
        assert len(direct.splits["validation"]) == 4 and len(direct.splits["train"][0].captions) == len(STRANGE) + 1
    validation_names = [
        {s.name for s in open_captions(str(tmp_path / f"out {seed}")).splits["validation"]} for seed in (0, 4)
    ]
    assert validation_names[0] != validation_names[1]


def tar_of(members: list[tuple[str, bytes]]) -> io.BytesIO:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    data.seek(0)
    return data


def png() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    return data.getvalue()


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_a_caption_comes_back_as_it_is_read_from_files(texts: list[str]) -> None:
    captions = tuple(line for text in texts if (line := clean_caption(text)))
    (member,) = read_members(tar_of([("a.png", png()), ("a.txt", "\n".join(captions).encode())]))
    assert member.captions == captions


def test_a_stopped_run_goes_on_to_the_same_bytes_unless_a_caption_changed(tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(done: int, _: int) -> None:
        if done == 12:
            raise StoppedError

    data = table_of(tmp_path / "data", 20)
    write_shards(str(data), tmp_path / "whole", megabytes=0.02)
    with pytest.raises(StoppedError):
        write_shards(str(data), tmp_path / "cut", megabytes=0.02, progress=stop)
    table = data / "captions.jsonl"
    before = table.read_text()
    table.write_text(before.replace("number 7", "number seven"))
    with pytest.raises(DataError, match="unfinished shards of other data or settings"):
        write_shards(str(data), tmp_path / "cut", megabytes=0.02)
    table.write_text(before)
    write_shards(str(data), tmp_path / "cut", megabytes=0.02)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("whole", "cut"))
    assert one == two and len(one) > 3


def test_captions_without_end_are_left_out_and_named(tmp_path: Path) -> None:
    data = table_of(tmp_path / "data", 4, ("word " * (MAX_SHARD_TEXT_BYTES // 5 + 1),))
    table = data / "captions.jsonl"
    table.write_text("\n".join([*table.read_text().split("\n")[:1], *(
        json.dumps({"path": f"{i:02}.png", "caption": "short"}) for i in (1, 2, 3)
    )]))  # fmt: skip
    result = write_shards(str(data), tmp_path / "out")
    assert [name for name, _ in result.unreadable] == ["00.png"] and "the limit in shards" in result.unreadable[0][1]
    assert sum(pictures for _, _, pictures, _ in result.splits) == 3


def test_captions_are_written_where_there_is_a_file_of_them_without_classes(
    scenes: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    table_of(tmp_path / "table", 4)
    write_scenes(tmp_path / "coco", "new", {"train": 4, "validation": 2}, size=32, layout="coco")
    classes = tmp_path / "classes"
    for label in ("cat", "dog"):
        shutil.copytree(tmp_path / "table", classes / label, ignore=lambda *_: ["captions.jsonl"])
    (classes / "dataset-metadata.json").write_text('{"title": "pets"}')
    (classes / "metadata.csv").write_text("file_name,label,caption\ncat/00.png,cat,a cat\ndog/01.png,dog,a dog\n")
    expected = [
        (tmp_path / "table", True),
        (tmp_path / "table" / "captions.jsonl", True),
        (tmp_path / "coco", True),
        (scenes, False),
        (classes, False),
        ("scenes:new?train=3&validation=2&test=1&size=32", False),
    ]
    for number, (data, captions) in enumerate(expected):
        assert write_shards(str(data), tmp_path / f"out {number}").captions is captions, data
    status, out, _ = vitrine_command("shards", expected[-1][0], "--captions", "-o", tmp_path / "asked")
    assert status == 0 and "train: 3 captioned pictures in 1 shard" in out and "--recipe captioner -o" in out
    direct = open_captions(expected[-1][0])  # type: ignore[arg-type]
    assert sorted(stream_of(tmp_path / "asked").captions()) == sorted(tuple(s.captions) for s in direct.splits["train"])
    assert [s.captions for s in open_captions(str(tmp_path / "asked")).splits["test"]] == [
        tuple(s.captions) for s in direct.splits["test"]
    ]
    (tmp_path / "table" / "cat_1.png").write_bytes(png())
    (tmp_path / "table" / "dog_1.png").write_bytes(png())
    for i in range(4):
        (tmp_path / "table" / f"{i:02}.png").unlink()
    assert write_shards(str(tmp_path / "table"), tmp_path / "classes asked", captions=False).captions is False


def test_shards_that_others_wrote(tmp_path: Path) -> None:
    """Lines of .txt, else what the json calls captions or caption; classes beside them do not disturb."""
    (tmp_path / "train-0.tar").write_bytes(tar_of([
        ("a.jpg", png()), ("a.json", b'{"caption": "of the json"}'), ("a.txt", b" one\r\n\n two  words \n"),
        ("b.json", b'{"captions": ["x", 3, " ", "y"]}'), ("b.png", png()),
        ("c.cls", b"1"), ("c.json", b'{"caption": "z", "name": "see.png"}'), ("c.png", png()), ("c.txt", b"\n"),
        ("d.png", png()), ("d.txt", b"\xff\xfe"),
        ("e.png", png()), ("e.txt", b"x" * (MAX_SHARD_TEXT_BYTES + 1)),
        ("f.cls", b"0"), ("f.png", png()),
        ("g.cls", b"dog"), ("g.json", b"[1]"), ("g.png", png()), ("g.txt", b"a dog"),
    ]).getvalue())  # fmt: skip
    data = open_captions(str(tmp_path))
    assert list(stream_of(tmp_path).captions()) == [("one", "two words"), ("x", "y"), ("z",), ("a dog",)]
    assert "classes are called by their numbers" in data.notes[-1]
    shard = stream_of(tmp_path).shards[0]
    samples = [member.sample(shard, None) for member in read_shard(shard)]
    assert samples[2].name == "see.png" and samples[2].label is None and samples[2].picture.read_bytes() == png()
    assert samples[6].captions == ("a dog",) and samples[6].picture.read_bytes() == png(), (
        "the damaged part is not needed"
    )
    for sample, reason in zip(samples[3:6], ("cannot be understood", "the limit", "has no caption"), strict=True):
        with pytest.raises(Exception, match=reason):
            sample.picture.decode()
    labels = [member.sample(shard, 2).label for member in read_shard(shard)]
    assert labels == [None, None, 1, None, None, 0, None], "a text of no use is no matter for classes"
    with tarfile.open(tmp_path / "train-0.tar", "w"):
        pass
    with pytest.raises(DataError, match=r"has a class \(\.cls\) or a caption \(\.txt\)"):
        open_captions(str(tmp_path))


# Training


def test_a_captioner_learns_from_shards_what_it_learns_from_files(
    scenes: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are given in the order in which the stream comes, and nothing is drawn by place: the same bytes."""
    settings = recipe(transforms=named_transforms("none"))
    assert not settings.transforms.is_random and settings.caption.captions_a_picture == 5  # type: ignore[union-attr]
    train(str(shards), settings, tmp_path / "shards")
    place = {sample.name: i for i, sample in enumerate(open_captions(str(scenes)).splits["train"])}

    def as_streamed(n: int, *, seed: int, epoch: int, shuffle: bool, weights_N: object = None) -> np.ndarray:
        if not shuffle:
            return np.arange(n)
        parts = stream_of(shards).batches(batch_size=8, seed=seed, epoch=epoch, buffer=settings.shuffle_buffer)
        order = np.array([place[sample.name] for part in parts for sample in part.samples])
        assert sorted(order) == list(range(n))
        return order

    train(str(scenes), settings, tmp_path / "other order")
    monkeypatch.setattr(loading, "epoch_order", as_streamed)
    train(str(scenes), settings, tmp_path / "files")
    same_results(tmp_path / "files", tmp_path / "shards")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("files", "other order")]
    assert weights[0] != weights[1], "any order would have done"
    direct, from_shards = (json.loads((tmp_path / name / "data.json").read_text()) for name in ("files", "shards"))
    assert from_shards["splits"]["validation"] == direct["splits"]["validation"]
    assert from_shards["splits"]["train"].startswith("shards of 45 pictures (")


def test_resuming_and_workers_change_nothing(run: Path, shards: Path, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 9:  # in the middle of the second epoch
            raise StoppedError

    settings = recipe(caption=replace(SPEC, captions_a_picture=2), checkpoint_minutes=1e-9, workers=1)
    with pytest.raises(StoppedError):
        train(str(shards), settings, tmp_path / "cut", report=stop)
    assert not (tmp_path / "cut" / "metrics.json").exists()
    train(str(shards), settings, tmp_path / "cut", resume=True)
    same_results(run, tmp_path / "cut")


def test_other_verbs_read_the_shards_that_are_listed(
    run: Path, scenes: Path, shards: Path, vitrine_command: Command
) -> None:
    """Only grounding is missing: shards do not say where things are."""
    ours, files = (json.loads(vitrine_command("evaluate", run, data, "--json")[1]) for data in (shards, scenes))
    for part in ("split", "captions", "human_captions"):
        assert ours[part] == files[part], part
    assert ours["split"] == "test" and ours["grounding"]["human"] is None and files["grounding"]["human"] is not None
    status, out, err = vitrine_command("verify", run)
    assert status == 0, out + err
    assert "shards of 45 pictures" in (run / "README.md").read_text()


def test_a_frozen_encoder_is_run_again_and_says_so(shards: Path) -> None:
    frozen_recipe = recipe(tune="head", transforms=named_transforms("none"))
    data = prepare_captions(str(shards), DataSettings.from_recipe(frozen_recipe))
    task = CaptionerTask(TaskSettings.from_recipe(frozen_recipe), frozen_recipe.caption or CaptionSpec(), data)
    assert any("run over all pictures in every epoch" in note for note in task.notes) and task.epoch_pictures == 45
    with pytest.raises(RecipeError, match="come in a stream"):
        train(str(shards), replace(frozen_recipe, views=2), shards.parent / "views")


def test_a_process_whose_pictures_are_all_damaged_lends_one_that_has_a_caption(tmp_path: Path) -> None:
    shards = []
    for name, picture in (("a", b"no"), ("b", png())):
        path = tmp_path / f"train-{name}.tar"
        path.write_bytes(tar_of([(f"{name}.png", picture), (f"{name}.txt", name.encode())]).getvalue())
        shards.append(Shard(str(path), 1))
    changes = CaptionTrainTransform(named_transforms("none"), CaptionTransform(CaptionInput(16)))
    rows = []
    for process in (0, 1):
        settings = BatchSettings.from_recipe(recipe(batch_size=2))
        batches = ShardedBatches(ShardSplit(shards, None), settings, BatchShard(process, 2))
        with PictureLoader(changes, 2, 0) as loader:
            for batch in batches.epoch(loader, 0, 0):
                indices = batch.indices_B.tolist()
                rows.append((batch.is_dummy, len(batch), batches.captions(indices), batches.names(indices)))
    assert sorted(rows) == [(False, 1, [("b",)], ["train-b/b.png"]), (True, 1, [("nothing",)], ["nothing"])]


def test_the_wrong_kind_of_shards_is_refused_in_two_lines(
    scenes: Path, shards: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    write_shards(str(scenes), tmp_path / "labelled")
    for name, settings in (("classes", recipe(caption=None)), ("captions", recipe())):
        (tmp_path / f"{name}.toml").write_text(recipe_to_toml(settings))
    for data, name, message in (
        (shards, "classes", "are shards of captioned pictures, without classes."),
        (tmp_path / "labelled", "captions", "are shards of labelled pictures, without captions."),
    ):
        status, _, err = vitrine_command("train", data, "--recipe", tmp_path / f"{name}.toml", "-o", tmp_path / "run")
        lines = [line for line in err.splitlines() if line.strip()]
        assert status == 2 and message in err and len(lines) == 2 and "vitrine shards DATA --" in lines[1], err
    with pytest.raises(DataError, match="without classes"):
        open_data(str(shards))


def without_captions(shard: Path, numbers: set[int]) -> None:
    """Take the captions of some pictures out of a shard."""
    with tarfile.open(shard) as archive:
        members = [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    texts = [name for name, _ in members if name.endswith(".txt")]
    lost_captions = {texts[number] for number in numbers}
    shard.write_bytes(tar_of([member for member in members if member[0] not in lost_captions]).getvalue())


def test_damage_and_missing_captions_are_named_and_counted(
    shards: Path, tmp_path: Path, vitrine_command: Command
) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "shards"))
    without_captions(copy / "train-000000.tar", {1})
    without_captions(copy / "validation-000000.tar", {0})
    shard = copy / "train-000001.tar"
    damage_first_picture(shard)
    (tmp_path / "micro.toml").write_text(recipe_to_toml(recipe(max_unreadable=0.1, epochs=1)))
    arguments = ("train", copy, "--recipe", tmp_path / "micro.toml", "-o")
    status, _, err = vitrine_command(*arguments, tmp_path / "run")
    assert status == 0 and "2 of 45 pictures could not be read in this epoch." in err, err
    assert "it has no caption (.txt, or captions in .json)" in err
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert [(row["split"], row["reason"]) for row in record["quarantine"]] == [
        ("validation", "it has no caption (.txt, or captions in .json)")
    ]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["n"] == COUNTS["validation"] - 1
    status, out, _ = vitrine_command("evaluate", tmp_path / "run", copy, "--split", "validation", "--json")
    assert status == 0 and len(json.loads(out)["unreadable"]) == 1
    status, _, err = vitrine_command(*arguments, tmp_path / "strict", "--set", "max_unreadable=0.01")
    assert status == 2 and "1 of 13 pictures cannot be read" in err and "Traceback" not in err
    shard.write_bytes(shard.read_bytes()[:3000])  # cut off: what is behind is lost
    status, _, err = vitrine_command(*arguments, tmp_path / "cut")
    assert status == 2 and "of 45 pictures cannot be read" in err and "Traceback" not in err, err
    shard.unlink()
    status, _, err = vitrine_command(*arguments, tmp_path / "gone")
    assert status == 2 and "train-000001.tar cannot be read: No such file" in err and "Traceback" not in err
