"""The sections of a model card, in the card's order: each is Markdown, written from the facts of a run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from vitrine.config import Recipe
from vitrine.plotting.tables import (
    Cell,
    code,
    details_block,
    format_share,
    inline,
    multi_label_figures,
    public_name,
    table,
    tidy,
    without_paths,
)
from vitrine.results import (
    CaptioningMetrics,
    ClassificationMetrics,
    ClassMetrics,
    LabelMetrics,
    MultiLabelMetrics,
    agree,
    and_n_more,
    count_of,
    percent,
    uneven_classes_figures,
)
from vitrine.runs.leakage import Leakage
from vitrine.runs.setting_changes import SettingChange, changes_sentence

_MAX_WORST = 10  # classes with the lowest recall that are listed
_MAX_ALL = 60  # classes up to which all of them are listed, too
_MAX_NAMES = 100  # class names in a sentence
_FEW_PICTURES = 20  # of a class, below which its recall says little
_METRICS = {"bleu_1": "BLEU-1", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider": "CIDEr", "meteor": "METEOR"}
_ALWAYS_SHOWN = (
    "model",
    "pretrained",
    "image_size",
    "epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "tune",
    "seed",
)
_NOT_SHOWN = ("name", "description", "workers", "checkpoint_minutes", "trackers", "transforms", "caption", "model_args")


@dataclass(frozen=True)
class ExportFacts:
    """What a card says of an export.

    Attributes:
        to: hf, timm, onnx or pt2.
        name: of its folder.
        precision: of the stored weights.
        checks: sentences on its comparison with the run.
    """

    to: str
    name: str
    precision: str
    checks: tuple[str, ...]


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a finished run.

    Attributes:
        name: of its folder.
        recipe: its settings.
        labels: class names; none of a captioner.
        metrics: measured at the end of the training.
        split: that they were measured on.
        data: content of data.json.
        environment: content of environment.json.
        history: rows of history.jsonl.
        config: content of config.json.
        parameters: numbers in its weights.
        figures: (path from the card, what it shows).
        export: None in the run's own card.
        local_paths: folders and files of this machine, which the card does not name.
        leakage: pictures that it was measured on and that also stand in training; None where that cannot be known.
        changes: settings that were changed while it trained.
    """

    name: str
    recipe: Recipe
    labels: tuple[str, ...]
    metrics: ClassificationMetrics | MultiLabelMetrics | CaptioningMetrics
    split: str
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    parameters: int
    figures: tuple[tuple[str, str], ...] = ()
    export: ExportFacts | None = None
    local_paths: tuple[str, ...] = ()
    leakage: Leakage | None = None
    changes: tuple[SettingChange, ...] = ()

    @property
    def is_classifier(self) -> bool:
        """Whether the run trained a classifier, not a captioner."""
        return isinstance(self.metrics, ClassificationMetrics | MultiLabelMetrics)

    @property
    def is_multi_label(self) -> bool:
        """Whether the run trained a classifier that gives a picture any number of labels."""
        return isinstance(self.metrics, MultiLabelMetrics)

    @property
    def data_reference(self) -> str:
        """The reference of the run's data, as the person wrote it."""
        return str(self.data.get("reference", "unknown data"))

    @property
    def dataset(self) -> str | None:
        """The data set's id on the Hugging Face hub; None where it is not from there."""
        place = self.data_reference.partition("?")[0]
        name = place.removeprefix("hf:")
        from_hub = place.startswith("hf:") and name[:1] not in ("", ".", "/", "~")
        return name.partition("@")[0] if from_hub and name.count("/") <= 1 else None

    @property
    def base_model(self) -> str | None:
        """The hub's id of the model that training began from; None where its weights are not from the hub."""
        starting_weights = self.environment.get("starting_weights") or {}
        origin = str(starting_weights.get("origin", ""))
        parts = origin.removeprefix("hf-hub:").split("/")
        return "/".join(parts[:2]).partition("@")[0] if origin.startswith("hf-hub:") and len(parts) > 2 else None

    @property
    def best_epoch(self) -> int:
        """The epoch that the weights are of, counted from 1; 0 where the history marks none as the best."""
        return next((int(row["epoch"]) for row in reversed(self.history) if row["best"]), 0)

    @property
    def input(self) -> Mapping[str, Any]:
        """timm's description of a classifier's input; empty of a captioner."""
        description: Mapping[str, Any] = self.config.get("pretrained_cfg", {})
        return description


