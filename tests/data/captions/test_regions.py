"""Which words of a caption name something, and where that is: the scenes' own truth, and COCO's categories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.paths import SHARED

from vitrine.data.captions.datasets import open_captions
from vitrine.data.captions.nouns import COLOURS, VERBS, Lexicon, coco_phrases, find_names, names_of, plural
from vitrine.data.captions.regions import PictureRegions, Region, find_named_words, open_regions
from vitrine.data.decode import BytesPicture
from vitrine.data.masks import coco_category_masks, coco_masks
from vitrine.data.samples import Sample
from vitrine.data.scenes import FAMILIES, ScenePicture, write_scenes
from vitrine.errors import DataError

COCO = SHARED / "coco"
needs_coco = pytest.mark.skipif(not COCO.is_dir(), reason="the real photographs of ../shared/data/coco are not here")

_WRITTEN = (
    "person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|"
    "parking meter|bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|"
    "handbag|tie|suitcase|frisbee|skis|snowboard|sports ball|kite|baseball bat|baseball glove|"
    "skateboard|surfboard|tennis racket|bottle|wine glass|cup|fork|knife|spoon|bowl|banana|apple|"
    "sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake|chair|couch|potted plant|bed|"
    "dining table|toilet|tv|laptop|mouse|remote|keyboard|cell phone|microwave|oven|toaster|sink|"
    "refrigerator|book|clock|vase|scissors|teddy bear|hair drier|toothbrush"
)
CATEGORIES = _WRITTEN.split("|")
LEXICON = Lexicon(coco_phrases(), verbs=VERBS, colours=COLOURS)


def names_in(sentence: str) -> list[tuple[str, str]]:
    """(the word that is counted, its category) of each name."""
    words = sentence.split()
    return [(words[name.index].strip(",.;!\"'()").lower(), name.kind) for name in find_names(words, LEXICON)]


# --- COCO's names


def test_there_are_eighty_categories() -> None:
    assert len(CATEGORIES) == 80
    assert {kind for kind in coco_phrases().values() if kind} == set(CATEGORIES)


@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_is_found_by_its_own_name_and_its_plural(category: str) -> None:
    head = category.split()[-1]
    assert names_in(f"A picture of the {category} on grass.") == [(head, category)]
    assert names_in(f"There is one {category}, and grass.") == [(head, category)]
    irregular = {
        "person": "people",
        "sheep": "sheep",
        "skis": "skis",
        "knife": "knives",
        "broccoli": "broccoli",
        "mouse": "mice",
        "scissors": "scissors",
    }
    several = irregular.get(category, f"{category}{'es' if category[-1] in 'sxh' else 's'}")
    if category != "orange":
        assert names_in(f"Some {several} on grass.") == [(several.split()[-1], category)]
    assert several in names_of(category)
    assert category in names_of(category)


def test_no_category_claims_a_name_of_another() -> None:
    claims: dict[str, str] = {}
    for category in CATEGORIES:
        for name in names_of(category):
            assert claims.setdefault(name, category) == category
            assert name == name.lower().strip()
            assert coco_phrases()[name] == category  # and none is listed as another thing


@pytest.mark.parametrize(
    ("sentence", "names"),
    [
        ("A hot dog and a teddy bear.", [("dog", "hot dog"), ("bear", "teddy bear")]),
        ("A hot-dog; a bear, a dog", [("hot-dog", "hot dog"), ("bear", "bear"), ("dog", "dog")]),
        ("a glass of wine on the table", [("glass", "wine glass"), ("table", "dining table")]),
        ("A woman and two girls with bikes", [("woman", "person"), ("girls", "person"), ("bikes", "bicycle")]),
        (
            "people on a motorbike near planes",
            [("people", "person"), ("motorbike", "motorcycle"), ("planes", "airplane")],
        ),
        ("a cellphone, a TV and a sofa", [("cellphone", "cell phone"), ("tv", "tv"), ("sofa", "couch")]),
        ("an orange cat", [("cat", "cat")]),
        ("a cat is orange and white", [("cat", "cat")]),
        ("an orange and white cat", [("cat", "cat")]),
        ("an orange on a plate, the orange.", [("orange", "orange"), ("orange", "orange")]),
        ("oranges", [("oranges", "orange")]),
        ("orange juice", []),
        ("a train station with a clock tower", []),
        ("a pizza box by a dog bowl", [("bowl", "bowl")]),
        ("carrot cake", [("cake", "cake")]),
        ("the dog's bowl", [("bowl", "bowl")]),
        ("a person-sized thing", []),
        ("A man skis down on his skis", [("man", "person"), ("skis", "skis")]),
        ("a boy, skis", [("boy", "person"), ("skis", "skis")]),
        ("a dog. bench", [("dog", "dog"), ("bench", "bench")]),
        ("a hot, dog", [("dog", "dog")]),
        ("a laptop computer keyboard", [("keyboard", "keyboard")]),
        ("a baby elephant by the bus stop", [("elephant", "elephant")]),
        ("street signs and a desk", []),
        ("", []),
        ("... ,", []),
    ],
)
def test_words_that_mislead(sentence: str, names: list[tuple[str, str]]) -> None:
    assert names_in(sentence) == names


def test_the_head_of_a_phrase_is_before_of() -> None:
    lexicon = Lexicon({"wine glass of water": "glass"})
    (name,) = find_names(["a", "wine", "glass", "of", "water", "here"], lexicon)
    assert (name.index, name.phrase) == (2, "wine glass of water")


def test_a_category_that_coco_does_not_have_is_called_by_its_name() -> None:
    assert names_of("Fire_Truck thing") == ("fire truck thing", "fire truck things")
    assert [plural(noun) for noun in ("box", "puppy", "toy", "bench", "dog")] == [
        *("boxes", "puppies", "toys", "benches", "dogs"),
    ]


# --- scenes


def scene_samples(count: int, family: str = "new", size: int = 48) -> list[Sample]:
    data = open_captions(f"scenes:{family}?train={count}&size={size}&seed=5")
    return list(data.splits["train"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_rules_read_scenes_captions_as_their_mentions_do(family: str) -> None:
    samples = scene_samples(40, family)
    regions = open_regions(f"scenes:{family}", samples)
    assert regions is not None
    assert regions.of("nobody.png") is None
    nouns = 0
    for sample in samples:
        assert isinstance(sample.picture, ScenePicture)
        scene, picture_regions = sample.picture.scene, regions.of(sample.name)
        assert picture_regions is not None
        by_rules = PictureRegions(picture_regions.regions, picture_regions.lexicon)
        for caption in scene.captions:
            words = caption.text.split()
            exact, read = find_named_words(words, picture_regions), find_named_words(words, by_rules)
            assert read == exact
            # Independently: the text in front of each mention ends with as many words as its index.
            for mention, word in zip(caption.mentions, exact, strict=True):
                assert len(caption.text[: mention.start].split()) == word.index
                assert caption.text[mention.start : mention.end] == word.name
                (index,) = word.regions
                assert index == mention.object_index
                assert (picture_regions.mask(word.regions, (48, 48)) == scene.objects[index].mask).all()
                nouns += 1
    assert nouns > 100


def test_mentions_are_used_where_the_rules_could_not_know() -> None:
    draw = np.ones((2, 2), dtype=bool).copy
    regions = tuple(Region("star", ("star",), ("red", "small"), draw) for _ in range(2))
    picture_regions = PictureRegions(regions, Lexicon({"star": "star"}), {"star and star": ((0, 4, 1), (9, 13, 0))})
    assert [word.regions for word in find_named_words(["Star", "and", "star"], picture_regions)] == [(1,), (0,)]
    assert [word.index for word in find_named_words(["Star", "and", "star"], picture_regions)] == [0, 2]
    assert [word.regions for word in find_named_words(["star", "star"], picture_regions)] == [(0, 1)]


def test_a_colour_chooses_and_a_wrong_one_names_nothing_there() -> None:
    for sample in scene_samples(30):
        assert isinstance(sample.picture, ScenePicture)
        objects = sample.picture.scene.objects
        if len({item.shape for item in objects}) < len(objects):
            break
    else:
        pytest.fail("no scene with two objects of one shape")
    regions = open_regions("scenes:new", [sample])
    assert regions is not None
    picture_regions = regions.of(sample.name)
    assert picture_regions is not None
    shape = next(item.shape for item in objects if sum(item.shape == other.shape for other in objects) > 1)
    same = tuple(index for index, item in enumerate(objects) if item.shape == shape)
    absent = next(colour for colour in ("red", "blue", "green", "white") if colour not in {o.colour for o in objects})
    other = next(name for name in ("drop", "clover", "bolt", "pie") if name not in {o.shape for o in objects})

    def one(caption: str) -> tuple[int, ...]:
        (word,) = find_named_words(caption.split(), picture_regions)
        return word.regions

    assert one(f"a {shape}") == same
    assert one(f"some {plural(shape)}.") == same
    assert one(f"The large {objects[same[0]].colour} {shape},") == same[:1]
    assert one(f"a {objects[same[1]].colour} small {shape}") == same[1:2]
    assert one(f"a {absent} {shape}") == ()
    assert one(f"{absent}, a {shape}") == same
    assert one(f"a {objects[0].colour} {other}") == ()
    union_HW = np.any([objects[index].mask for index in same], axis=0)
    assert (picture_regions.mask(same) == union_HW).all()
    assert find_named_words(["nothing", "at", "all"], picture_regions) == ()


@pytest.mark.parametrize("layout", ["folders", "coco"])
def test_written_scenes_have_the_regions_of_generated_ones(tmp_path: Path, layout: Any) -> None:
    folder = write_scenes(tmp_path / "scenes", "base", {"train": 6}, size=32, seed=2, layout=layout)
    data = open_captions(str(folder), val_fraction=0.2)
    samples = [sample for split in data.splits.values() for sample in split]
    assert len(samples) == 6
    regions = open_regions(str(folder), samples)
    assert regions is not None
    by_pixels = {
        ScenePicture("base", 2, "train", index, 32).read_bytes(): ScenePicture("base", 2, "train", index, 32).scene
        for index in range(6)
    }
    for sample in samples:
        scene, picture_regions = by_pixels[sample.picture.read_bytes()], regions.of(sample.name)
        assert picture_regions is not None
        assert len(picture_regions.regions) == len(scene.objects)
        for region, item in zip(picture_regions.regions, scene.objects, strict=True):
            assert (region.draw() == item.mask).all()
            assert (region.kind, region.attributes) == (item.shape, (item.colour, item.size))
        for caption in scene.captions:
            words = find_named_words(caption.text.split(), picture_regions)
            assert [word.regions for word in words] == [(each.object_index,) for each in caption.mentions]


@pytest.mark.parametrize(
    "change",
    [
        {"objects": 3},
        {"objects": []},
        {"captions": [{"text": "a star", "mentions": [[0, 99, 0]]}]},
        {"captions": [{"text": "a star", "mentions": [[2, 6, 9]]}]},
        {"captions": [{"text": "a star", "mentions": [["x"]]}]},
    ],
)
def test_broken_facts_of_scenes_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_scenes(tmp_path / "scenes", "new", {"train": 1}, size=32)
    samples = list(open_captions(str(folder)).splits["train"])
    facts = folder / "captions.jsonl"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | change) + "\n")
    with pytest.raises(DataError, match=r"captions\.jsonl, line 1: "):
        open_regions(str(folder), samples)


# --- COCO's layout


def sample(name: str) -> Sample:
    return Sample(name, BytesPicture(b""), captions=("a caption",))


def square(left: int, top: int, side: int) -> list[list[int]]:
    return [[left, top, left + side, top, left + side, top + side, left, top + side]]


def write_instances(file: Path, entries: list[tuple[str, int, list[list[int]]]], categories: dict[int, str]) -> Path:
    names = list(dict.fromkeys(name for name, _, _ in entries))
    document = {
        "images": [{"id": names.index(name), "file_name": name, "width": 12, "height": 10} for name in names],
        "categories": [{"id": number, "name": name} for number, name in categories.items()],
        "annotations": [
            {"image_id": names.index(name), "category_id": number, "segmentation": shape}
            for name, number, shape in entries
        ],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    return file


def test_instances_of_a_category_are_one_region(tmp_path: Path) -> None:
    dogs = [("1.jpg", 18, square(1, 1, 3)), ("1.jpg", 18, square(7, 5, 4)), ("1.jpg", 1, square(0, 8, 2))]
    file = write_instances(
        tmp_path / "annotations" / "instances_val2017.json", dogs, {1: "person", 18: "dog", 90: "Wug"}
    )
    other = write_instances(
        tmp_path / "annotations" / "instances_train2017.json", [("1.jpg", 90, square(2, 2, 5))], {90: "Wug"}
    )
    samples = [sample("val2017/1.jpg"), sample("train2017/1.jpg"), sample("val2017/2.jpg")]
    for reference in (tmp_path, tmp_path / "annotations" / "captions_val2017.json"):
        regions = open_regions(str(reference), samples)
        assert regions is not None
        assert str(other) in regions.origin
        assert regions.notes == ("1 of 3 pictures has no instances: nothing is known of what is in them.",)
        assert regions.of("val2017/2.jpg") is None
        picture_regions, wugs = regions.of("val2017/1.jpg"), regions.of("train2017/1.jpg")
        assert picture_regions is not None
        assert wugs is not None
        expected_HW = np.zeros((10, 12), dtype=bool)
        expected_HW[1:4, 1:4] = expected_HW[5:9, 7:11] = True
        puppy, people, cat = find_named_words(["A", "puppy,", "people", "and", "a", "cat."], picture_regions)
        assert (picture_regions.mask(puppy.regions, (12, 10)) == expected_HW).all()
        assert (puppy.index, people.index, cat.index) == (1, 2, 5)
        assert cat.regions == ()  # named, not there
        (wug,) = find_named_words(["two", "wugs"], wugs)
        assert wugs.mask(wug.regions).sum() == 25
        with pytest.raises(DataError, match="has 12 x 10 pixels, its upright picture 10 x 12"):
            picture_regions.mask(puppy.regions, (10, 12))
    masks, _ = coco_category_masks(file, ["1.jpg"])
    whole, _ = coco_masks(file, ["1.jpg"], None)
    assert (np.any([draw() for draw in masks["1.jpg"].values()], axis=0) == whole["1.jpg"]()).all()
    for category in ("dog", "person"):
        alone, _ = coco_masks(file, ["1.jpg"], category)
        assert (alone["1.jpg"]() == masks["1.jpg"][category]()).all()


def test_an_instance_of_no_category_is_refused(tmp_path: Path) -> None:
    file = write_instances(tmp_path / "instances_val2017.json", [("1.jpg", 7, square(1, 1, 3))], {1: "person"})
    with pytest.raises(DataError, match="category 7, which has no name"):
        coco_category_masks(file, ["1.jpg"])


def test_data_without_regions_have_none(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.jpg")
    (tmp_path / "captions.jsonl").write_text('{"file": "1.jpg", "caption": "a dog"}\n')
    assert open_regions(str(tmp_path), [sample("1.jpg")]) is None
    write_instances(tmp_path / "instances_x.json", [("9.jpg", 1, square(1, 1, 3))], {1: "person"})
    assert open_regions(str(tmp_path), [sample("1.jpg")]) is None


@needs_coco
def test_real_captions_name_what_is_there() -> None:
    samples = [each for split in open_captions(str(COCO)).splits.values() for each in split]
    regions = open_regions(str(COCO), samples)
    assert regions is not None
    assert len(regions.loaders) == 26 + 47
    there = absent = 0
    for each in samples:
        picture_regions = regions.of(each.name)
        if picture_regions is None:
            continue
        words = [word for caption in each.captions for word in find_named_words(caption.split(), picture_regions)]
        there += sum(bool(word.regions) for word in words)
        absent += sum(not word.regions for word in words)
        with Image.open(COCO / each.name) as image:
            size = image.size
        for indices in {word.regions for word in words if word.regions}:
            assert picture_regions.mask(indices, size).any()
    # People name what they see: a table of nouns that is wrong would have them name much that no annotator found.
    assert there > 500
    assert absent < 0.05 * there
