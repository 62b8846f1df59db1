"""The parts of a model card, each as Markdown from a run's facts."""

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
    public_name,
    table,
    tidy,
    without_paths,
)
from vitrine.results import CaptioningMetrics, ClassificationMetrics, ClassMetrics


@dataclass(frozen=True)
class ExportFacts:
    """The export that a card is for.

    Attributes:
        to: hf, timm, onnx or pt2.
        name: of its folder.
        precision: of the stored weights.
        found: what was compared with the run, in sentences.
    """

    to: str
    name: str
    precision: str
    found: tuple[str, ...]


@dataclass(frozen=True)
class CardFacts:
    """A finished run.

    Attributes:
        name: of its folder.
        recipe: its settings.
        labels: class names; none of a captioner.
        metrics: what it measured at its end.
        split: what that was measured on.
        data: content of data.json.
        environment: content of environment.json.
        history: rows of history.jsonl.
        config: content of config.json.
        parameters: numbers in its weights.
        figures: (path from the card, what it shows).
        export: None in the run's own card.
        places: folders and files of this machine that texts may mention.
    """

    name: str
    recipe: Recipe
    labels: tuple[str, ...]
    metrics: ClassificationMetrics | CaptioningMetrics
    split: str
    data: Mapping[str, Any]
    environment: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    parameters: int
    figures: tuple[tuple[str, str], ...] = ()
    export: ExportFacts | None = None
    places: tuple[str, ...] = ()

    @property
    def classifies(self) -> bool:
        """Whether it is a classifier, not a captioner."""
        return isinstance(self.metrics, ClassificationMetrics)

    @property
    def data_reference(self) -> str:
        """What was written for DATA."""
        return str(self.data.get("reference", "unknown data"))

    @property
    def dataset(self) -> str | None:
        """The data set's id on the hub, where it is from there."""
        place = self.data_reference.partition("?")[0]
        name = place.removeprefix("hf:")
        from_hub = place.startswith("hf:") and name[:1] not in ("", ".", "/", "~")
        return name.partition("@")[0] if from_hub and name.count("/") <= 1 else None

    @property
    def base_model(self) -> str | None:
        """The id on the hub of the model whose weights training began from, where they are from there."""
        began = self.environment.get("starting_weights") or {}
        origin = str(began.get("origin", ""))
        parts = origin.removeprefix("hf-hub:").split("/")
        return "/".join(parts[:2]).partition("@")[0] if origin.startswith("hf-hub:") and len(parts) > 2 else None

    @property
    def best_epoch(self) -> int:
        """Counted from 1; 0 where the history says nothing."""
        return next((int(row["epoch"]) for row in reversed(self.history) if row["best"]), 0)

    @property
    def input(self) -> Mapping[str, Any]:
        """Of a classifier: timm's description of its input."""
        found: Mapping[str, Any] = self.config.get("pretrained_cfg", {})
        return found


_WORST = 10  # classes that are listed
_ALL = 60  # classes up to which all of them are listed, too
_NAMED = 100  # class names in a sentence
_FEW = 20  # pictures of a class below which its recall says little
_METRICS = {"bleu_1": "BLEU-1", "bleu_4": "BLEU-4", "rouge_l": "ROUGE-L", "cider": "CIDEr", "meteor": "METEOR"}


def whatever(facts: CardFacts) -> str:
    """What it is, in one paragraph."""
    built, size = code(str(facts.config.get("architecture", "model"))), facts.input.get("input_size")
    pixels = f" for pictures of {size[-1]} × {size[-1]} pixels" if size else ""
    trained = inline(without_paths(facts.recipe.description, facts.places))
    if facts.classifies:
        what = f"A classifier of pictures into {len(facts.labels):,} classes: {built}{pixels}"
    else:
        what = "A captioner: it says in a sentence what a picture shows, with an attention map for every word"
    return (
        f"{what}; {facts.parameters:,} parameters. Trained with vitrine {facts.environment.get('vitrine', '')} on "
        f"{code(public_name(facts.data_reference, facts.places))}." + (f"\n\n{trained}" if trained else "")
    )