def summary_section(facts: CardFacts) -> str:
    """What the model is, in one paragraph, and the recipe's description."""
    architecture, size = code(str(facts.config.get("architecture", "model"))), facts.input.get("input_size")
    pixels = f" for pictures of {size[-1]} × {size[-1]} pixels" if size else ""
    description = inline(without_paths(facts.recipe.description, facts.local_paths))
    if facts.is_multi_label:
        labels = f"{count_of(len(facts.labels), 'label')}, each of which is there or not"
        what = f"A multi-label classifier of pictures, with {labels}: {architecture}{pixels}"
    elif facts.is_classifier:
        what = (
            f"A classifier of pictures into {count_of(len(facts.labels), 'class', 'classes')}: {architecture}{pixels}"
        )
    else:
        what = "A captioner: it says in a sentence what a picture shows, with an attention map for every word"
    return (
        f"{what}; {facts.parameters:,} parameters. Trained with vitrine {facts.environment.get('vitrine', '')} on "
        f"{code(public_name(facts.data_reference, facts.local_paths))}." + (f"\n\n{description}" if description else "")
    )


def usage_section(facts: CardFacts) -> str:
    """How to use the model: commands of vitrine, and a program with the library that the folder is for."""
    export = facts.export
    name = export.name if export else facts.name
    if not facts.is_classifier:
        return f"With the folder here as {_folder(name)}:\n\n" + _commands(
            f"vitrine caption {shlex.quote(name)} IMAGES -o captions"
        )
    folder = {"hf": f"./{name}", "timm": f"local-dir:{name}"}
    to = export.to if export else "timm"
    files = {"onnx": "model.onnx", "pt2": "model.pt2"}
    code_block = _program(facts, to, folder.get(to, ""), f"{name}/{files.get(to, '')}")
    parts = [f"With the folder here as {_folder(name)}:", f"```python\n{code_block}\n```"]
    if to == "hf":
        parts.append(_transformers_needs(facts, folder[to]))
    if to in folder:
        run = shlex.quote(name)
        parts.append(
            _commands(f"vitrine predict {run} IMAGES -o predictions.csv", f"vitrine explain {run} IMAGES -o maps")
        )
    return "\n\n".join(parts)


def _transformers_needs(facts: CardFacts, folder: str) -> str:
    """What a folder of transformers needs besides transformers, and what to do without it."""
    needs = (
        "timm has to be installed beside transformers, which lets it prepare the pictures (TimmWrapperImageProcessor)."
    )
    if facts.input.get("crop_mode") == "border":
        return needs
    other = code(f"image_processor=BitImageProcessor.from_pretrained({_literal(folder)})")
    return f"{needs} Without timm, give the pipeline {other}: its crop may lie a pixel off, and labels can move."


def _folder(name: str) -> str:
    return code(f"{name}/")


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _commands(*lines: str) -> str:
    return "```\n" + "\n".join(" ".join(line.split()) for line in lines) + "\n```"


_OPEN = """\
def open_picture(path):
    \"\"\"Upright 8-bit RGB, as in training: transparency on white, greyscale of more than 8 bits scaled to 8.\"\"\"
    with open(path, "rb") as file:  # not by its path: there Pillow does not turn some TIFF files upright
        picture = Image.open(file)
        bits = max(getattr(picture, "tag_v2", {{}}).get(258, (16,)))  # only TIFF files say it
        picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):
        values = np.rint(np.asarray(picture, dtype=np.float32) * (255 / (2**bits - 1))).clip(0, 255)
        picture = Image.fromarray(values.astype(np.uint8))
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
"""

