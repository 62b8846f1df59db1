"""The model card says what the run's files say, to people and to hubs, and nothing of the machine."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from sklearn.metrics import balanced_accuracy_score, f1_score

from vitrine.config import CaptionSpec, Recipe, TransformSpec
from vitrine.errors import RunError
from vitrine.plotting.tables import code, inline, public_name, tidy, without_paths
from vitrine.results import CaptioningMetrics, ClassificationMetrics, ClassMetrics
from vitrine.runs.model_card import model_card, read_card_facts, write_model_card
from vitrine.runs.model_card_sections import CardFacts, ExportFacts

HOSTILE = (
    'cat: "tabby"',
    "it's 100 % # not a comment",
    "- a list | of | cells",
    "`code` *star* _under_ ~tilde~",
    "<script>alert(1)</script> &amp; [link](http://x)",
    "---",
    "two\nlines\n---\nmore: {yaml}",
    "tab\tbell\x07 bidi\u202e",
    "日本語 é 🐈",
    "!!python/object:os.system",
    "\\back\\slash\\",
    "yes",
    "1e3",
    " spaced ",
)


@pytest.fixture(scope="module")
def run(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("carded") / "micro"
    shutil.copytree(small_run, folder)
    write_model_card(folder)
    return folder


@pytest.fixture(scope="module")
def facts(small_run: Path) -> CardFacts:
    return read_card_facts(small_run)


class Page(HTMLParser):
    """Tables, list entries and paragraphs of a page as the text that a reader sees."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.texts: list[str] = []
        self.elements: set[str] = set()
        self.into: list[str] = []
        body = markdown.split("\n---\n", 1)[1] if markdown.startswith("---\n") else markdown
        self.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")
            self.into = self.cells
        if tag in ("p", "li", "h1", "h2"):
            self.texts.append("")
            self.into = self.texts

    def handle_data(self, data: str) -> None:
        if self.into:
            self.into[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "p", "li", "h1", "h2"):
            self.into = []

    def after(self, name: str) -> str:
        """The cell that follows a cell."""
        return self.cells[self.cells.index(name) + 1]


def test_the_front_matter_is_what_hubs_read(run: Path) -> None:
    card = ModelCard.load(run / "README.md")
    assert card.data.library_name == "timm"
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.metrics == ["accuracy"] and "vitrine" in card.data.tags
    assert card.data.license is None, "whoever publishes it chooses one"
    assert card.data.base_model is None and card.data.datasets is None, "not on a hub"
    (result,) = card.data.eval_results
    metrics = json.loads((run / "metrics.json").read_text())
    assert (result.metric_type, result.metric_value) == ("accuracy", metrics["accuracy"])
    assert (result.dataset_name, result.dataset_split) == ("scenes", "validation")
    assert result.metric_args["interval_95"] == metrics["accuracy_interval_95"]
    assert card.data.model_name == "micro"


def test_the_accuracy_is_that_of_the_predictions(run: Path) -> None:
    data = json.loads((run / "data.json").read_text())
    truth = {row["name"]: data["labels"][row["label"]] for row in data["splits"]["validation"]}
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as stream:
        predictions = {row["filename"]: row["label"] for row in csv.DictReader(stream)}
    right, n = sum(truth[name] == label for name, label in predictions.items()), len(predictions)
    page = Page((run / "README.md").read_text("utf-8"))
    assert page.after("accuracy") == f"{right / n:.4f}"
    low, high = (float(end) for end in page.after("95 % interval over pictures (Wilson)").split(" to "))
    for end in (low, high):  # the ends are where the score test just rejects
        assert abs(right / n - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(1.96, abs=0.02)
    assert page.after("pictures").startswith(f"{n}, validation split")
    true, predicted = [truth[name] for name in predictions], list(predictions.values())
    assert page.after("balanced accuracy") == f"{balanced_accuracy_score(true, predicted):.4f}"
    assert page.after("macro F1") == f"{f1_score(true, predicted, average='macro'):.4f}"
    assert page.after("always the most frequent class").startswith(f"{max(map(true.count, true)) / n:.4f}")


def test_the_data_are_those_on_the_disk(run: Path, small_scenes: Path) -> None:
    text = (run / "README.md").read_text("utf-8")
    table = Page(text[text.index("Pictures of each class") :])
    for label in sorted(path.name for path in (small_scenes / "train").iterdir()):
        row = table.cells.index(label)
        counts = [int(cell) for cell in table.cells[row + 1 : row + 3]]
        assert counts == [len(list((small_scenes / split / label).iterdir())) for split in ("train", "validation")]
    whole = Page(text)
    assert (whole.after("train"), whole.after("validation")) == ("48", "24")
    assert "All of them could be read." in text


def test_figures_are_beside_it_and_links_lead_there(run: Path) -> None:
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (run / "README.md").read_text("utf-8"))
    assert links == ["figures/learning-curves.png", "figures/confusion.png"]
    for link in links:
        assert (run / link).read_bytes().startswith(b"\x89PNG")


