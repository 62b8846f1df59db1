"""Files of a run held against what the run recorded: its weights, its class names, and what it was made with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from vitrine.data.samples import LabelledData
from vitrine.models.run_folder import RunFolder
from vitrine.models.weights import file_sha256
from vitrine.workflows.environment import describe_environment
from vitrine.workflows.run_record import RunRecord
from vitrine.workflows.verified import Check
from vitrine.workflows.weights_notes import MEASURED, WORDS_MEASURED


def weights_check(run: RunFolder) -> Check:
    """The hash of the weights beside the one that the run recorded when it was measured."""
    return _hash_check("weights", run, "model.safetensors", MEASURED)


def vocabulary_check(run: RunFolder) -> Check:
    """The same of a captioner's word pieces."""
    return _hash_check("vocabulary", run, "tokenizer.json", WORDS_MEASURED)


def _hash_check(what: str, run: RunFolder, file: str, key: str) -> Check:
    path = run.path / file
    if not path.is_file():
        return Check(what, "differs", f"{file} is missing")
    then = json.loads((run.path / "metrics.json").read_text("utf-8")).get(key)
    now = file_sha256(path)
    if then is None:
        return Check(what, "not checked", f"the run recorded no hash of {file}; now sha256 {now[:12]}…")
    if then == now:
        return Check(what, "same", f"{file} is the file that was measured (sha256 {now[:12]}…)")
    return Check(what, "differs", f"{file} was sha256 {then[:12]}…, now {now[:12]}…")


def classes_check(record: RunRecord, found: LabelledData) -> Check:
    """Class names in the run's files and in the data."""
    then = tuple(record.data["labels"])
    config = json.loads((record.folder.path / "config.json").read_text("utf-8"))
    places = {"labels.txt": record.folder.labels(), "config.json": tuple(config.get("label_names", then))}
    for place, names in places.items():
        if names != then:
            return Check("class names", "differs", f"{place} was changed: {_difference(then, names)}")
    if set(found.labels) - set(then):
        return Check("class names", "differs", f"the data have other classes: {_difference(then, found.labels)}")
    if len(set(then) - set(found.labels)):
        return Check("class names", "differs", f"the data lack classes: {_difference(then, found.labels)}")
    return Check("class names", "same", f"{len(then)} classes")


def _difference(then: tuple[str, ...], now: tuple[str, ...]) -> str:
    gone, new = ([x for x in one if x not in other] for one, other in ((then, now), (now, then)))
    told = [f"{', '.join(map(repr, names[:5]))} {word}" for names, word in ((gone, "gone"), (new, "new")) if names]
    return "; ".join(told) or "their order is another"


def environment_check(run: RunFolder, then_precision: str, precision: str, device: torch.device) -> Check:
    """Versions and hardware then and now: no difference by itself, but what may explain one."""
    path = run.path / "environment.json"
    if not path.is_file():
        return Check("environment", "not checked", "the run recorded none")
    then = json.loads(path.read_text("utf-8"))
    now = describe_environment(device) | {"precision": precision}
    then["precision"] = then_precision
    before, after = _flat(then), _flat(now)
    different = [
        f"{key} {before[key]} then, {after[key]} now" for key in after if before.get(key, after[key]) != after[key]
    ]
    if different:
        return Check("environment", "noted", "; ".join(different))
    return Check("environment", "same", f"versions, {now['device']}, {torch.get_num_threads()} threads, {precision}")


def _flat(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: v for key, v in environment.items() if key != "packages"}, **environment.get("packages", {})}