_TIMM = f"""\
import numpy as np
import timm, torch
from PIL import Image, ImageOps

{_OPEN}

model = timm.create_model({{folder}}, pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
pixels = prepare(open_picture("picture.jpg"))[None]
with torch.inference_mode():
    probabilities = model(pixels).softmax(1)[0]
print(model.pretrained_cfg["label_names"][probabilities.argmax()], float(probabilities.max()))"""

_TRANSFORMERS = f"""\
import numpy as np
from PIL import Image, ImageOps
from transformers import pipeline

{_OPEN}

classify = pipeline("image-classification", model={{folder}})
print(classify(open_picture("picture.jpg")))"""

_RESIZE = {
    "squash": "size = columns, rows",
    "border": """\
ratio = max(picture.height / rows, picture.width / columns)
size = round(picture.width / ratio), round(picture.height / ratio)""",
    "center": """\
ratio = min(picture.height / rows, picture.width / columns)
size = round(picture.width / ratio), round(picture.height / ratio)""",
    "center of a square": """\
x, y = picture.size
size = (rows, int(rows * y / x)) if x <= y else (int(rows * x / y), rows)""",
}
"""What comes between rows and columns, of the whole resized picture, and size, by crop_mode; as timm rounds."""

_PREPARE = f"""\

{_OPEN}

given = {{input}}
_, high, wide = given["input_size"]
rows, columns = (math.floor(side / given["crop_pct"]) for side in (high, wide))
picture = open_picture("picture.jpg")
{{resize}}
picture = picture.resize(size, Image.Resampling.{{filter}})
# The middle is cut out; where the picture is smaller, there is a border.
left, top = (
    (side - of) // 2 if side > of else -round((of - side) / 2) for side, of in zip((wide, high), picture.size)
)
cut = Image.new("RGB", (wide, high), {{border}})
cut.paste(picture, (left, top))
pixels = (np.array(cut, dtype=np.float32) / 255 - np.float32(given["mean"])) / np.float32(given["std"])
pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # (pictures, colours, rows, columns)
"""

_ONNX = (
    """\
import json, math
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession({file})
metadata = session.get_modelmeta().custom_metadata_map

"""
    + _PREPARE.replace("{input}", 'json.loads(metadata["input"])').lstrip("\n")
    + """
logits = session.run(["logits"], {{"pixels": pixels}})[0][0]
print(json.loads(metadata["labels"])[logits.argmax()])"""
)

_PT2 = (
    """\
import json, math
import numpy as np
import torch
from PIL import Image, ImageOps

extra = {{"vitrine.json": ""}}
model = torch.export.load({file}, extra_files=extra).module()
metadata = json.loads(extra["vitrine.json"])

"""
    + _PREPARE.replace("{input}", 'metadata["input"]').lstrip("\n")
    + """
with torch.inference_mode():
    logits = model(torch.from_numpy(pixels))[0]
print(metadata["labels"][logits.argmax()])"""
)


_SEVERAL_LABELS = (
    ("model(pixels).softmax(1)[0]", "model(pixels).sigmoid()[0]"),
    (
        'print(model.pretrained_cfg["label_names"][probabilities.argmax()], float(probabilities.max()))',
        'labels = zip(model.pretrained_cfg["label_names"], probabilities.tolist())\n'
        "print([(label, probability) for label, probability in labels if probability > 0.5])",
    ),
    (
        'print(json.loads(metadata["labels"])[logits.argmax()])',
        "# Logits above 0 are probabilities above 0.5.\n"
        'print([label for label, logit in zip(json.loads(metadata["labels"]), logits) if logit > 0])',
    ),
    (
        'print(metadata["labels"][logits.argmax()])',
        "# Logits above 0 are probabilities above 0.5.\n"
        'print([label for label, logit in zip(metadata["labels"], logits) if logit > 0])',
    ),
)
"""What programs do with the outputs of a model of one label, and what they do with those of a multi-label model."""