def data(facts: CardFacts) -> str:
    """Where pictures came from, how many there were, and which were set aside."""
    splits: Mapping[str, Any] = facts.data.get("splits", {})
    rows = [(name, part if isinstance(part, str) else len(part)) for name, part in splits.items()]
    layout = inline(without_paths(str(facts.data.get("layout", "layout not known")), facts.places))
    lines = [
        f"{code(public_name(facts.data_reference, facts.places))}: {layout}.",
        table(("split", "pictures"), rows),
    ]
    aside = facts.data.get("quarantine", [])
    lines.append(_left_out(len(aside)))
    notes = [inline(without_paths(str(note), facts.places)) for note in facts.data.get("notes", [])]
    lines.append("\n".join(f"- {note}" for note in notes))
    lines.append(_counted(facts, splits))
    return "\n\n".join(line for line in lines if line)


def _left_out(count: int) -> str:
    if not count:
        return "All of them could be read."
    return f"{count:,} picture{'s' * (count != 1)} could not be read and {'was' if count == 1 else 'were'} left out."


def _counted(facts: CardFacts, splits: Mapping[str, Any]) -> str:
    """Pictures a class."""
    finite = {name: part for name, part in splits.items() if not isinstance(part, str)}
    if not facts.labels or not finite:
        return ""
    counts = {name: [0] * len(facts.labels) for name in finite}
    for name, part in finite.items():
        for row in part:
            if row.get("label") is not None:
                counts[name][row["label"]] += 1
    if len(facts.labels) > _ALL:
        said = [f"{min(each):,} to {max(each):,} ({name})" for name, each in counts.items()]
        return f"Pictures a class: {', '.join(said)}."
    rows: list[tuple[Cell, ...]] = [
        (label, *(each[i] for each in counts.values())) for i, label in enumerate(facts.labels)
    ]
    return details_block("Pictures of each class", table(("class", *counts), rows))


def accuracy(facts: CardFacts) -> str:
    """How good it is, on how many pictures, and where it is worst."""
    found = facts.metrics
    return _classified(facts, found) if isinstance(found, ClassificationMetrics) else _captioned(facts, found)


def _classified(facts: CardFacts, found: ClassificationMetrics) -> str:
    interval = found.accuracy_interval
    rows: list[tuple[Cell, ...]] = [
        ("accuracy", f"{found.accuracy:.4f}"),
        ("95 % interval (Wilson)", f"{interval.low:.4f} to {interval.high:.4f}"),
        ("pictures", f"{found.n:,}, {facts.split} split"),
        *([] if found.top5 is None else [("top-5 accuracy", f"{found.top5:.4f}")]),
        ("negative log-likelihood", f"{found.negative_log_likelihood:.4f}"),
        ("expected calibration error", f"{found.calibration_error:.4f} ({found.calibration_bins} bins)"),
        ("computed in", found.precision),
    ]
    parts = [table(("", "value"), rows)]
    seen = [entry for entry in found.classes if entry.recall is not None]
    worst = sorted(seen, key=lambda entry: (entry.recall or 0.0, entry.label))[:_WORST]
    if worst and (worst[0].recall or 0.0) < 1:
        parts += ["The classes that it finds least often:", _classes(worst)]
    if _WORST < len(found.classes) <= _ALL:
        parts.append(details_block("All classes", _classes(found.classes)))
    return "\n\n".join(parts)


def _classes(entries: Sequence[ClassMetrics]) -> str:
    rows = [(each.label, format_share(each.recall), format_share(each.precision), each.support) for each in entries]
    return table(("class", "found (recall)", "right when said (precision)", "pictures"), rows)


def _captioned(facts: CardFacts, found: CaptioningMetrics) -> str:
    scores = found.scores
    columns = {"this model": scores["predicted"], "one caption for all": scores["constant_caption"]}
    if scores.get("human"):
        columns["people"] = scores["human"]
    rows = [
        (label, *(_score(column["metrics"].get(key)) for column in columns.values()))
        for key, label in _METRICS.items()
        if scores["predicted"]["metrics"].get(key)
    ]
    said = scores["constant_caption"]["caption"]
    return "\n\n".join(
        [
            f"On {found.n:,} pictures of the {facts.split} split, computed in {found.precision}; 95 % intervals in "
            "parentheses.",
            table(("", *columns), rows),
            f'"One caption for all" is what is reached without looking: "{inline(said)}". Of {found.pieces:,} word '
            f"pieces, {100 * found.accuracy:.2f} % are the likeliest after the human ones before them.",
        ]
    )


