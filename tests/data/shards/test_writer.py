"""Shards: what is written is what was there, what is read is each picture once, and nobody's tar file does harm."""

from __future__ import annotations

import functools
import http.server
import io
import json
import pickle
import tarfile
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.damaged_shards import damage_first_picture
from support.stand_in_hub import HTML, Fault, StandInHub

from vitrine.config import Recipe, TransformSpec
from vitrine.data.batch_plan import BatchShard
from vitrine.data.loader import PictureLoader
from vitrine.data.shards import stream as stream_module
from vitrine.data.shards.dataset import expand_braces, find_shards, is_shards, open_shards
from vitrine.data.shards.index import Shard, parse_index, read_text
from vitrine.data.shards.reader import read_members, read_shard
from vitrine.data.shards.stream import ShardSplit, ShuffleBuffer, assign_shards, lane_count, round_robin
from vitrine.data.sources import open_data
from vitrine.data.transforms import TrainTransform
from vitrine.errors import DataError, EnvironmentMismatchError, PictureError, UsageError
from vitrine.io import network
from vitrine.shards import write_shards
from vitrine.train.loop import StepDone
from vitrine.train.run import train

webdataset = pytest.importorskip("webdataset", reason="webdataset comes with the extra [shards]")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from vitrine.data.scenes import write_scenes

    return write_scenes(tmp_path_factory.mktemp("data") / "scenes", "new", {"train": 45, "validation": 13}, size=32)


@pytest.fixture(scope="module")
def shards(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "scenes"
    write_shards(str(scenes), folder, megabytes=0.03)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_hold_every_picture_with_its_bytes_name_and_class(scenes: Path, shards: Path) -> None:
    """Read by the library whose layout it is."""
    data = open_data(str(scenes))
    for split in ("train", "validation"):
        urls = sorted(str(path) for path in shards.glob(f"{split}-*.tar"))
        assert len(urls) >= 2
        expected = {s.name: (s.picture.read_bytes(), data.labels[s.label]) for s in data.splits[split]}  # type: ignore[index]
        rows_by_key = {}
        for row in webdataset.WebDataset(urls, shardshuffle=False):
            facts = json.loads(row["json"])
            assert facts["label"] == data.labels[int(row["cls"])]
            rows_by_key[facts["name"]] = (row["png"], facts["label"])
        assert rows_by_key == expected


def test_the_index_is_true(shards: Path) -> None:
    import hashlib

    index = json.loads((shards / "index.json").read_text())
    assert {path.name for path in shards.iterdir()} == {
        "index.json",
        *(row["file"] for rows in index["splits"].values() for row in rows),
    }
    for rows in index["splits"].values():
        for row in rows:
            content = (shards / row["file"]).read_bytes()
            assert row["bytes"] == len(content) <= 30_000 + 10 * tarfile.RECORDSIZE
            assert row["sha256"] == hashlib.sha256(content).hexdigest()
            with tarfile.open(shards / row["file"]) as archive:
                names = archive.getnames()
            assert row["pictures"] == sum(name.endswith(".cls") for name in names) == len(names) / 3
    first = [json.loads(m)["label"] for m in _jsons(shards / "train-000000.tar")]
    assert len(set(first)) > 1, "neighbours are of one class"


def _jsons(path: Path) -> Iterator[bytes]:
    with tarfile.open(path) as archive:
        for info in archive:
            if info.name.endswith(".json"):
                yield archive.extractfile(info).read()  # type: ignore[union-attr]


class StoppedError(Exception):
    pass


def test_a_stopped_run_goes_on_to_the_same_bytes(scenes: Path, shards: Path, tmp_path: Path) -> None:
    write_shards(str(scenes), tmp_path / "again", megabytes=0.03)
    assert files_of(tmp_path / "again") == files_of(shards)
    for stop_at in (3, 30, 50):
        out, done = tmp_path / f"cut {stop_at}", [0]

        def stop(now: int, total: int, stop_at: int = stop_at, done: list[int] = done) -> None:
            done[0] += 1
            if now == stop_at:
                raise StoppedError

        with pytest.raises(StoppedError):
            write_shards(str(scenes), out, megabytes=0.03, progress=stop)
        assert not (out / "index.json").exists()
        if stop_at > 20:
            with pytest.raises(DataError, match="unfinished shards of other data or settings"):
                write_shards(str(scenes), out, megabytes=0.03, seed=1)
        done[0] = 0
        write_shards(str(scenes), out, megabytes=0.03, progress=lambda *_, done=done: done.__setitem__(0, done[0] + 1))
        assert files_of(out) == files_of(shards)
        assert done[0] < 58 or stop_at == 3, "it began anew"
    with pytest.raises(DataError, match="holds shards already"):
        write_shards(str(scenes), shards)


def test_pictures_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (9, 9), (i, 0, 0)).save(tmp_path / "data" / label / f"{i}.png")
    (tmp_path / "data" / "cat" / "1.png").write_bytes(b"\x89PNG no")
    result = write_shards(str(tmp_path / "data"), tmp_path / "out")
    assert [name for name, _ in result.unreadable] == ["cat/1.png"] and "1 picture was left out" in result.text()
    assert json.loads((tmp_path / "out" / "index.json").read_text())["quarantine"][0]["name"] == "cat/1.png"
    assert sum(pictures for _, _, pictures, _ in result.splits) == 7