def _program(facts: CardFacts, to: str, folder: str, file: str) -> str:
    """A program that opens the folder with the library that it is for, and one picture."""
    program = {"hf": _TRANSFORMERS, "timm": _TIMM, "onnx": _ONNX, "pt2": _PT2}[to]
    if facts.is_multi_label:
        for one_label, several_labels in _SEVERAL_LABELS:
            program = program.replace(one_label, several_labels)
    cfg = facts.input
    mode, interpolation = str(cfg.get("crop_mode", "center")), str(cfg.get("interpolation", "bicubic"))
    _, rows, columns = cfg.get("input_size", (3, 1, 1))
    is_border = mode == "border"
    return program.format(
        folder=_literal(folder),
        file=_literal(file),
        resize=_RESIZE["center of a square" if mode == "center" and rows == columns else mode],
        filter=interpolation.upper(),
        border=tuple(round(255 * value) for value in cfg["mean"]) if is_border else (0, 0, 0),
    )


def results_section(facts: CardFacts) -> str:
    """How good the model is, on how many pictures, and on which classes it is worst."""
    metrics = facts.metrics
    if isinstance(metrics, ClassificationMetrics):
        return _classification_results(facts, metrics)
    if isinstance(metrics, MultiLabelMetrics):
        return _multi_label_results(facts, metrics)
    return _caption_results(facts, metrics)


def _classification_results(facts: CardFacts, metrics: ClassificationMetrics) -> str:
    interval = metrics.accuracy_interval
    rows: list[tuple[Cell, ...]] = [
        ("accuracy", f"{metrics.accuracy:.4f}"),
        ("95 % interval over pictures (Wilson)", f"{interval.low:.4f} to {interval.high:.4f}"),
        ("pictures", f"{metrics.n:,}, {facts.split} split"),
        *_leakage_rows(facts.leakage),
        ("trainings", f"1, seed {facts.recipe.seed}: what another seed would change is not known"),
        *uneven_classes_figures(metrics),
        *([] if metrics.top5 is None else [("top-5 accuracy", f"{metrics.top5:.4f}")]),
        ("negative log-likelihood", f"{metrics.negative_log_likelihood:.4f}"),
        (
            "expected calibration error",
            f"{metrics.calibration_error:.4f} ({count_of(metrics.calibration_bins, 'bin')})",
        ),
        ("computed in", metrics.precision),
    ]
    parts = [table(("", "value"), rows), *_leakage_sentences(facts.leakage)]
    with_pictures = [entry for entry in metrics.classes if entry.recall is not None]
    worst = sorted(with_pictures, key=lambda entry: (entry.recall or 0.0, entry.label))[:_MAX_WORST]
    if worst and (worst[0].recall or 0.0) < 1:
        parts += ["The classes that it finds least often:", _classes_table(worst)]
    if _MAX_WORST < len(metrics.classes) <= _MAX_ALL:
        parts.append(details_block("All classes", _classes_table(metrics.classes)))
    return "\n\n".join(parts)


def _multi_label_results(facts: CardFacts, metrics: MultiLabelMetrics) -> str:
    figures = multi_label_figures(metrics)
    rows: list[tuple[Cell, ...]] = [
        *figures[:-1],
        *_leakage_rows(facts.leakage),
        ("split", facts.split),
        ("trainings", f"1, seed {facts.recipe.seed}: what another seed would change is not known"),
        figures[-1],
    ]
    parts = [table(("", "value"), rows), *_leakage_sentences(facts.leakage)]
    with_pictures = [entry for entry in metrics.classes if entry.average_precision is not None]
    worst = sorted(with_pictures, key=lambda entry: (entry.average_precision or 0.0, entry.label))[:_MAX_WORST]
    parts += ["The labels that it ranks worst:", _labels_table(worst)]
    if _MAX_WORST < len(metrics.classes) <= _MAX_ALL:
        parts.append(details_block("All labels", _labels_table(metrics.classes)))
    return "\n\n".join(parts)


