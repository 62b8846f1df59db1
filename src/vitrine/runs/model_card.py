"""The model card, README.md, of a run or of an export of it, from the run's files alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vitrine.errors import RunError
from vitrine.io.files import write_atomically
from vitrine.plotting.average_precision import save_average_precision_figure
from vitrine.plotting.confusion import save_confusion_figure
from vitrine.plotting.curves import save_learning_curves
from vitrine.plotting.tables import inline, public_name, tidy
from vitrine.results import ClassificationMetrics, MultiLabelMetrics
from vitrine.runs.data import WORKING_FOLDER
from vitrine.runs.folder import RunFolder
from vitrine.runs.model_card_sections import (
    CardFacts,
    ExportFacts,
    data_section,
    export_section,
    figures_section,
    limits_section,
    provenance_section,
    recipe_section,
    results_section,
    summary_section,
    usage_section,
)
from vitrine.runs.record import read_record
from vitrine.runs.schema import DataContent, EnvironmentContent
from vitrine.runs.setting_changes import read_changes

__all__ = ["CardFacts", "ExportFacts", "model_card"]

CARD = "README.md"
_FIGURES = "figures"
_CAPTION_METRICS = {
    "bleu_4": ("bleu", "BLEU-4"),
    "rouge_l": ("rouge", "ROUGE-L"),
    "cider": ("cider", "CIDEr"),
    "meteor": ("meteor", "METEOR"),
    "spice": ("spice", "SPICE"),
}
_LIBRARIES = {"hf": "transformers", "timm": "timm", "onnx": "onnx", "pt2": "pytorch"}


def write_model_card(run: Path, metrics: Mapping[str, Any] | None = None) -> Path:
    """Write README.md into a run, with its figures in ``figures/``; the card comes last.

    It is made of the run's files and of nothing else: the same files give the same bytes.

    Args:
        run: a run folder.
        metrics: what metrics.json will hold, where it is not written yet.

    Returns:
        The card's path.

    Raises:
        RunError: files are missing or damaged.
    """
    return _write(run, read_card_facts(run, metrics))


def write_export_card(run: Path, folder: Path, export: ExportFacts) -> Path:
    """Write README.md into an export of a run, with the run's figures.

    Args:
        run: the run folder.
        folder: of the export.
        export: what the card says of the export.

    Returns:
        The card's path.

    Raises:
        RunError: files of the run are missing or damaged.
    """
    return _write(folder, replace(read_card_facts(run), export=export))


def _write(folder: Path, facts: CardFacts) -> Path:
    write_atomically(folder / CARD, model_card(replace(facts, figures=_draw_figures(folder / _FIGURES, facts))))
    return folder / CARD


def _draw_figures(folder: Path, facts: CardFacts) -> tuple[tuple[str, str], ...]:
    """Draw the figures that a run has data for: (path from the card, what it shows)."""
    figures, origin = [], {"model": facts.name}
    if facts.history:
        save_learning_curves({facts.name: facts.history}, folder / "learning-curves.png", origin)
        score = "validation accuracy" if facts.is_classifier else "validation accuracy (of word pieces)"
        if isinstance(facts.metrics, MultiLabelMetrics):
            score = "mean average precision on the validation pictures"
        figures.append((f"{_FIGURES}/learning-curves.png", f"Loss and {score} by epoch"))
    if isinstance(facts.metrics, ClassificationMetrics):
        save_confusion_figure(facts.metrics, folder / "confusion.png", origin)
        figures.append((f"{_FIGURES}/confusion.png", "Which classes are taken for which"))
    if isinstance(facts.metrics, MultiLabelMetrics):
        save_average_precision_figure(facts.metrics, folder / "labels.png", origin)
        figures.append((f"{_FIGURES}/labels.png", "Average precision of every label"))
    return tuple(figures)


def model_card(facts: CardFacts) -> str:
    """The card as Markdown, front matter first; the same facts give the same text."""
    sections = [
        ("", summary_section(facts)),
        ("How to use it", usage_section(facts)),
        (_results_title(facts), results_section(facts)),
        ("Data", data_section(facts)),
        ("Recipe", recipe_section(facts)),
        ("Figures", figures_section(facts)),
        ("Limits", limits_section(facts)),
        ("This export", export_section(facts)),
        ("Where it comes from", provenance_section(facts)),
    ]
    parts = [f"# {inline(facts.name)}"]
    parts += [f"## {title}\n\n{text}" if title else text for title, text in sections if text]
    return f"---\n{front_matter(facts)}\n---\n\n" + "\n\n".join(parts) + "\n"


def _results_title(facts: CardFacts) -> str:
    if isinstance(facts.metrics, MultiLabelMetrics):
        return "Average precision"
    return "Accuracy" if facts.is_classifier else "Captions"


def front_matter(facts: CardFacts) -> str:
    """The card's metadata for the Hugging Face hub: YAML as huggingface_hub writes it.

    There is no licence in it: that is for whoever publishes the model to choose.
    """
    from huggingface_hub import ModelCardData  # takes a moment to import

    task = "image-classification" if facts.is_classifier else "image-to-text"
    library = "timm" if facts.is_classifier else "vitrine"
    card = ModelCardData(
        base_model=facts.base_model,
        datasets=facts.dataset,
        library_name=_LIBRARIES[facts.export.to] if facts.export else library,
        pipeline_tag=task,
        tags=["vitrine", "vision-transformer" if facts.is_classifier else "image-captioning", task],
        metrics=_metric_names(facts),
        model_name=tidy(facts.name),
        eval_results=_evaluation_results(facts, task) or None,
    )
    yaml: str = card.to_yaml()
    return yaml


def _metric_names(facts: CardFacts) -> list[str]:
    if isinstance(facts.metrics, MultiLabelMetrics):
        return ["mean_average_precision", "f1"]
    return ["accuracy"] if facts.is_classifier else ["cider", "bleu", "rouge"]


def _multi_label_results(m: MultiLabelMetrics, about: Mapping[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    scores = {
        "mean_average_precision": (
            "Mean average precision",
            m.mean_average_precision,
            m.mean_average_precision_interval,
        ),
        "f1": ("Macro F1", m.macro_f1, m.macro_f1_interval),
    }
    return [
        EvalResult(
            **about,
            metric_type=kind,
            metric_name=name,
            metric_value=value,
            metric_args={
                "n": m.n,
                "interval_95": interval and [interval.low, interval.high],
                "interval_over": "pictures",
                "trainings": 1,
                "precision": m.precision,
                "threshold": m.threshold,
            },
        )
        for kind, (name, value, interval) in scores.items()
    ]


def _evaluation_results(facts: CardFacts, task: str) -> list[Any]:
    """Entries of the hub's model index."""
    from huggingface_hub import EvalResult

    name = tidy(public_name(facts.data_reference, facts.local_paths))
    about: Mapping[str, Any] = {
        "task_type": task,
        "dataset_name": name,
        "dataset_type": facts.dataset or name,
        "dataset_split": facts.split,
    }
    m = facts.metrics
    if isinstance(m, ClassificationMetrics):
        ends = [m.accuracy_interval.low, m.accuracy_interval.high]
        spread = {"interval_95": ends, "interval_over": "pictures", "trainings": 1}
        arguments: dict[str, Any] = {"n": m.n, **spread, "precision": m.precision}
        if facts.leakage:
            arguments["without_training_copies"] = facts.leakage.without_any.to_dict()
        return [
            EvalResult(
                **about, metric_type="accuracy", metric_name="Accuracy", metric_value=m.accuracy, metric_args=arguments
            )
        ]
    if isinstance(m, MultiLabelMetrics):
        return _multi_label_results(m, about)
    scores = m.scores["predicted"]["metrics"]
    return [
        EvalResult(
            **about,
            metric_type=kind,
            metric_name=name,
            metric_value=scores[key]["value"],
            metric_args={"n": m.n, "interval_95": scores[key]["interval_95"]},
        )
        for key, (kind, name) in _CAPTION_METRICS.items()
        if scores.get(key) is not None
    ]