def _score(score: Mapping[str, Any] | None) -> str | None:
    if score is None:
        return None
    ends = score.get("interval_95")
    return f"{score['value']:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")


def figures(facts: CardFacts) -> str:
    """The figures that lie beside the card."""
    return "\n\n".join(f"![{inline(words)}]({path})" for path, words in facts.figures)


def limits(facts: CardFacts) -> str:
    """What was not checked, and what the figures do not say."""
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
    found = facts.metrics
    if isinstance(found, ClassificationMetrics):
        lines.append(_known(facts.labels))
        few = sum(entry.support < _FEW for entry in found.classes)
        if few:
            lines.append(f"{few} of the classes have fewer than {_FEW} pictures there: their recall is uncertain.")
    lines.append(
        "Not checked: how it does for different people, places or cameras; pictures that are damaged, edited or meant "
        "to deceive; whether near copies of training pictures are among those it was measured on."
    )
    lines.append(
        "No licence is stated here: it is for whoever publishes the model to choose, with an eye to those of the "
        f"pictures{_licence(facts)}."
    )
    return "\n".join(f"- {line}" for line in lines)


def _known(labels: Sequence[str]) -> str:
    names = ", ".join(inline(label) for label in labels[:_NAMED])
    more = f" and {len(labels) - _NAMED:,} more, which the folder's files list" if len(labels) > _NAMED else ""
    return f"It knows {len(labels):,} classes and gives one of them to every picture, whatever it shows: {names}{more}."


def _licence(facts: CardFacts) -> str:
    if not facts.environment.get("starting_weights"):
        return ""
    said = facts.input.get("license")
    return " and of the weights that training began from" + (f" (by timm: {inline(str(said))})" if said else "")


def export(facts: CardFacts) -> str:
    """How the export was checked; nothing in a run's own card."""
    if facts.export is None:
        return ""
    lines = [*map(inline, facts.export.found), "The figures above are the run's own: the export's were not measured."]
    return "\n".join(f"- {line}" for line in lines)


def provenance(facts: CardFacts) -> str:
    """Starting weights, seed, versions."""
    environment = facts.environment
    began = environment.get("starting_weights")
    rows: list[tuple[Cell, ...]] = [("starting weights", "none: random")]
    if began:
        rows = [
            ("starting weights", _origin(began, facts.places)),
            ("their sha256", tidy(str(began.get("sha256", "not known")))),
        ]
    rows += [
        ("seed", str(environment.get("seed", facts.recipe.seed))),
        ("trained in", f"{environment.get('precision', '')} on {environment.get('device', '')}"),
        ("vitrine", str(environment.get("vitrine", ""))),
        ("Python", f"{environment.get('python', '')}, {environment.get('platform', '')}"),
        *((name, str(version)) for name, version in environment.get("packages", {}).items()),
    ]
    return table(("", ""), rows)


def _origin(began: Mapping[str, Any], places: Sequence[str]) -> str:
    origin = str(began.get("origin", ""))
    return origin if origin.startswith("hf-hub:") else public_name(origin, places)


_ALWAYS = ("model", "pretrained", "image_size", "epochs", "batch_size", "learning_rate", "weight_decay", "tune", "seed")
_ELSEWHERE = ("name", "description", "workers", "checkpoint_minutes", "trackers", "transforms", "caption", "model_args")