def _labels_table(entries: Sequence[LabelMetrics]) -> str:
    rows = [
        (
            each.label,
            format_share(each.average_precision),
            format_share(each.f1),
            format_share(each.recall),
            format_share(each.precision),
            each.support,
        )
        for each in entries
    ]
    return table(("label", "average precision", "F1", "recall", "precision", "pictures"), rows)


def _leakage_rows(leakage: Leakage | None) -> list[tuple[Cell, ...]]:
    """The accuracy without pictures that also stand in training, and without those that look as if they did."""
    if not leakage:
        return []
    rows = [("without pictures that also stand in training", leakage.exact, leakage.without_exact)]
    rows.append(("without these and near copies", leakage.near, leakage.without_any))
    return [
        (
            f"{what} ({count:,})",
            f"{rest.value:.4f}, {rest.interval.low:.4f} to {rest.interval.high:.4f}, n = {rest.n:,}",
        )
        for what, count, rest in rows
        if count and rest.n
    ]


def _leakage_sentences(leakage: Leakage | None) -> list[str]:
    return [f"**{sentence}**" for sentence in leakage.sentences()] if leakage else []


def _classes_table(entries: Sequence[ClassMetrics]) -> str:
    rows = [(each.label, format_share(each.recall), format_share(each.precision), each.support) for each in entries]
    return table(("class", "found (recall)", "right when said (precision)", "pictures"), rows)


def _caption_results(facts: CardFacts, metrics: CaptioningMetrics) -> str:
    scores = metrics.scores
    columns = {"this model": scores["predicted"], "one caption for all": scores["constant_caption"]}
    if scores.get("human"):
        columns["people"] = scores["human"]
    rows = [
        (label, *(_score(column["metrics"].get(key)) for column in columns.values()))
        for key, label in _METRICS.items()
        if scores["predicted"]["metrics"].get(key)
    ]
    constant_caption = scores["constant_caption"]["caption"]
    return "\n\n".join(
        [
            f"On {count_of(metrics.n, 'picture')} of the {facts.split} split, computed in "
            f"{metrics.precision}; 95 % intervals "
            f"over pictures in parentheses. One training, seed {facts.recipe.seed}: what another seed would change is "
            "not known.",
            *_leakage_sentences(facts.leakage),
            table(("", *columns), rows),
            f'"One caption for all" is what is reached without looking: "{inline(constant_caption)}". '
            f"Of {count_of(metrics.pieces, 'word piece')}, {percent(metrics.accuracy, 2)} are the likeliest "
            f"after the human ones "
            "before them.",
        ]
    )


def _score(score: Mapping[str, Any] | None) -> str | None:
    if score is None:
        return None
    ends = score.get("interval_95")
    return f"{score['value']:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def data_section(facts: CardFacts) -> str:
    """Where the pictures come from, how many there are of each split and class, and how many could not be read."""
    splits: Mapping[str, Any] = facts.data.get("splits", {})
    rows = [(name, part if isinstance(part, str) else len(part)) for name, part in splits.items()]
    layout = inline(without_paths(str(facts.data.get("layout", "layout not known")), facts.local_paths))
    lines = [
        f"{code(public_name(facts.data_reference, facts.local_paths))}: {layout}.",
        table(("split", "pictures"), rows),
    ]
    lines.append(_unreadable_sentence(len(facts.data.get("quarantine", []))))
    notes = [inline(without_paths(str(note), facts.local_paths)) for note in facts.data.get("notes", [])]
    lines.append("\n".join(f"- {note}" for note in notes))
    lines.append(_pictures_by_class(facts, splits))
    return "\n\n".join(line for line in lines if line)


