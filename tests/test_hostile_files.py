"""Generated hostile files over every reader: no traceback, no gigabyte, no five seconds.

``VITRINE_HOSTILE_EXAMPLES=500`` tries so many of each kind; the suite tries a few.
"""

from __future__ import annotations

import io
import json
import os
import resource
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from vitrine.caption.tokenizer import read_vocabulary
from vitrine.classify.model import open_classifier
from vitrine.config.load import load_recipe
from vitrine.config.preprocessing import InputSpec
from vitrine.config.sweep import load_sweep
from vitrine.data.captions.datasets import open_captions
from vitrine.data.loader import batches
from vitrine.data.masks import find_masks
from vitrine.data.sources import open_data
from vitrine.data.transforms import EvalTransform
from vitrine.errors import VitrineError

INPUT = InputSpec((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0)
EXAMPLES = int(os.environ.get("VITRINE_HOSTILE_EXAMPLES", "10"))
MAX_SECONDS, MAX_KIB = 5, 1 << 20

# --- changes of a valid file ------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30, 1e308, float("nan"), float("inf"), 1e-320]),
    st.sampled_from(
        ["", "../../etc/passwd", "/etc/passwd", "a\x00b", "\x1b[31m", "a\nb", "\u202e", "\ud800", "x" * 70_000]
    ),
    st.text(max_size=6),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places_in(each, (*path, key)))]


@st.composite
def changed_json(draw: st.DrawFn, valid: Any) -> Any:
    """A valid document with up to three places replaced or removed."""
    document = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places_in(document)))
        if not path:
            return draw(values)
        place = document
        for key in path[:-1]:
            place = place[key]
        if draw(st.booleans()):
            place[path[-1]] = draw(values)
        elif isinstance(place, dict):
            del place[path[-1]]
    return document


@st.composite
def changed_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """A valid file that was cut off, has other bytes, is in another encoding, repeated or endlessly deep."""
    match draw(st.integers(0, 5)):
        case 0:
            return valid[: draw(st.integers(0, len(valid)))]
        case 1:
            at = draw(st.integers(0, len(valid)))
            return valid[:at] + draw(st.binary(max_size=40)) + valid[at + draw(st.integers(0, 40)) :]
        case 2:
            text = valid.decode("utf-8", "replace")
            return text.encode(draw(st.sampled_from(["utf-16", "utf-16-be", "utf-8-sig", "utf-32"])), "replace")
        case 3:
            return valid * draw(st.integers(0, 50))
        case 4:
            return draw(st.sampled_from([b"[", b'{"a":', b"a = [", b'"', b"\x00", b"a,", b"\xff\xfe"])) * 100_000
        case _:
            return draw(st.binary(max_size=200))


def as_json(document: Any) -> bytes:
    return json.dumps(document).encode("utf-8", "surrogatepass")


def as_json_lines(document: Any) -> bytes:
    rows = document if isinstance(document, list) else [document]
    return b"\n".join(as_json(row) for row in rows)


# --- valid files of every kind ----------------------------------------------------------------------------------

ROWS = [{"path": "a.png", "label": "cat", "split": "train"}, {"path": "b.png", "label": "dog", "split": "validation"}]
COCO_CAPTIONS = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}, {"id": 2, "file_name": "b.png"}],
    "annotations": [{"image_id": 1, "id": 1, "caption": "a cat"}, {"image_id": 2, "id": 2, "caption": "a dog"}],
}
COCO_INSTANCES = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
    "categories": [{"id": 3, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [[0, 0, 4, 0, 4, 4]], "bbox": [0, 0, 4, 4]},
        {"id": 2, "image_id": 1, "category_id": 3, "segmentation": {"counts": [10, 20, 34], "size": [8, 8]}},
    ],
}
KARPATHY = {
    "images": [{"filename": "a.png", "split": "train", "sentences": [{"raw": "a cat", "tokens": ["a", "cat"]}]}]
}
LAVIS = [{"image": "a.png", "caption": ["a cat"], "image_id": "1"}, {"image": "b.png", "caption": "a dog"}]
CAPTION_ROWS = [{"file_name": "a.png", "caption": "a cat"}, {"file_name": "b.png", "captions": ["a dog"]}]
INDEX = {
    "format": "vitrine shards 1",
    "labels": ["cat", "dog"],
    "splits": {"train": [{"file": "train-000000.tar", "pictures": 2, "sha256": "00"}]},
    "notes": [],
}
TIMM_CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 2,
    "label_names": ["cat", "dog"],
    "model_args": {"img_size": [32, 32], "patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2},
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "classifier": "head",
    },
}
HF_CONFIG = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 16,
    "id2label": {"0": "cat", "1": "dog"},
}
RECIPE = b'model = "vit_tiny_patch16_224"\nepochs = 3\n[transforms]\nflip = 0.5\n[model_args]\ndepth = 2\n'
SWEEP = b'data = "."\nrecipe = "scratch-tiny"\nseeds = [0, 1]\n[set]\nepochs = 1\n[grid]\nbatch_size = [8, 16]\n'
TABLE = b"path,label,split\na.png,cat,train\nb.png,dog,validation\n"
FLICKR = b"image_name| comment_number| comment\na.png| 0| a cat\nb.png| 0| a dog\n"
VOCABULARY = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ncat\n##s\n"


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def shard() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in (
            ("0.cls", b"0"),
            ("0.png", png()),
            ("0.json", b'{"name": "a.png"}'),
            ("1.cls", b"1"),
            ("1.png", png()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), buffer)
    return buffer.getvalue()