def test_the_same_files_give_the_same_card(run: Path) -> None:
    files = [run / "README.md", *sorted((run / "figures").iterdir())]
    before = [file.read_bytes() for file in files]
    (run / "README.md").write_text("an old one")
    assert write_model_card(run) == run / "README.md"
    assert [file.read_bytes() for file in files] == before
    assert not [each for each in run.rglob("*") if each.name.endswith(".part")]


@pytest.mark.parametrize("name", ["metrics.json", "data.json", "environment.json", "config.json", "recipe.toml"])
def test_what_is_missing_or_damaged_is_named(name: str, small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run, tmp_path / "run")
    file = tmp_path / "run" / name
    file.unlink()
    (tmp_path / "run" / "README.md").unlink()
    with pytest.raises(RunError, match=re.escape(name)):
        write_model_card(tmp_path / "run")
    if name.endswith(".json"):
        for content in ("{", "[1]"):
            file.write_text(content)
            with pytest.raises(RunError, match=re.escape(name)):
                write_model_card(tmp_path / "run")
    assert not (tmp_path / "run" / "README.md").exists()


def test_metrics_or_weights_of_another_kind(small_run: Path, tmp_path: Path) -> None:
    shutil.copytree(small_run, tmp_path / "run")
    weights = (tmp_path / "run" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "model.safetensors").write_bytes(weights[:100])
    with pytest.raises(RunError, match=r"model\.safetensors cannot be read"):
        write_model_card(tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text('{"n": 3}')
    with pytest.raises(RunError, match="missing required field precision"):
        write_model_card(tmp_path / "run")


def with_labels(facts: CardFacts, labels: tuple[str, ...], recall: float | None = 0.5) -> CardFacts:
    """The facts with other classes."""
    classes = tuple(ClassMetrics(label, 0.25, recall, 10 + i) for i, label in enumerate(labels))
    assert isinstance(facts.metrics, ClassificationMetrics)
    metrics = replace(facts.metrics, classes=classes, confusion=(), hardest=())
    rows = [{"name": f"{i}.jpg", "label": i, "sha256": ""} for i in range(len(labels))]
    data = {**facts.data, "labels": list(labels), "splits": {"train": rows + rows, "validation": rows}}
    return replace(facts, labels=labels, metrics=metrics, data=data)


def test_names_are_shown_as_they_are(facts: CardFacts) -> None:
    page = Page(model_card(with_labels(facts, HOSTILE)))
    for label in HOSTILE:
        assert page.cells.count(tidy(label)) >= 2, "in the table of accuracies and in that of pictures"
        assert any(tidy(label) in text for text in page.texts), "among the classes that it knows"
    assert not page.elements & {"script", "a", "em", "s"}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_card_can_be_read_back_whatever_things_are_called(name: str, facts: CardFacts) -> None:
    data = {**facts.data, "reference": f"/data/{name}", "layout": name, "notes": [name, name]}
    text = model_card(replace(facts, name=name, data=data, recipe=replace(facts.recipe, description=name)))
    card = ModelCard(text)
    assert card.data.model_name == tidy(name)
    assert card.data.eval_results[0].metric_value == facts.metrics.accuracy
    assert card.data.pipeline_tag == "image-classification"
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict() and again.text == card.text
    assert Page(text).texts[0].strip() == tidy(name)


@given(st.text(max_size=30))
@settings(max_examples=150)
def test_any_text_is_shown_as_it_is(text: str) -> None:
    page = Page(f"| a |\n| --- |\n| {inline(text)} |")
    assert page.cells[1] == tidy(text)
    if tidy(text):
        (line,) = Page(f"x {code(text)} x").texts
        assert " ".join(line.split()) == " ".join(f"x {tidy(text)} x".split())


def test_a_card_says_nothing_of_the_machine(run: Path, small_run: Path, small_scenes: Path, tmp_path: Path) -> None:
    for place in (small_run, small_run.parent, small_scenes, run, Path.home(), Path.cwd()):
        assert str(place) not in (run / "README.md").read_text("utf-8")
    home = "/home/alice smith/secret project"
    shutil.copytree(small_run, tmp_path / "run")
    began = {"origin": f"{home}/base.pth", "path": f"{home}/base.pth", "sha256": "ab" * 32}
    changes: dict[str, dict[str, Any]] = {
        "environment.json": {"starting_weights": began},
        "data.json": {
            "reference": f"{home}/pets",
            "layout": f"class folders in {home}/pets/train",
            "notes": [f"Read from {home}/pets/labels.csv, and ~/elsewhere/alice/x.csv."],
            "quarantine": [{"split": "train", "name": "a.jpg", "reason": f"cannot open {home}/pets/a.jpg"}],
        },
    }
    for name, content in changes.items():
        file = tmp_path / "run" / name
        file.write_text(json.dumps(json.loads(file.read_text()) | content))
    facts = read_card_facts(tmp_path / "run")
    recipe = replace(
        facts.recipe, model=f"{home}/runs/first", pretrained=f"{home}/base.pth", description=f"As in {home}/pets."
    )
    text = model_card(replace(facts, recipe=recipe))
    for word in ("alice", "smith", "secret", "/home", "elsewhere", str(tmp_path)):
        assert word not in text, text[text.index(word) - 80 : text.index(word) + 80]
    page = Page(text)
    assert page.after("starting weights") == "base.pth" and page.after("their sha256") == "ab" * 32
    assert (page.after("model"), page.after("pretrained")) == ("first", "base.pth")
    assert "class folders in train" in text and "As in pets." in text
    assert "1 pictures could not be read" not in text and "1 picture could not be read and was left out." in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Read from /a/b/c.csv.", "Read from c.csv."),
        ("see ~/x/y", "see y"),
        ("see https://example.org/a/b for more", "see https://example.org/a/b for more"),
        ("timm/vit_base and 1/2, and/or class/{label}", "timm/vit_base and 1/2, and/or class/{label}"),
        ("in '../up/there'", "in 'there'"),
        ("{split}/{class}/x.jpg", "{split}/{class}/x.jpg"),
    ],
)
def test_paths_in_sentences(text: str, expected: str) -> None:
    assert without_paths(text) == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("/data/pets", "pets"),
        ("~/pets/", "pets"),
        ("../pets", "pets"),
        ("hf:/data/saved", "saved"),
        ("hf:owner/name", "hf:owner/name"),
        ("timm/vit_tiny", "timm/vit_tiny"),
        ("scenes:base", "scenes:base"),
        ("/data/a.csv?image=file&label=kind", "a.csv?image=file&label=kind"),
        ("C:\\Users\\alice\\pets", "pets"),
    ],
)
def test_references(reference: str, expected: str) -> None:
    assert public_name(reference) == expected