def test_what_cannot_be_written_is_said(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="come in a stream"):
        write_shards("scenes:new", tmp_path / "out")
    with pytest.raises(UsageError, match="--size 0"):
        write_shards(str(scenes), tmp_path / "out", megabytes=0)
    monkeypatch.setitem(__import__("sys").modules, "webdataset", None)
    with pytest.raises(EnvironmentMismatchError, match=r"pip install 'vitrine\[shards\]'"):
        write_shards(str(scenes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The order


@given(count=st.integers(1, 60), buffer=st.integers(1, 70), skip=st.integers(0, 60))
def test_a_buffer_gives_each_number_once_and_none_early(count: int, buffer: int, skip: int) -> None:
    order = list(ShuffleBuffer(count, buffer, (1, 2)))
    assert sorted(order) == list(range(count))
    assert all(number < place + buffer for place, number in enumerate(order))
    buffer_again = ShuffleBuffer(count, buffer, (1, 2))
    for _ in range(min(skip, count)):
        next(buffer_again)
    assert list(buffer_again) == order[skip:]


def test_a_buffer_mixes() -> None:
    """Drawn places are uniform: over many seeds, each of 6 numbers comes first out of a buffer of 6 equally often."""
    first = Counter(next(ShuffleBuffer(6, 6, (seed,))) for seed in range(3000))
    assert all(abs(n - 500) < 5 * np.sqrt(3000 * 5 / 36) for n in first.values()) and len(first) == 6


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_lanes_take_turns_until_they_are_empty(counts: list[int]) -> None:
    lanes = list(round_robin(counts))
    assert Counter(lanes) == Counter({lane: count for lane, count in enumerate(counts) if count})
    for lane, count in enumerate(counts):
        rounds = [lanes[:i].count(lane) for i in range(len(lanes) + 1)]
        for other in range(len(counts)):
            others = [lanes[:i].count(other) for i in range(len(lanes) + 1)]
            assert all(a - b <= 1 for a, b in zip(rounds, others, strict=True) if b < counts[other]), (lane, count)


def test_every_epoch_deals_every_shard_to_one_lane() -> None:
    one, two = (assign_shards(23, lane_count(23, 1), 5, epoch) for epoch in (0, 1))
    assert sorted(i for lane in one for i in lane) == list(range(23)) and len(one) == 8
    assert one != two and one == assign_shards(23, lane_count(23, 4), 5, 0)


@pytest.fixture(scope="module")
def split(shards: Path) -> ShardSplit:
    split = open_shards(str(shards)).splits["train"]
    assert isinstance(split, ShardSplit)
    return split


def parts(split: ShardSplit, process: int = 0, processes: int = 1, **options: Any) -> list[dict[int, str]]:
    settings = {"batch_size": 7, "seed": 3, "epoch": 1, "buffer": 16} | options
    return [
        {} if part.is_dummy else dict(zip(part.indices, (s.name for s in part.samples), strict=True))
        for part in split.batches(**settings, batch_shard=BatchShard(process, processes))
    ]


def test_an_epoch_has_every_picture_once(split: ShardSplit, scenes: Path) -> None:
    names = {s.name for s in open_data(str(scenes)).splits["train"]}
    order = [name for batch in parts(split) for name in batch.values()]
    assert len(order) == 45 and set(order) == names
    assert [name for batch in parts(split, epoch=2) for name in batch.values()] != order
    assert [len(batch) for batch in parts(split)] == [7] * 6 + [3]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one(split: ShardSplit, processes: int) -> None:
    whole = parts(split)
    shares = [parts(split, process, processes) for process in range(processes)]
    for batch, *pieces in zip(whole, *shares, strict=True):
        assert batch == {k: name for piece in pieces for k, name in piece.items()}
        assert sum(map(len, pieces)) == len(batch)


def test_too_many_processes_for_the_shards(split: ShardSplit) -> None:
    with pytest.raises(DataError, match="expected a shard for each"):
        parts(split, 0, len(split.shards) + 1)


@pytest.mark.parametrize("start", [1, 3, 6])
def test_a_stream_is_taken_up_anywhere_without_reading_what_is_done(
    split: ShardSplit, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def count_reads(shard: Shard, is_wanted: Callable[[int], bool]) -> Iterator[Any]:
        read.append(shard.name)
        return read_shard(shard, is_wanted)

    monkeypatch.setattr(stream_module, "read_shard", count_reads)
    for processes in (1, 2):
        whole = parts(split, 0, processes, buffer=2)
        assert set(read) == {shard.name for shard in split.shards} or processes > 1
        read.clear()
        assert parts(split, 0, processes, buffer=2, start_batch=start) == whole[start:]
        if start == 6 and processes == 1:
            assert len(set(read)) < len(split.shards)
        read.clear()


# Memory


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    peaks = []
    blob = np.random.default_rng(0).bytes(50_000)
    for count in (4, 16):
        shards = []
        for i in range(count):
            path = tmp_path / f"train-{count}-{i}.tar"
            rows = [(f"{k:05}.png", blob) for k in range(40)]
            shards.append(Shard(str(tar_of(path, [*rows, *((f"x{k}.cls", b"0") for k in range(40))])), 80))
        split = ShardSplit(shards, 1)
        tracemalloc.start()
        pictures = sum(len(part.samples) for part in split.batches(batch_size=8, seed=0, epoch=0, buffer=24))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert pictures == count * 80
    assert max(peaks) < (24 + 8 + 8 * 2) * 50_000 + 2_000_000, peaks  # 8 to 32 MB pass through
    assert peaks[1] < peaks[0] * 1.5 + 500_000


# Anyone's tar files


def png(colour: int = 0) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 9, 9)).save(data, "PNG")
    return data.getvalue()


class Bomb:
    def __reduce__(self) -> Any:
        return (Path("/tmp/vitrine-pickle-ran").touch, ())


def test_nothing_is_unpacked_run_or_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for name, kind, target in (
            ("a.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("b.png", tarfile.LNKTYPE, "../../etc/passwd"),
            ("c.png", tarfile.CHRTYPE, ""),
            ("d.png", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
        for name, data in (
            ("e.pyd", pickle.dumps(Bomb())),
            ("e.pickle", pickle.dumps(Bomb())),
            ("e.png", png()),
            ("e.cls", b"1"),
            ("../../outside.png", png()),
            ("../../outside.cls", b"0"),
            ("/absolute.png", png()),
            ("/absolute.cls", b"0"),
            ("__f__.png", png()),
            ("g.cls", b"cat\0"),
            ("g.png", png()),
            ("h.json", b"[" * 100_000),
            ("h.cls", b"0"),
            ("h.png", png()),
            ("i.cls", b"7"),
            ("i.png", png()),
            ("j.png", png()),
            ("k.json", json.dumps({"name": "line\nbreak\u202e,=1"}).encode()),
            ("k.cls", b"0"),
            ("k.png", b"no picture"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    shard = Shard(str(tmp_path / "train-0.tar"), 8)
    samples = [member.sample(shard, 2) for member in read_shard(shard)]
    assert [s.name for s in samples[:3]] == ["train-0/e.png", "train-0/outside.png", "train-0/absolute.png"]
    assert [s.picture.decode().size for s in samples[:3]] == [(8, 8)] * 3 and samples[0].label == 1
    for sample, reason in zip(
        samples[3:],
        ("cls cannot be understood", "json cannot be", "class is 7", "no class", "not a picture"),
        strict=True,
    ):
        with pytest.raises(PictureError, match=reason):
            sample.picture.decode()
    assert samples[-1].name == "line?break?,=1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train-0.tar"]
    assert not (tmp_path.parent / "outside.png").exists() and not Path("/tmp/vitrine-pickle-ran").exists()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_sizes_that_a_header_claims_are_bounded(kind: bytes, tmp_path: Path) -> None:
    """A member or a long name of 100 GB that is not there: refused before memory is asked for."""
    first = tar_of(tmp_path / "one.tar", [("a.cls", b"0"), ("a.png", png())]).read_bytes()[: 4 * 512]
    path = tmp_path / "train-0.tar"
    path.write_bytes(first + header("b.png", 100 << 30, kind) + b"\0" * 4096)
    tracemalloc.start()
    members = list(read_shard(Shard(str(path), 3)))
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert members[0].data == png() and len(members) == 3
    problem = members[1].picture_problem
    assert any(words in problem for words in ("is the limit", "damaged", "ends before"))
    assert members[2].picture_problem


@pytest.mark.parametrize("keep", [0, 700, 1600, 1700, 3000])
def test_a_damaged_shard_loses_only_what_is_behind(keep: int, tmp_path: Path) -> None:
    members = [(f"{i}.{end}", png(i) if end == "png" else b"0") for i in range(6) for end in ("cls", "png")]
    path = tar_of(tmp_path / "train-0.tar", members)
    path.write_bytes(path.read_bytes()[:keep])
    members_read = list(read_shard(Shard(str(path), 6)))
    whole = [m for m in members_read if not m.picture_problem and m.data]
    assert len(members_read) == 6 and [m.data for m in whole] == [png(i) for i in range(len(whole))]
    assert len(whole) == {0: 0, 700: 0, 1600: 0, 1700: 1, 3000: 1}[keep]
    assert all("before it" in m.picture_problem for m in members_read[len(whole) + 1 :])


INDEX = '{"format": "vitrine shards 1", "labels": ["a"], "splits": {"train": [{"file": %s}]}}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no JSON"),
        ("[]", "expected object, got array"),
        ("[" * 200_000, "nested too deeply"),
        ('{"format": "vitrine shards 1", "labels": "ab", "splits": {}}', "expected array, got str, at labels"),
        (INDEX % '"x.tar", "pictures": "1"', "expected int, got str"),
        (INDEX % '"x.tar", "pictures": 1000000000000', "1,000,000 are the limit"),
        (INDEX % '3, "pictures": 1', "expected str, got int"),
        ('{"format": "other"}', "'other'"),
        (INDEX % '"../x.tar", "pictures": 1', "x.tar"),
        (INDEX % '"x.tar", "pictures": 0', "0 pictures"),
    ],
)  # fmt: skip
def test_an_index_that_is_none(content: str, message: str) -> None:
    with pytest.raises(DataError, match=r"is no index of shards .*" + message):
        parse_index(content, "folder")


@pytest.mark.parametrize("label", ["99999999999", "-99999999999", "1000000", "9" * 5000])
def test_a_class_beyond_reason_makes_no_million_classes(label: str, tmp_path: Path) -> None:
    members = [("0.cls", b"1"), ("0.png", png(0)), ("1.cls", label.encode()), ("1.png", png(1))]
    index = find_shards(str(tar_of(tmp_path / "train-0.tar", members)))
    assert index.labels == ("0", "1") and index.splits["train"][0].pictures == 2


def test_shards_that_others_wrote_are_counted(tmp_path: Path) -> None:
    with webdataset.ShardWriter(f"{tmp_path}/train-%06d.tar", maxcount=5, verbose=0) as writer:
        for i in range(12):
            writer.write({"__key__": f"s{i:03}", "png": png(i), "cls": i % 3, "extra.pyd": {"x": 1}})
    with webdataset.TarWriter(f"{tmp_path}/val-000000.tar") as writer:
        writer.write({"__key__": "v", "png": png(1), "cls": 2})
    assert is_shards(str(tmp_path))
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    tar_of(tmp_path / "pictures" / "backup-2024.tar", [])
    (tmp_path / "pictures" / "index.html").write_text("")
    assert not is_shards(str(tmp_path / "pictures"))
    data = open_data(str(tmp_path))
    assert data.labels == ("0", "1", "2") and any("were read to count" in note for note in data.notes)
    assert [shard.pictures for shard in data.splits["train"].shards] == [5, 5, 2]  # type: ignore[attr-defined]
    assert [(s.name, s.label) for s in data.splits["validation"]] == [("val-000000/v.png", 2)]
    assert data.splits["validation"][0].picture.read_bytes() == png(1)
    labels = {k: s.label for p in data.splits["train"].batches(batch_size=5, seed=0, epoch=0, buffer=3) for k, s in zip(p.indices, p.samples, strict=True)}  # type: ignore[attr-defined]  # fmt: skip  # noqa: E501
    assert Counter(labels.values()) == {0: 4, 1: 4, 2: 4}
    one = open_data(f"{tmp_path}/train-00000{{0..1}}.tar::{tmp_path}/val-000000.tar")
    assert [shard.pictures for shard in one.splits["train"].shards] == [5, 5]  # type: ignore[attr-defined]


def test_braces() -> None:
    assert expand_braces("a-{008..011}.tar") == ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]
    assert expand_braces("{x,y}{0..1}") == ["x0", "x1", "y0", "y1"] and expand_braces("plain") == ["plain"]
    with pytest.raises(DataError, match="is the limit"):
        expand_braces("{0..999999999999}")
    with pytest.raises(DataError, match="is the limit"):
        expand_braces("{0..9999}{0..9999}")


def test_pipes_are_paths_that_do_not_exist(tmp_path: Path) -> None:
    """webdataset would start a program."""
    with pytest.raises(DataError, match="cannot be read"):
        open_data(f"pipe:touch {tmp_path}/ran #.tar")
    assert not (tmp_path / "ran").exists()


# Training


def recipe(**changes: Any) -> Recipe:
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    settings: dict[str, Any] = {
        "name": "micro",
        "model": "vit_tiny_patch16_224",
        "model_args": args,
        "pretrained": False,
        "image_size": 32,
        "batch_size": 8,
        "epochs": 2,
        "shuffle_buffer": 12,
        "workers": 0,
        "precision": "fp32",
    }
    return Recipe(**{**settings, **changes})


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "shards"
    train(str(shards), recipe(), run)
    return run


def test_a_run_on_shards_names_its_data(run: Path, shards: Path, scenes: Path) -> None:
    record = json.loads((run / "data.json").read_text())
    assert record["splits"]["train"].startswith("shards of 45 pictures (")
    names = {s.name for s in open_data(str(scenes)).splits["validation"]}
    assert {row["name"] for row in record["splits"]["validation"]} == names
    rows = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [6, 12]


def test_other_verbs_read_the_shards_that_are_listed(
    run: Path, scenes: Path, shards: Path, vitrine_command: Any
) -> None:
    ours, plain = (json.loads(vitrine_command("evaluate", run, data, "--json")[1]) for data in (shards, scenes))
    assert ours["split"] == "validation" and ours["n"] == 13
    assert {k: v for k, v in ours.items() if k != "data"} == {k: v for k, v in plain.items() if k != "data"}
    assert "58 pictures (0.1 MB), 7 classes, train 45, validation 13" in vitrine_command("check", shards)[1]
    status, out, err = vitrine_command("verify", run)
    assert status == 0, out + err
    assert "shards of 45 pictures" in (run / "README.md").read_text()


def same_weights(one: Path, other: Path) -> None:
    for name in ("model.safetensors", "history.jsonl", "predictions.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_resuming_and_workers_change_nothing(run: Path, shards: Path, tmp_path: Path) -> None:
    def stop(event: object) -> None:
        if isinstance(event, StepDone) and event.step == 9:
            raise StoppedError

    settings = recipe(checkpoint_minutes=1e-9, workers=1)
    with pytest.raises(StoppedError):
        train(str(shards), settings, tmp_path / "cut", report=stop)
    train(str(shards), settings, tmp_path / "cut", resume=True)
    same_weights(run, tmp_path / "cut")


class Server(http.server.SimpleHTTPRequestHandler):
    cut: ClassVar[Counter[str]] = Counter()

    def log_message(self, *_: Any) -> None:
        pass

    def copyfile(self, source: Any, target: Any) -> None:
        if self.cut[self.path] > 0:  # the connection breaks in the middle
            self.cut[self.path] -= 1
            target.write(source.read(5000))
            return
        super().copyfile(source, target)


@pytest.fixture
def address(shards: Path) -> Iterator[str]:
    Server.cut.clear()
    handler = functools.partial(Server, directory=str(shards))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_training_over_http(
    run: Path, shards: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's address, and a connection that breaks twice."""
    monkeypatch.setattr(network, "pause", lambda _: None)
    Server.cut.update({"/train-000000.tar": 2})
    train(address, recipe(), tmp_path / "run")
    assert Server.cut["/train-000000.tar"] == 0
    same_weights(run, tmp_path / "run")
    last = len(list(shards.glob("train-*.tar"))) - 1
    pattern = f"{address}/train-{{000000..{last:06}}}.tar"
    assert open_data(pattern).splits["train"].digest == open_data(address).splits["train"].digest  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="server answers 404"):
        open_data(f"{address}/none-{{0..1}}.tar")


FAULTS = {
    "cut off": (Fault(sent=0.4), r"ended after [\d,]+ of [\d,]+ bytes, 4 times\.\nTry again later"),
    "short": (Fault(sent=0.4, is_short=True), "has other bytes than its index.json states"),
    "other bytes": (Fault(flip_at=700), "has other bytes than its index.json states"),
    "a page": (Fault(body=HTML, headers={"Content-Type": "text/html"}), "a web page came in place of the file"),
    "forbidden": (Fault(403), r"answers 403 \(Forbidden\)\.\nNo name and no password are sent"),
    "not there": (Fault(404), r"answers 404 \(Not Found\)\.\nCheck the address"),
    "busy": (Fault(429, {"Retry-After": "3"}), "answers 429 .* asks to wait 3 s\\.\nTry again later"),
    "busy for a day": (Fault(429, {"Retry-After": "86400"}), "asks to wait 86,400 s"),
    "out of order": (Fault(500), r"answers 500 \(Internal Server Error\)\.\nTry again later"),
    "silent": (Fault(silent=0.5), "fell silent"),
}
PASSING = ("cut off", "busy", "out of order", "silent")


@pytest.mark.parametrize("case", FAULTS)
def test_shards_over_a_bad_network(case: str, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What passes is waited for, and the pictures are the same; what does not is a sentence."""
    waits: list[float] = []
    monkeypatch.setattr(network, "pause", waits.append)
    monkeypatch.setattr(network, "MAX_SILENT_SECONDS", 0.2)
    fault, expected = FAULTS[case]
    shard = next(iter(parse_index(read_text(str(shards / "index.json")), str(shards)).splits["train"]))
    with StandInHub({"a/b": shards}).running() as server:
        there = replace(shard, place=server.file_address("a/b", shard.name))
        server.faults[shard.name] = fault
        with pytest.raises(DataError, match=expected) as error:
            list(read_shard(there))
        assert len(str(error.value).splitlines()) == 2
        assert len(waits) == (3 if case in PASSING else 0)
        server.faults[shard.name] = replace(fault, times=2 if case in PASSING else 0)
        assert list(read_shard(there)) == list(read_shard(shard))
        server.faults["index.json"] = fault
        if case not in ("other bytes", "short", "not there"):  # of the index nobody states a hash
            with pytest.raises(DataError, match=r"index\.json cannot be read"):
                open_data(there.place)  # its shards are not counted, as if there were none


def test_damaged_pictures_are_named_and_counted(shards: Path, tmp_path: Path, vitrine_command: Any) -> None:
    import shutil

    from vitrine.config import recipe_to_toml

    copy = Path(shutil.copytree(shards, tmp_path / "shards"))
    shard = copy / "train-000001.tar"
    damage_first_picture(shard)
    (tmp_path / "micro.toml").write_text(recipe_to_toml(recipe(max_unreadable=0.1, epochs=1)))
    arguments = ("train", copy, "--recipe", tmp_path / "micro.toml", "-o", tmp_path / "run")
    status, _, err = vitrine_command(*arguments)
    assert status == 0 and "1 of 45 pictures could not be read in this epoch." in err, err
    assert "not readable: train/" in err
    status, _, err = vitrine_command(*arguments[:-1], tmp_path / "strict", "--set", "max_unreadable=0.01")
    assert status == 2 and "1 of 45 pictures cannot be read" in err and "Traceback" not in err
    shard.unlink()
    status, _, err = vitrine_command(*arguments[:-1], tmp_path / "gone")
    assert status == 2 and "train-000001.tar cannot be read: No such file" in err


def test_the_verb(scenes: Path, shards: Path, tmp_path: Path, vitrine_command: Any) -> None:
    status, out, _ = vitrine_command("shards", scenes, "-o", tmp_path / "out", "--size", "0.03")
    assert status == 0 and "train: 45 pictures in" in out and f"Next: vitrine train {tmp_path / 'out'}" in out
    assert files_of(tmp_path / "out") == files_of(shards)
    status, _, err = vitrine_command("shards", scenes, "-o", tmp_path / "out")
    assert status == 2 and "holds shards already" in err


def test_a_batch_of_nothing_but_damage(tmp_path: Path) -> None:
    from vitrine.train.data import ShardedBatches
    from vitrine.train.settings import BatchSettings

    path = tar_of(tmp_path / "train-0.tar", [("a.cls", b"0"), ("a.png", b"no")])
    other = tar_of(tmp_path / "train-1.tar", [("b.cls", b"0"), ("b.png", png())])
    split = ShardSplit([Shard(str(path), 1), Shard(str(other), 1)], 1)
    settings = BatchSettings.from_recipe(recipe(batch_size=1))
    with PictureLoader(TrainTransform(TransformSpec(), (8, 8)), 1, 0) as loader:
        with pytest.raises(DataError, match=r"None of the 1 picture of a batch .* for example train-0/a\.png"):
            list(ShardedBatches(split, settings, BatchShard()).epoch(loader, 0, 0))
        both = [list(ShardedBatches(split, settings, BatchShard(i, 2)).epoch(loader, 0, 0)) for i in (0, 1)]
    assert [[batch.is_dummy for batch in process].count(False) for process in both] in ([1, 0], [0, 1])
    assert all(len(batch) == 1 for process in both for batch in process)


def test_read_members_needs_no_seeking() -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in (("a.PNG", png()), ("a.cls", b"4"), ("b.seg.png", png(1)), ("b.png", png(2))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

    class Pipe(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return source.read(min(size, 77) if size > 0 else size)

    source = io.BytesIO(data.getvalue())
    members = list(read_members(Pipe()))  # type: ignore[arg-type]
    assert [(m.key, m.label, m.data) for m in members] == [("a", 4, png()), ("b", None, png(2))]