def read_card_facts(run: Path, metrics_content: Mapping[str, Any] | None = None) -> CardFacts:
    """Read what a card says of a run, without its figures; ``metrics_content`` stands for metrics.json.

    Raises:
        RunError: files are missing or damaged.
    """
    folder = RunFolder(run)
    recipe = folder.read_recipe()
    content = folder.read_json("metrics.json", dict[str, Any]) if metrics_content is None else metrics_content
    record = read_record(run.resolve().name, folder, content)
    environment = folder.read_environment()
    return CardFacts(
        name=run.resolve().name,
        recipe=recipe,
        labels=folder.read_labels() if recipe.caption is None else (),
        metrics=record.metrics,
        split=str(content.get("split", "validation")),
        data=record.data,
        environment=environment,
        history=folder.read_history(),
        config=folder.read_json("config.json", dict[str, Any]),
        parameters=_count_parameters(run / "model.safetensors"),
        local_paths=_local_paths(run, record.data, environment),
        leakage=record.leakage,
        changes=read_changes(folder),
    )


def _count_parameters(file: Path) -> int:
    """The numbers in a safetensors file, from the shapes in its header."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            return sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118  no mapping
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read ({type(error).__name__}: {error}).") from error


def _local_paths(run: Path, data: DataContent, environment: EnvironmentContent) -> tuple[str, ...]:
    """Folders and files of this machine that sentences of the run's files may name."""
    starting_weights = environment.get("starting_weights") or {}
    names = (
        data.get("reference"),
        environment.get(WORKING_FOLDER),
        starting_weights.get("path"),
        starting_weights.get("origin"),
    )
    absolute = [Path(str(name)) for name in names if name and Path(str(name)).is_absolute()]
    absolute += [run.absolute(), run.resolve(), Path.home()]
    paths = {str(path) for each in absolute for path in (each, each.parent)}
    return tuple(sorted(path for path in paths if len(Path(path).parts) > 1))