def _unreadable_sentence(count: int) -> str:
    if not count:
        return "All of them could be read."
    return f"{count_of(count, 'picture')} could not be read and {'was' if count == 1 else 'were'} left out."


def _pictures_by_class(facts: CardFacts, splits: Mapping[str, Any]) -> str:
    """A table of each class's pictures, or their range where there are too many classes."""
    finite = {name: part for name, part in splits.items() if not isinstance(part, str)}
    if not facts.labels or not finite:
        return ""
    counts = {name: [0] * len(facts.labels) for name in finite}
    for name, part in finite.items():
        for row in part:
            for label in row.get("labels", [row.get("label")]):
                if label is not None:
                    counts[name][label] += 1
    if len(facts.labels) > _MAX_ALL:
        ranges = [f"{min(each):,} to {max(each):,} ({name})" for name, each in counts.items()]
        return f"Pictures a {'label' if facts.is_multi_label else 'class'}: {', '.join(ranges)}."
    rows: list[tuple[Cell, ...]] = [
        (label, *(each[i] for each in counts.values())) for i, label in enumerate(facts.labels)
    ]
    noun = "label" if facts.is_multi_label else "class"
    return details_block(f"Pictures of each {noun}", table((noun, *counts), rows))


def recipe_section(facts: CardFacts) -> str:
    """The main settings, and all that are not the default; how many epochs were trained, and which was the best."""
    recipe = facts.recipe
    rows: list[tuple[str, str]] = []
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        if field.name == "image_size" and not value:
            value = "the model's own"
        if field.name in _ALWAYS_SHOWN or (field.name not in _NOT_SHOWN and value != field.default):
            rows.append((field.name, _value(value, facts.local_paths)))
    rows += [(f"model_args.{name}", _value(value, facts.local_paths)) for name, value in recipe.model_args.items()]
    for part in ("transforms", "caption"):
        spec = getattr(recipe, part)
        rows += [(f"{part}.{name}", _value(value, facts.local_paths)) for name, value in _non_default_fields(spec)]
    lines = ["| setting | value |", "| --- | --- |", *(f"| {code(name)} | {inline(value)} |" for name, value in rows)]
    epochs = f"{count_of(len(facts.history), 'epoch')} {agree(len(facts.history), 'was', 'were')} trained"
    best = f"; the weights are those of epoch {facts.best_epoch}, the best on the validation pictures"
    changes = inline(changes_sentence(facts.changes))
    note = f"\n\n{changes} The table has what it ended with." if changes else ""
    return f"{epochs}{best if facts.best_epoch else ''}.{note}\n\n" + "\n".join(lines)


def _non_default_fields(spec: Any) -> list[tuple[str, Any]]:
    if not is_dataclass(spec):
        return []
    pairs = [(field, getattr(spec, field.name)) for field in fields(spec)]
    return [(field.name, value) for field, value in pairs if value != field.default]


