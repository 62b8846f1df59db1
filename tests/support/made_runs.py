"""Run folders that nobody trained, for tests of what reads runs; and a verb by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import typer
from typer.testing import CliRunner

from vitrine.config import CaptionSpec, Recipe, recipe_to_toml
from vitrine.io.resumable_csv import csv_row
from vitrine.metrics.intervals import wilson
from vitrine.results import CaptioningMetrics, ClassificationMetrics, ClassMetrics

LABELS = ("cat", "dog")


def made_run(
    folder: Path,
    right: Sequence[bool],
    *,
    loss: float = 0.5,
    pictures: str = "one set",
    labels: tuple[str, str] = LABELS,
    epochs_run: int = 2,
    recipe: Recipe | None = None,
    reference: str = "pets",
    **changes: object,
) -> Path:
    """A finished run of a classifier of cats and dogs as vitrine train leaves it, without weights."""
    if recipe is None:
        recipe = Recipe(name=folder.name, model="vit_tiny_patch16_224", image_size=32, **changes)  # type: ignore[arg-type]
    names = [f"validation/{i:04}.png" for i in range(len(right))]
    rows = [
        {"name": name, "label": i % 2, "sha256": hashlib.sha256(f"{pictures} {name}".encode()).hexdigest()}
        for i, name in enumerate(names)
    ]
    train = [{"name": f"train/{i}.png", "label": i % 2, "sha256": f"{i:064}"} for i in range(10)]
    data = {"reference": reference, "labels": list(labels), "quarantine": [], "splits": {"train": train}}
    data["splits"]["validation"] = rows  # type: ignore[index]
    n, correct = len(right), sum(right)
    metrics = ClassificationMetrics(
        n=n,
        precision="fp32",
        accuracy=correct / n,
        accuracy_interval=wilson(correct, n),
        top5=None,
        negative_log_likelihood=loss,
        calibration_error=0.05,
        calibration_bins=15,
        classes=tuple(ClassMetrics(label, None, None, 0) for label in labels),
        confusion=(),
        hardest=(),
    )
    predicted = [labels[i % 2 if each else 1 - i % 2] for i, each in enumerate(right)]
    history = [
        {"epoch": e, "best": True, "train_loss": 1 / e, "validation_loss": 1.1 / e, "validation_accuracy": correct / n}
        for e in range(1, epochs_run + 1)
    ]
    timing = {"train_seconds": 4.0, "pictures": 100, "evaluation_seconds": 1.0, "peak_memory_mib": 300}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {
        "recipe.toml": recipe_to_toml(recipe),
        "data.json": json.dumps(data),
        "config.json": json.dumps({"architecture": "vit_tiny_patch16_224"}),
        "metrics.json": json.dumps(metrics.to_dict()),
        "predictions.csv": "filename,label\n" + "".join(f"{a},{b}\n" for a, b in zip(names, predicted, strict=True)),
        "history.jsonl": "".join(json.dumps(row) + "\n" for row in history),
        "timings.jsonl": "".join(json.dumps({"epoch": row["epoch"], **timing}) + "\n" for row in history),
    }.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def made_captioner(
    folder: Path,
    captions: Sequence[str],
    humans: Sequence[Sequence[str]],
    *,
    exact: int | None = None,
    **changes: object,
) -> Path:
    """A finished run of a captioner as vitrine train leaves it, without weights.

    ``exact`` is what metrics.json says of the captions that are one of the picture's own; None counts them as texts.
    """
    settings = {"caption": CaptionSpec(), "clip_norm": 0.1, **changes}
    recipe = Recipe(name=folder.name, model="vit_tiny_patch16_224", image_size=32, **settings)  # type: ignore[arg-type]
    names = [f"validation/{i:04}.png" for i in range(len(captions))]
    rows = [
        {"name": name, "captions": list(picture_captions), "sha256": hashlib.sha256(name.encode()).hexdigest()}
        for name, picture_captions in zip(names, humans, strict=True)
    ]
    train = [{"name": f"train/{i}.png", "captions": ["a cat"], "sha256": f"{i:064}"} for i in range(10)]
    if exact is None:
        exact = sum(text in picture_captions for text, picture_captions in zip(captions, humans, strict=True))
    metrics = CaptioningMetrics(
        n=len(captions),
        pieces=10 * len(captions),
        precision="fp32",
        negative_log_likelihood=1.25,
        accuracy=0.625,
        scores={"predicted": {"exact": {"n": exact}}},
    )
    folder.mkdir(parents=True, exist_ok=True)
    table = b"".join(csv_row((a, b, "-1.500000")) for a, b in zip(names, captions, strict=True))
    for name, content in {
        "recipe.toml": recipe_to_toml(recipe),
        "data.json": json.dumps(
            {"reference": "photos", "quarantine": [], "splits": {"train": train, "validation": rows}}
        ),
        "config.json": json.dumps({"architecture": "vitrine-captioner"}),
        "metrics.json": json.dumps(metrics.to_dict()),
        "captions.csv": (csv_row(("filename", "caption", "log_probability")) + table).decode(),
        "history.jsonl": "",
    }.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def run_verb(verb: Callable[..., None], *arguments: object) -> tuple[int, str]:
    """A verb as the command line calls it: (exit status, stdout).

    Raises:
        Exception: what the verb raised.
    """
    app = typer.Typer()
    app.command()(verb)
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout
