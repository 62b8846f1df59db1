"""Masks: found where they are, drawn as COCO means them, refused where they do not fit, safe with hostile files."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image
from support.paths import SHARED

from vitrine.data import masks as instances
from vitrine.data import masks as masks_module
from vitrine.data.decode import BytesPicture, FilePicture
from vitrine.data.image_folder import list_pictures
from vitrine.data.masks import find_masks
from vitrine.data.samples import Sample
from vitrine.data.scenes import write_scenes
from vitrine.data.sources import open_data
from vitrine.errors import DataError

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real photographs of ../shared/data are not here")

INSIDE_HW = np.zeros((6, 8), dtype=bool)
INSIDE_HW[1:4, 2:7] = True


def samples(*names: str) -> list[Sample]:
    return [Sample(name, BytesPicture(b"")) for name in names]


def save(path: Path, pixels: np.ndarray | Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path, **options)
    return path


def mask_at(folder: Path, name: str, value: Any = None) -> np.ndarray | None:
    masks = find_masks(samples(name), source=folder, value=value)
    assert masks is not None
    return masks.mask_of(name)


# --- folders


@pytest.mark.parametrize(
    "pixels",
    [
        Image.fromarray(INSIDE_HW),  # 1 bit
        Image.fromarray(INSIDE_HW.astype(np.uint8)),  # 0 and 1: nearly black to the eye
        Image.fromarray(INSIDE_HW.astype(np.uint8) * 255),
        Image.fromarray(INSIDE_HW.astype(np.uint16)),  # a small number of 16 bits
        Image.fromarray(np.repeat(INSIDE_HW[..., None].astype(np.uint8) * 9, 3, axis=2)),
    ],
    ids=["1 bit", "8 bit small", "8 bit", "16 bit", "RGB"],
)
def test_any_pixel_that_is_not_zero_is_inside(tmp_path: Path, pixels: Image.Image) -> None:
    save(tmp_path / "cat_1.png", pixels)
    masks = mask_at(tmp_path, "train/cat_1.jpg")
    assert masks is not None
    assert masks.dtype == bool
    assert (masks == INSIDE_HW).all()


def test_a_value_of_a_label_map_is_inside(tmp_path: Path) -> None:
    labels_HW = INSIDE_HW * 1 + np.pad(np.full((2, 2), 2), ((4, 0), (0, 6)))
    save(tmp_path / "grey.png", labels_HW.astype(np.uint8))
    save(tmp_path / "deep.png", labels_HW.astype(np.uint16))
    palette = Image.fromarray(labels_HW.astype(np.uint8))
    palette.putpalette([255, 255, 255, 10, 20, 30, 0, 0, 0])  # 0 is shown white and 2 black: the index counts
    save(tmp_path / "palette.png", palette)
    for name in ("grey", "deep", "palette"):
        for value in (1, 2):
            assert (mask_at(tmp_path, f"{name}.jpg", value) == (labels_HW == value)).all(), name
        assert (mask_at(tmp_path, f"{name}.jpg", "any") == (labels_HW > 0)).all(), name


def test_a_mask_is_turned_as_its_own_orientation_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, dtype in (("a", np.uint8), ("b", np.uint16)):
        save(tmp_path / f"{name}.png", INSIDE_HW.astype(dtype), exif=exif)
        assert (mask_at(tmp_path, f"{name}.jpg") == np.rot90(INSIDE_HW, -1)).all()


def test_the_longest_end_of_a_path_wins(tmp_path: Path) -> None:
    names = ("train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/cat/2.jpg", "val/cat/3.jpg")
    for shade, place in enumerate(("train/cat/1.png", "cat/1.png", "2.png", "val/cat/9.png"), start=1):
        save(tmp_path / place, np.full((2, 2), shade, dtype=np.uint8))
    masks = find_masks(samples(*names), source=tmp_path, value=1)
    assert masks is not None
    assert set(masks.loaders) == {"train/cat/1.jpg", "val/cat/1.jpg", "val/cat/2.jpg"}
    first, second = masks.mask_of("train/cat/1.jpg"), masks.mask_of("val/cat/1.jpg")
    assert first is not None
    assert second is not None
    assert first.all()  # its own
    assert not second.any()  # cat/1.png has the value 2
    assert masks.mask_of("val/cat/3.jpg") is None
    assert masks.mask_of("nobody.jpg") is None


def test_a_mask_that_two_pictures_claim_serves_neither(tmp_path: Path) -> None:
    save(tmp_path / "1.png", INSIDE_HW)
    save(tmp_path / "2.png", INSIDE_HW)
    masks = find_masks(samples("cat/1.jpg", "dog/1.jpg", "dog/2.jpg"), source=tmp_path)
    assert masks is not None
    assert set(masks.loaders) == {"dog/2.jpg"}
    assert masks.notes == ("Masks that more than one picture could claim by name were left aside: 1.png.",)
    with pytest.raises(DataError, match=r"left aside: 1\.png"):
        find_masks(samples("cat/1.jpg", "dog/1.jpg"), source=tmp_path)


def test_another_size_is_refused_with_both(tmp_path: Path) -> None:
    save(tmp_path / "1.png", INSIDE_HW)
    masks = find_masks(samples("1.jpg"), source=tmp_path)
    assert masks is not None
    assert masks.mask_of("1.jpg", (8, 6)) is not None
    with pytest.raises(DataError, match=r"8 x 6 pixels, its upright picture 6 x 8"):
        masks.mask_of("1.jpg", (6, 8))


def test_a_source_without_masks_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "m" / "other.png", INSIDE_HW)
    with pytest.raises(DataError, match=r"no mask for any of the pictures \(1\), for example 1\.jpg"):
        find_masks(samples("1.jpg"), source=tmp_path / "m")
    with pytest.raises(DataError, match="no folder of masks"):
        find_masks(samples("1.jpg"), source=tmp_path / "nowhere")


# --- found without being named


def test_a_folder_called_masks_is_found_from_the_data_and_from_below(tmp_path: Path) -> None:
    for name in ("train/cat/1", "train/cat/2", "val/dog/1"):
        save(tmp_path / f"{name}.jpg", INSIDE_HW.astype(np.uint8) * 255)
        save(tmp_path / "masks" / f"{name}.png", INSIDE_HW)
    for data, name in (
        (tmp_path, "train/cat/1.jpg"),
        (tmp_path / "train", "cat/1.jpg"),
        (tmp_path / "train" / "cat", "1.jpg"),
        (tmp_path / "train" / "cat" / "1.jpg", "1.jpg"),
    ):
        masks = find_masks(samples(name), data=data)
        assert masks is not None, data
        assert masks.origin == str(tmp_path / "masks")
        assert (masks.mask_of(name) == INSIDE_HW).all()


def test_masks_by_name_alone_are_found_from_a_split_but_not_from_just_anywhere(tmp_path: Path) -> None:
    save(tmp_path / "masks" / "7_1.png", INSIDE_HW)
    for place in ("val", "holiday"):
        (tmp_path / place).mkdir()
    assert find_masks(samples("7_1.jpg"), data=tmp_path / "val") is not None
    assert find_masks(samples("7_1.jpg"), data=tmp_path) is not None
    assert find_masks(samples("7_1.jpg"), data=tmp_path / "holiday") is None
    assert find_masks(samples("7_2.jpg"), data=tmp_path) is None
    assert find_masks(samples("7_1.jpg")) is None


def test_a_class_called_masks_is_a_class(tmp_path: Path) -> None:
    for name in ("masks/1.png", "hats/1.png"):
        save(tmp_path / name, INSIDE_HW)
    assert find_masks(samples("hats/1.png", "masks/1.png"), data=tmp_path) is None


@pytest.mark.parametrize("layout", ["folders", "flat", "coco"])
def test_written_scenes_bring_their_main_objects(tmp_path: Path, layout: Any) -> None:
    folder = write_scenes(tmp_path / "scenes", "new", {"train": 3, "test": 3}, size=32, layout=layout)
    split = folder / ("test2017" if layout == "coco" else "test")
    pictures = list_pictures(split)
    masks = find_masks(pictures, data=split)
    assert masks is not None
    assert masks.notes == ("In the scenes' label maps the main object (value 1) is the mask.",)
    everything = find_masks(pictures, data=split, value="any")
    assert everything is not None
    for sample in pictures:
        label_HW = np.asarray(Image.open(folder / "masks" / split.name / Path(sample.name).with_suffix(".png")))
        assert label_HW.max() >= 1
        assert (masks.mask_of(sample.name, (32, 32)) == (label_HW == 1)).all()
        assert (everything.mask_of(sample.name) == (label_HW > 0)).all()


def test_generated_scenes_need_no_files() -> None:
    pictures = [open_data("scenes:new").splits["test"][index] for index in range(3)]
    masks = find_masks(pictures)
    assert masks is not None
    for sample in pictures:
        mask_HW = masks.mask_of(sample.name, sample.picture.decode().size)
        assert mask_HW is not None
        assert (mask_HW == sample.picture.scene.objects[0].mask).all()  # type: ignore[attr-defined]


# --- COCO


def coco(tmp_path: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    document = {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": 8, "height": 6},
            {"id": 2, "file_name": "../../b.jpg", "width": 8, "height": 6},
        ],
        "annotations": annotations,
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    } | changes
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(document))
    return path


def polygon(image: int, *corners: float, category: int = 17) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": [list(corners)]}


SQUARE = (2.0, 1.0, 7.0, 1.0, 7.0, 4.0, 2.0, 4.0)  # covers columns 2 to 6, rows 1 to 3: INSIDE_HW


def test_polygons_are_drawn_on_pixels_that_cover_their_number_to_the_next(tmp_path: Path) -> None:
    masks = find_masks(samples("val/a.jpg"), source=coco(tmp_path, [polygon(1, *SQUARE)]))
    assert masks is not None
    assert (masks.mask_of("val/a.jpg", (8, 6)) == INSIDE_HW).all()


def drawn_by_matplotlib(polygons: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """A pixel is inside where its middle is."""
    y_HW, x_HW = np.mgrid[:height, :width] + 0.5
    middles = np.stack([x_HW.ravel(), y_HW.ravel()], axis=1)
    inside = [Outline(corners).contains_points(middles).reshape(height, width) for corners in polygons]
    return np.logical_or.reduce(inside)


@pytest.mark.parametrize("seed", range(6))
def test_slanted_polygons_equal_another_librarys(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radii = rng.uniform(10, 30, 9)
    corners = np.stack([40 + radii * np.cos(angles), 35 + radii * np.sin(angles)], axis=1)
    path = coco(
        tmp_path, [polygon(1, *corners.ravel())], images=[{"id": 1, "file_name": "a.jpg", "width": 80, "height": 70}]
    )
    masks = find_masks(samples("a.jpg"), source=path)
    assert masks is not None
    mask_HW, expected_HW = masks.mask_of("a.jpg"), drawn_by_matplotlib([corners], 70, 80)
    assert mask_HW is not None
    assert (mask_HW & expected_HW).sum() / (mask_HW | expected_HW).sum() > 0.98


def test_polygons_lie_where_they_should_in_pictures_too_large_to_be_drawn_finer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "_OVERSAMPLING", 1)
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    circle = np.stack([30.2 + 18 * np.cos(angles), 25.4 + 18 * np.sin(angles)], axis=1)
    images = [{"id": 1, "file_name": "a.jpg", "width": 80, "height": 70}]
    path = coco(tmp_path, [polygon(1, *circle.ravel())], images=images)
    masks = find_masks(samples("a.jpg"), source=path)
    assert masks is not None
    mask_HW = masks.mask_of("a.jpg")
    assert mask_HW is not None
    y_N, x_N = np.nonzero(mask_HW)
    assert (x_N.mean() + 0.5, y_N.mean() + 0.5) == pytest.approx((30.2, 25.4), abs=0.15)  # no shift to one side
    assert mask_HW.sum() == pytest.approx(np.pi * 18**2, rel=0.06)  # half a pixel more all around


def test_all_instances_of_a_category_or_of_all(tmp_path: Path) -> None:
    second = polygon(1, 0, 4, 2, 4, 2, 6, 0, 6, category=18)
    path = coco(tmp_path, [polygon(1, *SQUARE), second, polygon(2, *SQUARE, category=18)])
    names = samples("a.jpg", "b.jpg")
    both_HW = INSIDE_HW.copy()
    both_HW[4:, :2] = True
    everything = find_masks(names, source=path)
    assert everything is not None
    assert (everything.mask_of("a.jpg") == both_HW).all()
    assert (everything.mask_of("b.jpg") == INSIDE_HW).all()  # by its name: the path in the document opens nothing
    for category in ("cat", "17"):
        cats = find_masks(names, source=path, category=category)
        assert cats is not None
        assert (cats.mask_of("a.jpg") == INSIDE_HW).all()
        assert cats.mask_of("b.jpg") is None  # no cat in it, or none marked: no mask rather than an empty one
        assert category in cats.origin
    with pytest.raises(DataError, match=r"no category 'cats'\. Near names: cat"):
        find_masks(names, source=path, category="cats")


def test_plain_run_lengths_are_read_and_compressed_ones_refused(tmp_path: Path) -> None:
    runs, last = [0], False
    for inside in INSIDE_HW.T.ravel():  # COCO counts down the columns
        if inside != last:
            runs.append(0)
            last = bool(inside)
        runs[-1] += 1
    entry = {"image_id": 1, "category_id": 17, "segmentation": {"counts": runs, "size": [6, 8]}}
    masks = find_masks(samples("a.jpg"), source=coco(tmp_path, [entry]))
    assert masks is not None
    assert (masks.mask_of("a.jpg") == INSIDE_HW).all()
    compressed = entry | {"segmentation": {"counts": "d0m05K2M1O0", "size": [6, 8]}}
    with pytest.raises(DataError, match=r"an instance on a\.jpg is stored as compressed run lengths(.|\n)*pycocotools"):
        find_masks(samples("a.jpg"), source=coco(tmp_path, [compressed]))
    find_masks(samples("b.jpg"), source=coco(tmp_path, [compressed, polygon(2, *SQUARE)]))  # another picture's


def test_the_same_file_name_twice_is_left_aside(tmp_path: Path) -> None:
    path = coco(tmp_path, [polygon(1, *SQUARE), polygon(2, *SQUARE)])
    masks = find_masks(samples("train/a.jpg", "val/a.jpg", "val/b.jpg"), source=path)
    assert masks is not None
    assert set(masks.loaders) == {"val/b.jpg"}
    assert "train/a.jpg" in masks.notes[0]


# --- hostile and broken input


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[1, 2]",
        b"[" * 100_000,
        b'{"images": 3, "annotations": []}',
        b'{"images": [3], "annotations": []}',
        b'{"images": [{"file_name": "a.jpg", "id": 1, "width": 1000000, "height": 1000000}], "annotations": []}',
        b'{"images": [{"file_name": "a.jpg", "id": 1, "width": -1, "height": "x"}], "annotations": []}',
        b"\xff\xfe\x00",
    ],
)
def test_a_document_that_is_none_is_refused_in_our_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "instances.json").write_bytes(content)
    with pytest.raises(DataError) as error:
        find_masks(samples("a.jpg"), source=tmp_path / "instances.json")
    assert str(error.value).count("\n") <= 1


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        "text",
        [[1, 2, 3]],
        [[1, 2, "x", 4, 5, 6]],
        [[1, 2, 3, 4, 5, float("inf")]],
        [[[1, 2], [3, 4], [5, 6]]],
        [{"a": 1}],
        {"counts": [5], "size": [6, 8]},
        {"counts": [-48, 96], "size": [6, 8]},
        {"counts": [24, 24], "size": [8, 6]},
        {"counts": [0.5, 47.5], "size": [6, 8]},
        {"counts": [[48]], "size": [6, 8]},
        {"size": [6, 8]},
        [[10**400, 1, 2, 3, 4, 5]],
    ],
)
def test_a_segmentation_that_is_none_is_refused(tmp_path: Path, segmentation: Any) -> None:
    path = coco(tmp_path, [{"image_id": 1, "category_id": 17, "segmentation": segmentation}])
    with pytest.raises(DataError, match="no usable segmentation"):
        find_masks(samples("a.jpg"), source=path)


def test_corners_far_away_and_polygons_without_area_do_no_harm(tmp_path: Path) -> None:
    far = polygon(1, -1e300, -1e300, 1e300, -1e300, 1e300, 1e300, -1e300, 1e300)
    masks = find_masks(samples("a.jpg"), source=coco(tmp_path, [far]))
    assert masks is not None
    mask_HW = masks.mask_of("a.jpg")
    assert mask_HW is not None
    assert mask_HW.all()
    with pytest.raises(DataError, match="no mask for any"):
        find_masks(samples("a.jpg"), source=coco(tmp_path, [polygon(1), polygon(1, 1, 1, 2, 2)]))


def test_a_mask_that_cannot_be_trusted_is_refused(tmp_path: Path) -> None:
    grey = Image.fromarray(INSIDE_HW.astype(np.uint8) * 255)
    save(tmp_path / "lossy.jpg", grey)
    see_through = Image.merge("RGBA", (grey, grey, grey, grey))
    save(tmp_path / "alpha.png", see_through)
    save(tmp_path / "colour.png", Image.merge("RGB", (grey, grey, Image.new("L", grey.size))))
    (tmp_path / "broken.png").write_bytes((tmp_path / "colour.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    for name, value, reason in (
        ("lossy.jpg", None, "JPEG does not keep pixel values"),
        ("alpha.jpg", None, "transparent"),
        ("colour.jpg", 1, "in colour"),
        ("broken.jpg", None, "cannot be used"),
        ("text.jpg", None, "not a picture"),
    ):
        with pytest.raises(DataError, match=reason):
            mask_at(tmp_path, name, value)
    assert (mask_at(tmp_path, "colour.jpg") == INSIDE_HW).all()  # without a value, what is not black is inside


def test_a_picture_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    (tmp_path / "1.png").write_bytes(buffer.getvalue())
    monkeypatch.setattr(masks_module, "decode", lambda data: pytest.fail("it was decoded"))
    with pytest.raises(DataError, match="too large"):
        mask_at(tmp_path, "1.jpg")


def test_names_lead_nowhere_outside_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "secret.png", INSIDE_HW)
    (tmp_path / "masks").mkdir()
    for name in ("../secret.jpg", str(tmp_path / "secret.jpg"), "/secret.jpg"):
        with pytest.raises(DataError, match="no mask for any"):
            find_masks(samples(name), source=tmp_path / "masks")


# --- real data


@needs_shared
def test_every_pet_has_a_mask_of_its_size() -> None:
    for split, count in (("train", 259), ("val", 111)):
        folder = SHARED / "pets37" / split
        pictures = list_pictures(folder)
        masks = find_masks(pictures, data=folder)
        assert masks is not None
        assert len(masks.loaders) == len(pictures) == count
        shares = []
        for sample in pictures[::10]:
            mask_HW = masks.mask_of(sample.name, sample.picture.decode().size)
            assert mask_HW is not None
            shares.append(mask_HW.mean())
        assert 0.2 < np.mean(shares) < 0.6


@needs_shared
@pytest.mark.parametrize(("split", "count"), [("val2017", 47), ("train2017", 26)])
def test_coco_photographs_have_their_objects(split: str, count: int) -> None:
    source = SHARED / "coco" / "annotations" / f"instances_{split}.json"
    pictures = list_pictures(SHARED / "coco" / split)
    masks = find_masks(pictures, source=source)
    assert masks is not None
    assert len(masks.loaders) == count
    document = json.loads(source.read_text())
    for image in document["images"][:8]:
        shapes = [
            np.reshape(flat, (-1, 2))
            for entry in document["annotations"]
            if entry["image_id"] == image["id"]
            for flat in entry["segmentation"]
        ]
        sample = next(sample for sample in pictures if sample.name == image["file_name"])
        mask_HW = masks.mask_of(sample.name, sample.picture.decode().size)
        if shapes:
            assert mask_HW is not None
            expected_HW = drawn_by_matplotlib(shapes, image["height"], image["width"])
            assert (mask_HW & expected_HW).sum() / (mask_HW | expected_HW).sum() > 0.97
    people = find_masks(pictures, source=source, category="person")
    assert people is not None
    assert 0 < len(people.loaders) < count


def test_a_picture_from_a_file_is_measured_upright(tmp_path: Path) -> None:
    """The photograph is stored on its side; its mask has the upright size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "1.jpg", np.zeros((8, 6, 3), dtype=np.uint8), exif=exif)
    save(tmp_path / "masks" / "1.png", INSIDE_HW)
    masks = find_masks([Sample("1.jpg", FilePicture(path))], data=tmp_path)
    assert masks is not None
    assert (masks.mask_of("1.jpg", FilePicture(path).decode().size) == INSIDE_HW).all()