def _value(value: Any, places: Sequence[str]) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return public_name(value, places)
    if isinstance(value, tuple | list):
        return ", ".join(_value(each, places) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def figures_section(facts: CardFacts) -> str:
    """The figures in the card's folder."""
    return "\n\n".join(f"![{inline(words)}]({path})" for path, words in facts.figures)


def limits_section(facts: CardFacts) -> str:
    """What was not checked, and what the metrics do not say."""
    lines = []
    if facts.split == "validation":
        lines.append(
            f"Measured on the validation pictures, by which epoch {facts.best_epoch} of {len(facts.history)} was "
            "chosen: on new pictures it may do a little worse. It was not measured on held-out test pictures."
        )
    lines.append(
        "The interval is for drawing other pictures of the same kind. It says nothing of another training with another "
        "seed, or of pictures of another kind."
    )
    metrics = facts.metrics
    if isinstance(metrics, MultiLabelMetrics):
        lines.append(_labels_sentence(facts.labels, metrics))
    if isinstance(metrics, ClassificationMetrics):
        lines.append(_classes_sentence(facts.labels))
        few = sum(entry.support < _FEW_PICTURES for entry in metrics.classes)
        if few:
            lines.append(
                f"{few} of the classes have fewer than {count_of(_FEW_PICTURES, 'picture')} there: their "
                f"recall is uncertain."
            )
    lines.append(
        "Not checked: how it does for different people, places or cameras; pictures that are damaged, edited or meant "
        f"to deceive{_unchecked_copies(facts.leakage)}."
    )
    if facts.leakage is not None and not facts.leakage:
        lines += facts.leakage.verdict()
    lines.append(
        "No licence is stated here: it is for whoever publishes the model to choose, with an eye to those of the "
        f"pictures{_licence_note(facts)}."
    )
    return "\n".join(f"- {line}" for line in lines)


def _unchecked_copies(leakage: Leakage | None) -> str:
    if leakage is None:
        return "; whether pictures that it was measured on also stand in training, which are not listed one by one"
    return (
        "" if leakage.near_checked else "; whether near copies of training pictures are among those it was measured on"
    )


def _classes_sentence(labels: Sequence[str]) -> str:
    names = and_n_more([inline(label) for label in labels], _MAX_NAMES)
    rest = ", which the folder's files list" if len(labels) > _MAX_NAMES else ""
    return (
        f"It knows {count_of(len(labels), 'class', 'classes')} and gives one of them to every picture, "
        f"whatever it shows: {names}{rest}."
    )


def _labels_sentence(labels: Sequence[str], metrics: MultiLabelMetrics) -> str:
    names = and_n_more([inline(label) for label in labels], _MAX_NAMES)
    few = sum(entry.support < _FEW_PICTURES for entry in metrics.classes)
    uncertain = (
        f" {few} of them have fewer than {count_of(_FEW_PICTURES, 'picture')} there: their figures are uncertain."
        if few
        else ""
    )
    return (
        f"It knows {count_of(len(labels), 'label')}, and says of each whether it is there: {names}. The threshold of "
        f"{metrics.threshold:g} was not chosen for any purpose.{uncertain}"
    )


def _licence_note(facts: CardFacts) -> str:
    if not facts.environment.get("starting_weights"):
        return ""
    licence = facts.input.get("license")
    return " and of the weights that training began from" + (f" (by timm: {inline(str(licence))})" if licence else "")


def export_section(facts: CardFacts) -> str:
    """How the export was compared with the run; empty in a run's own card."""
    if facts.export is None:
        return ""
    lines = [*map(inline, facts.export.checks), "The figures above are the run's own: the export's were not measured."]
    return "\n".join(f"- {line}" for line in lines)


def provenance_section(facts: CardFacts) -> str:
    """Starting weights, seed, precision and versions, as a table."""
    environment = facts.environment
    starting_weights = environment.get("starting_weights")
    rows: list[tuple[Cell, ...]] = [("starting weights", "none: random")]
    if starting_weights:
        rows = [
            ("starting weights", _origin_of(starting_weights, facts.local_paths)),
            ("their sha256", tidy(str(starting_weights.get("sha256", "not known")))),
        ]
    rows += [
        ("seed", str(environment.get("seed", facts.recipe.seed))),
        ("trained in", f"{environment.get('precision', '')} on {environment.get('device', '')}"),
        ("vitrine", str(environment.get("vitrine", ""))),
        ("Python", f"{environment.get('python', '')}, {environment.get('platform', '')}"),
        *((name, str(version)) for name, version in environment.get("packages", {}).items()),
    ]
    return table(("", ""), rows)


def _origin_of(starting_weights: Mapping[str, Any], local_paths: Sequence[str]) -> str:
    origin = str(starting_weights.get("origin", ""))
    return origin if origin.startswith("hf-hub:") else public_name(origin, local_paths)