def recipe(facts: CardFacts) -> str:
    """Every setting that says what was learnt, and those that are not the default."""
    given = facts.recipe
    rows: list[tuple[str, str]] = []
    for field in fields(Recipe):
        value = getattr(given, field.name)
        if field.name == "image_size" and not value:
            value = "the model's own"
        if field.name in _ALWAYS or (field.name not in _ELSEWHERE and value != field.default):
            rows.append((field.name, _value(value, facts.places)))
    rows += [(f"model_args.{name}", _value(value, facts.places)) for name, value in given.model_args.items()]
    for part in ("transforms", "caption"):
        spec = getattr(given, part)
        rows += [(f"{part}.{name}", _value(value, facts.places)) for name, value in _changed(spec)]
    shown = [f"| {code(name)} | {inline(value)} |" for name, value in rows]
    trained = f"{len(facts.history)} epochs were trained"
    best = f"; the weights are those of epoch {facts.best_epoch}, the best on the validation pictures"
    return f"{trained}{best if facts.best_epoch else ''}.\n\n" + "\n".join(
        ["| setting | value |", "| --- | --- |", *shown]
    )


def _changed(spec: Any) -> list[tuple[str, Any]]:
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


_TIMM = """\
import timm, torch
from PIL import Image, ImageOps

model = timm.create_model({folder}, pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
pixels = prepare(ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB"))[None]
with torch.inference_mode():
    probabilities = model(pixels).softmax(1)[0]
print(model.pretrained_cfg["label_names"][probabilities.argmax()], float(probabilities.max()))"""

_TRANSFORMERS = """\
from transformers import pipeline

classify = pipeline("image-classification", model={folder})
print(classify("picture.jpg"))"""

_PREPARE = """\

seen = {seen}
picture = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
width, height = picture.size
short, side = seen["resize_short_side"], seen["size"]
picture = picture.resize(
    (short, int(short * height / width)) if width <= height else (int(short * width / height), short),
    Image.Resampling.BICUBIC,
)
left, top = round((picture.width - side) / 2), round((picture.height - side) / 2)
pixels = np.array(picture.crop((left, top, left + side, top + side)), dtype=np.float32) / 255
pixels = (pixels - np.float32(seen["mean"])) / np.float32(seen["std"])
pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # (pictures, colours, rows, columns)
"""

_ONNX = (
    """\
import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession({file})
said = session.get_modelmeta().custom_metadata_map
"""
    + _PREPARE.replace("{seen}", 'json.loads(said["input"])')
    + """
logits = session.run(["logits"], {{"pixels": pixels}})[0][0]
print(json.loads(said["labels"])[logits.argmax()])"""
)

_PT2 = (
    """\
import json
import numpy as np
import torch
from PIL import Image, ImageOps

extra = {{"vitrine.json": ""}}
model = torch.export.load({file}, extra_files=extra).module()
said = json.loads(extra["vitrine.json"])
"""
    + _PREPARE.replace("{seen}", 'said["input"]')
    + """
with torch.inference_mode():
    logits = model(torch.from_numpy(pixels))[0]
print(said["labels"][logits.argmax()])"""
)


def usage(facts: CardFacts) -> str:
    """Commands of vitrine, and a program with the library that the folder is for."""
    export = facts.export
    name = export.name if export else facts.name
    if not facts.classifies:
        return f"With the folder here as {_folder(name)}:\n\n" + _commands(
            f"vitrine caption {shlex.quote(name)} IMAGES -o captions"
        )
    folder = {"hf": f"./{name}", "timm": f"local-dir:{name}"}
    to = export.to if export else "timm"
    program = {"hf": _TRANSFORMERS, "timm": _TIMM, "onnx": _ONNX, "pt2": _PT2}[to]
    files = {"onnx": "model.onnx", "pt2": "model.pt2"}
    filled = program.format(folder=_literal(folder.get(to, "")), file=_literal(f"{name}/{files.get(to, '')}"))
    parts = [f"With the folder here as {_folder(name)}:", f"```python\n{filled}\n```"]
    if to in folder:
        quoted = shlex.quote(name)
        predict = f"vitrine predict {quoted} IMAGES -o predictions.csv"
        parts.append(_commands(predict, f"vitrine explain {quoted} IMAGES -o maps"))
    return "\n\n".join(parts)


def _folder(name: str) -> str:
    return code(f"{name}/")


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _commands(*lines: str) -> str:
    return "```\n" + "\n".join(" ".join(line.split()) for line in lines) + "\n```"
