"""The model card of a run or of an export of it, from the run's files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vitrine.errors import RunError
from vitrine.io.files import write_atomically
from vitrine.plotting.confusion import save_confusion_figure
from vitrine.plotting.curves import save_learning_curves
from vitrine.plotting.tables import inline, public_name, tidy
from vitrine.results import CaptioningMetrics, ClassificationMetrics
from vitrine.runs.data import WORKING_FOLDER
from vitrine.runs.folder import RunFolder
from vitrine.runs.model_card_sections import (
    CardFacts,
    ExportFacts,
    accuracy,
    data,
    export,
    figures,
    limits,
    provenance,
    recipe,
    usage,
    whatever,
)

__all__ = ["CardFacts", "ExportFacts", "model_card"]

_CAPTION_METRICS = {
    "bleu_4": ("bleu", "BLEU-4"),
    "rouge_l": ("rouge", "ROUGE-L"),
    "cider": ("cider", "CIDEr"),
    "meteor": ("meteor", "METEOR"),
    "spice": ("spice", "SPICE"),
}
_LIBRARIES = {"hf": "transformers", "timm": "timm", "onnx": "onnx", "pt2": "pytorch"}


def model_card(facts: CardFacts) -> str:
    """The card as Markdown, front matter first; the same facts give the same text."""
    sections = [
        ("", whatever(facts)),
        ("How to use it", usage(facts)),
        ("Accuracy" if facts.classifies else "Captions", accuracy(facts)),
        ("Data", data(facts)),
        ("Recipe", recipe(facts)),
        ("Figures", figures(facts)),
        ("Limits", limits(facts)),
        ("This export", export(facts)),
        ("Where it comes from", provenance(facts)),
    ]
    parts = [f"# {inline(facts.name)}"]
    parts += [f"## {title}\n\n{text}" if title else text for title, text in sections if text]
    return f"---\n{front_matter(facts)}\n---\n\n" + "\n\n".join(parts) + "\n"


def front_matter(facts: CardFacts) -> str:
    """YAML as huggingface_hub writes it.

    There is no licence in it: that is for whoever publishes the model to choose.
    """
    from huggingface_hub import ModelCardData  # takes a moment to import

    task = "image-classification" if facts.classifies else "image-to-text"
    own = "timm" if facts.classifies else "vitrine"
    card = ModelCardData(
        base_model=facts.base_model,
        datasets=facts.dataset,
        library_name=_LIBRARIES[facts.export.to] if facts.export else own,
        pipeline_tag=task,
        tags=["vitrine", "vision-transformer" if facts.classifies else "image-captioning", task],
        metrics=["accuracy"] if facts.classifies else ["cider", "bleu", "rouge"],
        model_name=tidy(facts.name),
        eval_results=_results(facts, task) or None,
    )
    yaml: str = card.to_yaml()
    return yaml


def _results(facts: CardFacts, task: str) -> list[Any]:
    """Entries of the model index."""
    from huggingface_hub import EvalResult

    name = tidy(public_name(facts.data_reference, facts.places))
    about: Mapping[str, Any] = {
        "task_type": task,
        "dataset_name": name,
        "dataset_type": facts.dataset or name,
        "dataset_split": facts.split,
    }
    found = facts.metrics
    if isinstance(found, ClassificationMetrics):
        ends = [found.accuracy_interval.low, found.accuracy_interval.high]
        told = {"n": found.n, "interval_95": ends, "precision": found.precision}
        return [
            EvalResult(
                **about, metric_type="accuracy", metric_name="Accuracy", metric_value=found.accuracy, metric_args=told
            )
        ]
    assert isinstance(found, CaptioningMetrics)
    scores = found.scores["predicted"]["metrics"]
    return [
        EvalResult(
            **about,
            metric_type=kind,
            metric_name=name,
            metric_value=scores[key]["value"],
            metric_args={"n": found.n, "interval_95": scores[key]["interval_95"]},
        )
        for key, (kind, name) in _CAPTION_METRICS.items()
        if scores.get(key) is not None
    ]


CARD = "README.md"
_FIGURES = "figures"


def write_model_card(run: Path) -> Path:
    """Write README.md into a finished run, with its figures in ``figures/``.

    It is made of the run's files and of nothing else: the same files give the same bytes.

    Args:
        run: a run folder with metrics.json.

    Returns:
        The card's path.

    Raises:
        RunError: files are missing or damaged.
    """
    return _write(run, read_card_facts(run))


def write_export_card(run: Path, folder: Path, export: ExportFacts) -> Path:
    """Write README.md into an export of a run, with the run's figures.

    Args:
        run: the run folder.
        folder: of the export.
        export: what it is.

    Raises:
        RunError: files of the run are missing or damaged.
    """
    return _write(folder, replace(read_card_facts(run), export=export))


def _write(folder: Path, facts: CardFacts) -> Path:
    write_atomically(folder / CARD, model_card(replace(facts, figures=_draw(folder / _FIGURES, facts))))
    return folder / CARD


def _draw(folder: Path, facts: CardFacts) -> tuple[tuple[str, str], ...]:
    """The figures that can be drawn of a run: (path from the card, what it shows)."""
    drawn, origin = [], {"model": facts.name}
    if facts.history:
        save_learning_curves({facts.name: facts.history}, folder / "learning-curves.png", origin)
        of = "" if facts.classifies else " (of word pieces)"
        drawn.append((f"{_FIGURES}/learning-curves.png", f"Loss and validation accuracy{of} by epoch"))
    if isinstance(facts.metrics, ClassificationMetrics):
        save_confusion_figure(facts.metrics, folder / "confusion.png", origin)
        drawn.append((f"{_FIGURES}/confusion.png", "Which classes are taken for which"))
    return tuple(drawn)


def read_card_facts(run: Path) -> CardFacts:
    """What a card says of a run, before its figures are drawn.

    Raises:
        RunError: files are missing or damaged.
    """
    folder = RunFolder(run)
    recipe = folder.read_recipe()
    measured = _json(run / "metrics.json")
    kind = ClassificationMetrics if recipe.caption is None else CaptioningMetrics
    try:
        metrics = kind.from_dict(measured)
    except (KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"{run / 'metrics.json'} is not what vitrine writes ({type(error).__name__}: {error})."
        ) from error
    data, environment = _json(run / "data.json"), _json(run / "environment.json")
    return CardFacts(
        name=run.resolve().name,
        recipe=recipe,
        labels=folder.read_labels() if recipe.caption is None else (),
        metrics=metrics,
        split=str(measured.get("split", "validation")),
        data=data,
        environment=environment,
        history=folder.read_history(),
        config=_json(run / "config.json"),
        parameters=_parameters(run / "model.safetensors"),
        places=_places(run, data, environment),
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{file} is needed for a model card and cannot be read ({type(error).__name__}).\n"
            "Expected the folder of a finished run, as vitrine train wrote it."
        ) from error
    if not isinstance(content, dict):
        raise RunError(f"{file} holds a {type(content).__name__}; expected a JSON object.")
    return content


def _parameters(file: Path) -> int:
    try:
        with safe_open(file, framework="numpy") as stored:
            shapes = [stored.get_slice(name).get_shape() for name in stored.keys()]  # noqa: SIM118  not a mapping
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read ({type(error).__name__}: {error}).") from error
    total = 0
    for shape in shapes:
        count = 1
        for side in shape:
            count *= side
        total += count
    return total


def _places(run: Path, data: dict[str, Any], environment: dict[str, Any]) -> tuple[str, ...]:
    """Folders and files of this machine that sentences of the run's files may name."""
    began = environment.get("starting_weights") or {}
    named = (data.get("reference"), environment.get(WORKING_FOLDER), began.get("path"), began.get("origin"))
    absolute = [Path(str(each)) for each in named if each and Path(str(each)).is_absolute()]
    absolute += [run.absolute(), run.resolve(), Path.home()]
    found = {str(place) for path in absolute for place in (path, path.parent)}
    return tuple(sorted(place for place in found if len(Path(place).parts) > 1))