def test_what_is_on_a_hub_is_linked(facts: CardFacts) -> None:
    began = {"origin": "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k/model.safetensors", "path": "/x", "sha256": "00"}
    config = {**facts.config, "pretrained_cfg": {**facts.input, "license": "apache-2.0"}}
    on_the_hub = replace(
        facts,
        environment={**facts.environment, "starting_weights": began},
        data={**facts.data, "reference": "hf:owner/pets?config=small"},
        config=config,
    )
    text = model_card(on_the_hub)
    card = ModelCard(text)
    assert card.data.base_model == "timm/vit_tiny_patch16_224.augreg_in21k"
    assert card.data.datasets == "owner/pets" and card.data.eval_results[0].dataset_type == "owner/pets"
    assert "by timm: apache-2.0" in text
    assert ModelCard(model_card(facts)).data.get("base_model") is None


def test_the_worst_classes_come_first_and_small_ones_are_said(facts: CardFacts) -> None:
    labels = tuple(f"class {i}" for i in range(20))
    many = with_labels(facts, labels)
    assert isinstance(many.metrics, ClassificationMetrics)
    recalls = [((7 * i) % 20) / 20 for i in range(19)] + [None]
    classes = tuple(replace(c, recall=r) for c, r in zip(many.metrics.classes, recalls, strict=True))
    text = model_card(replace(many, metrics=replace(many.metrics, classes=classes)))
    part = text[text.index("finds least often") : text.index("All classes")]
    worst = [cell for cell in Page(part).cells if cell.startswith("class ")]
    expected = sorted(range(19), key=lambda i: recalls[i])[:10]
    assert worst == [f"class {i}" for i in expected]
    assert "10 of the classes have fewer than 20 pictures" in text, "10 to 29 pictures each"
    large = with_labels(facts, tuple(f"n{i}" for i in range(1000)))
    text = model_card(large)
    assert "1,000 classes" in text and "and 900 more" in text and len(text) < 12_000
    assert "Pictures a class: 2 to 2 (train), 1 to 1 (validation)." in text
    perfect = with_labels(facts, labels, recall=1.0)
    assert "least often" not in model_card(perfect)


def test_endless_data(facts: CardFacts) -> None:
    splits = {**facts.data["splits"], "train": "endless"}
    text = model_card(replace(facts, data={**facts.data, "reference": "scenes:base", "splits": splits}))
    assert Page(text).after("train") == "endless" and "`scenes:base`" in text


def test_every_setting_that_is_not_the_default_is_in_the_table(facts: CardFacts) -> None:
    others: dict[str, Any] = {
        "accumulate": 3, "epoch_size": 77, "optimizer": "muon", "beta2": 0.95, "warmup_epochs": 2.5,
        "final_lr_ratio": 0.3, "layer_decay": 0.7, "clip_norm": 2.0, "label_smoothing": 0.11, "mixup": 0.12,
        "cutmix": 0.13, "mix_off_epochs": 4, "ema": 0.9, "drop_path": 0.14, "patch_drop": 0.15, "precision": "fp32",
        "compile": True, "early_stopping": 6, "val_fraction": 0.16, "max_unreadable": 0.17, "shuffle_buffer": 78,
        "views": 2, "decoded_cache": 1.5, "loss": "cross_entropy", "class_weights": "balanced", "sampling": "balanced",
    }  # fmt: skip
    recipe = replace(facts.recipe, **others, transforms=TransformSpec(rotation=19.0, flip=0.25))
    page = Page(model_card(replace(facts, recipe=recipe)))
    for name, value in others.items():
        expected = "yes" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
        assert page.after(name) == expected
    assert (page.after("transforms.rotation"), page.after("transforms.flip")) == ("19", "0.25")
    assert page.after("model_args.embed_dim") == "32"
    not_shown = {
        "name",
        "description",
        "automatic",
        "workers",
        "checkpoint_minutes",
        "trackers",
        "transforms",
        "caption",
        "model_args",
    }
    plain = Page(model_card(replace(facts, recipe=Recipe(name="x", model="vit_tiny_patch16_224"))))
    usual = {"model", "pretrained", "image_size", "batch_size", "epochs", "learning_rate", "weight_decay"}
    assert {f.name for f in fields(Recipe)} & set(plain.cells) == usual | {"tune", "seed"}
    assert {f.name for f in fields(Recipe)} == usual | {"tune", "seed"} | set(others) | not_shown, (
        "a new field: show it"
    )
    assert plain.after("image_size") == "the model's own"


def caption_scores(value: float) -> dict[str, Any]:
    score = {"value": value, "interval_95": [value - 0.1, value + 0.1]}
    return {"metrics": {"bleu_1": score, "bleu_4": score, "rouge_l": score, "cider": score, "meteor": None}}


def test_a_captioner(facts: CardFacts) -> None:
    scores = {
        "predicted": caption_scores(0.75),
        "constant_caption": {"caption": "a *dog*", **caption_scores(0.25)},
        "human": None,
    }
    metrics = CaptioningMetrics(40, 500, "fp32", 1.5, 0.625, scores)
    recipe = Recipe(name="c", model="vitrine/scenes-tiny", caption=CaptionSpec(width=128), tune="head")
    text = model_card(replace(facts, metrics=metrics, recipe=recipe, labels=(), config={"architecture": "x"}))
    card = ModelCard(text)
    assert (card.data.pipeline_tag, card.data.library_name) == ("image-to-text", "vitrine")
    counts = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert counts == {"bleu": 0.75, "rouge": 0.75, "cider": 0.75}
    page = Page(text)
    row = page.cells.index("CIDEr")
    assert page.cells[row + 1 : row + 3] == ["0.750 (0.650 to 0.850)", "0.250 (0.150 to 0.350)"]
    assert page.after("caption.width") == "128"
    assert "vitrine caption micro IMAGES -o captions" in text and "classes and gives one" not in text
    assert any('"a *dog*"' in words and "62.50 %" in words for words in page.texts)


def test_an_export_has_its_own_use_and_checks(facts: CardFacts) -> None:
    text = model_card(replace(facts, export=ExportFacts("hf", "for the hub", "bf16", ("Compared: 0.001 * all.",))))
    assert 'pipeline("image-classification", model="./for the hub")' in text
    assert "vitrine predict 'for the hub' IMAGES" in text
    assert any(entry.strip() == "Compared: 0.001 * all." for entry in Page(text).texts)
    assert "the export's were not measured" in text
    assert ModelCard(text).data.library_name == "transformers"