def weights() -> dict[str, torch.Tensor]:
    return {"patch_embed.proj.weight": torch.zeros(24, 3, 16, 16), "cls_token": torch.zeros(1, 1, 24)}


def pickle_file() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": weights(), "epoch": 3}, buffer)
    return buffer.getvalue()


# --- readers ----------------------------------------------------------------------------------------------------


def read_labelled(reference: str) -> None:
    for split in open_data(reference).splits.values():
        if not split.endless:
            for batch in batches(split[:3], EvalTransform(INPUT), batch_size=4, workers=0):
                _ = batch.pixels_BCHW.shape


def read_captioned(reference: str) -> None:
    for split in open_captions(reference).splits.values():
        _ = [sample.captions for sample in split[:3]]


def read_masks(reference: str) -> None:
    folder = Path(reference).parent
    masks = find_masks(
        open_data(f"{folder}/pictures").splits["train"][:4], data=None, source=Path(reference), category=None
    )
    if masks is not None:
        for name in masks.loaders:
            masks.mask_of(name, (8, 8))


def read_picture(reference: str) -> None:
    read_labelled(str(Path(reference).parent.parent))


def read_folder_of(read: Callable[[str], object]) -> Callable[[str], object]:
    return lambda path: read(str(Path(path).parent))


open_folder = read_folder_of(open_classifier)
changed_rows = changed_json(ROWS).map(as_json_lines) | changed_bytes(as_json_lines(ROWS))

READERS: dict[str, tuple[str, Callable[[str], object], st.SearchStrategy[bytes]]] = {
    "manifest.csv": ("m.csv", read_labelled, changed_bytes(TABLE)),
    "manifest.jsonl": ("m.jsonl", read_labelled, changed_rows),
    "manifest.json": ("m.json", read_labelled, changed_json(ROWS).map(as_json)),
    "manifest.parquet": ("m.parquet", read_labelled, changed_bytes(parquet())),
    "COCO captions": ("captions.json", read_captioned, changed_json(COCO_CAPTIONS).map(as_json)),
    "COCO instances as labels": ("instances.json", read_labelled, changed_json(COCO_INSTANCES).map(as_json)),
    "COCO instances as masks": ("masks.json", read_masks, changed_json(COCO_INSTANCES).map(as_json)),
    "Karpathy's captions": ("dataset.json", read_captioned, changed_json(KARPATHY).map(as_json)),
    "LAVIS's captions": ("train.json", read_captioned, changed_json(LAVIS).map(as_json)),
    "captions.jsonl": ("captions.jsonl", read_captioned, changed_json(CAPTION_ROWS).map(as_json_lines)),
    "Flickr30k's table": ("results.csv", read_captioned, changed_bytes(FLICKR)),
    "index of shards": ("shards/index.json", read_folder_of(read_labelled), changed_json(INDEX).map(as_json)),
    "shard": ("shards/train-000000.tar", read_labelled, changed_bytes(shard())),
    "picture": ("pictures/cat/x.jpg", read_picture, changed_bytes(jpeg())),
    "recipe": ("r.toml", load_recipe, changed_bytes(RECIPE)),
    "sweep": ("s.toml", lambda path: load_sweep(Path(path)), changed_bytes(SWEEP)),
    "vocabulary": ("vocab.txt", lambda path: read_vocabulary(Path(path)), changed_bytes(VOCABULARY)),
    "timm's config.json": (
        "model/config.json",
        read_folder_of(open_classifier),
        changed_json(TIMM_CONFIG).map(as_json),
    ),
    "transformers' config.json": (
        "hf/config.json",
        read_folder_of(open_classifier),
        changed_json(HF_CONFIG).map(as_json),
    ),
    "safetensors": ("w.safetensors", open_classifier, changed_bytes(save(weights()))),
    "pickle": ("w.pth", open_classifier, changed_bytes(pickle_file())),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hostile")
    for folder in ("pictures/cat", "pictures/dog", "shards", "model", "hf"):
        (place / folder).mkdir(parents=True)
    for name in ("a.png", "b.png", "pictures/cat/a.png", "pictures/dog/b.png"):
        (place / name).write_bytes(png())
    (place / "shards/train-000000.tar").write_bytes(shard())
    for folder in ("model", "hf"):
        (place / folder / "model.safetensors").write_bytes(save(weights()))
    return place


@pytest.mark.parametrize("kind", READERS)
def test_no_file_ends_in_a_traceback(kind: str, place: Path) -> None:
    name, read, contents = READERS[kind]
    path = place / name
    before = path.read_bytes() if path.exists() else None

    @seed(0)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
    )
    @given(contents)
    def try_one(content: bytes) -> None:
        path.write_bytes(content)
        start, memory = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read(str(path))
        except VitrineError as error:
            assert 1 <= len(str(error).splitlines()) <= 6
        assert time.thread_time() - start < MAX_SECONDS
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MAX_KIB

    try_one()
    path.write_bytes(before) if before is not None else path.unlink(missing_ok=True)
