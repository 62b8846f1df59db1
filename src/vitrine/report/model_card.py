"""The model card of a run or an export: README.md, with the front matter that hubs read.

A card is published: nothing in it says where files lie on the machine that trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitrine.report.card_facts import CardFacts, ExportFacts
from vitrine.report.card_recipe import recipe
from vitrine.report.card_sections import accuracy, data, export, figures, limits, provenance, whatever
from vitrine.report.card_text import inline, published, tidy
from vitrine.report.card_use import usage
from vitrine.results import CaptioningMetrics, ClassificationMetrics

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

    name = tidy(published(facts.data_reference, facts.places))
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
