"""Sections on where the runs come from, and on what was not checked, which follows from what their files lack."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitrine.compare.run import ComparisonResult
from vitrine.io.files import file_sha256
from vitrine.plotting.tables import Table
from vitrine.report.document import Block, BulletList, Commands, Paragraph, Section, TableBlock
from vitrine.report.sections.maps import SCORES
from vitrine.report.sections.summary import TEST, FinalResult, read_test_metrics
from vitrine.results import agree, count_of
from vitrine.runs.record import RunRecord, same_but_seed
from vitrine.version import __version__


def build_limits_section(
    final: FinalResult | None,
    comparison: ComparisonResult | None,
    records: Mapping[str, RunRecord],
    captioners: Mapping[str, Path],
    *,
    has_scores: bool,
    map_count: int,
    missing: Sequence[str] = (),
) -> Section:
    """What the report does not show and the runs did not measure.

    Args:
        final: the final result; None without classifiers.
        comparison: of all runs; None without runs.
        records: of the classifiers, by name.
        captioners: folders of the captioners, by name.
        has_scores: whether the report has scores of explanation methods.
        map_count: number of pictures whose maps are shown.
        missing: sentences on what could not be shown.
    """
    items = [*missing]
    if final is not None:
        items += _final_limits(final, has_scores=has_scores, map_count=map_count)
    items += _comparison_limits(comparison, records) if comparison else []
    for name, path in captioners.items():
        items += _captioner_limits(name, path)
    items.append(
        "How the models do on pictures of another kind, from another camera or of other people, on damaged pictures, "
        "and on pictures that are meant to deceive."
    )
    return Section(
        "limits",
        "What was not checked",
        (Paragraph("This report says nothing of the following."), BulletList(tuple(items))),
    )


def _final_limits(final: FinalResult, *, has_scores: bool, map_count: int) -> list[str]:
    record, path = final.record, str(final.record.folder.path)
    items = []
    if final.test is None:
        lies = "one lies there, of other weights or another split; " if Path(path, TEST).is_file() else ""
        chose = "the weights" if final.is_named_by_person or not final.rivals else "the weights and the run"
        how = shlex.join(["vitrine", "evaluate", path, "DATA", "--split", "test", "-o", f"{path}/test"])
        items.append(
            f"Test pictures: the accuracy is of the validation pictures, by which {chose} were chosen ({lies}{how})."
        )
    else:
        how = shlex.join(["vitrine", "check", final.test_data])
        if final.test_leakage is None:
            items.append(f"Whether test pictures also stand in training: evaluate anew with this version, or {how}.")
        items.append(f"Whether test pictures also stand among the validation pictures: {how} says so.")
    items += _unchecked_copies(record)
    if not has_scores:
        lies = "what lies there is of other weights; " if Path(path, SCORES).is_file() else ""
        how = shlex.join(["vitrine", "explain", path, "--score", "DATA", "-o", f"{path}/methods"])
        items.append(f"Whether maps of this model point at things in general: no methods were scored ({lies}{how}).")
    if map_count:
        items.append(
            f"Maps of pictures other than the {map_count} shown, and of layers and methods other than those named."
        )
    how = shlex.join(["vitrine", "verify", path])
    items.append(
        f"Whether the recorded predictions come out again on this or another machine: {how} says so. They were "
        f"computed in {record.metrics.precision}."
    )
    return items


def _captioner_limits(name: str, path: Path) -> list[str]:
    test_content = read_test_metrics(path)
    how = shlex.join(["vitrine", "evaluate", str(path), "DATA", "--split", "test", "-o", f"{path}/test"])
    if test_content is None:
        lies = "one lies there, of other weights or another split; " if (path / TEST).is_file() else ""
        return [
            f"{name} was not measured on test pictures, nor whether its words look at what they name ({lies}{how})."
        ]
    has_grounding = any((test_content.get("grounding") or {}).get(key) for key in ("predicted", "human"))
    return (
        []
        if has_grounding
        else [f"Whether words of {name} look at what they name: its data do not say where things are."]
    )


def _unchecked_copies(record: RunRecord) -> list[str]:
    """What is not known of copies of training pictures; those that are known stand beside the result."""
    aside = len(record.data.get("quarantine", ()))
    items = (
        [
            f"{count_of(aside, 'picture')} that could not be read "
            f"{agree(aside, 'was set aside and counts', 'were set aside and count')} in no number."
        ]
        if aside
        else []
    )
    how = shlex.join(["vitrine", "check", str(record.data["reference"])])
    if record.leakage is None:
        items.append("Whether validation pictures are among the training pictures, which are not listed one by one.")
    elif not record.leakage.near_checked:
        items.append(f"Whether validation pictures look like copies of training pictures: {how} says so.")
    else:
        items.append(
            "Copies of training pictures that a perceptual hash does not find: those cropped by more than a few per "
            "cent at one side, turned, or with something laid over them."
        )
    return items


def _comparison_limits(comparison: ComparisonResult, records: Mapping[str, RunRecord]) -> list[str]:
    rows = list(records.values())
    has_seeds = any(same_but_seed(one.settings, other.settings) for i, one in enumerate(rows) for other in rows[:i])
    items = []
    if len(rows) > 1 and not has_seeds:
        items.append(
            "Other seeds: every setting was trained once. A paired test is of these weights, not of the recipes."
        )
    if len(comparison.groups) > 1:
        items.append("Runs on different validation pictures are not tested against one another.")
    return items


def build_origins_section(runs: Sequence[RunRecord], command: Sequence[str], answers: Sequence[Block] = ()) -> Section:
    """Where each run, its data and its starting weights come from, and how to make all of it again.

    Args:
        runs: that the report is of.
        command: the command line that made the report, in words.
        answers: blocks on models that captioned or answered.

    Raises:
        RunError: a run's files cannot be read.
    """
    of_report: tuple[Block, ...] = (Paragraph("This report was made by:", "note"), Commands((shlex.join(command),)))
    of_runs = _run_origins(runs) if runs else []
    return Section("origins", "Where everything comes from", (*of_report, *of_runs, *answers))


def _run_origins(runs: Sequence[RunRecord]) -> list[Block]:
    """Of one run or more: how they were trained, and what of."""
    again = tuple(_train_command(run) for run in runs)
    made_by = Paragraph("The runs were made by, with the recipes that lie in their folders:", "note")
    blocks: list[Block] = [made_by, Commands(again)]
    origins = {run.name: _origins(run) for run in runs}
    names = list(dict.fromkeys(what for each in origins.values() for what in each))
    shared_facts = [what for what in names if len({each.get(what) for each in origins.values()}) == 1]
    own_facts = [what for what in names if what not in shared_facts]
    if own_facts:
        rows = tuple((name, *(each.get(what) for what in own_facts)) for name, each in origins.items())
        blocks.append(TableBlock(Table(("run", *own_facts), rows), "Run by run"))
    first = next(iter(origins.values()))
    alike = "The same for all runs" if len(runs) > 1 else "The run"
    blocks.append(TableBlock(Table(("", "value"), tuple((what, first[what]) for what in shared_facts)), alike))
    return blocks


def footer(has_runs: bool = True) -> str:
    """The last line of a report, which says what made it."""
    files = "the files of the runs" if has_runs else "figures and scores"
    return f"Made by vitrine {__version__} from {files}; no number was typed in by hand."


def _origins(run: RunRecord) -> dict[str, str]:
    path, data = run.folder.path, run.data
    environment = run.folder.read_environment()
    weights = path / "model.safetensors"
    began = environment.get("starting_weights")
    return {
        "folder": str(path),
        "sha256 of the weights": file_sha256(weights) if weights.is_file() else "missing",
        "starting weights": str(began.get("origin")) if began else "none: random",
        "sha256 of those": str(began.get("sha256")) if began else "–",
        "data": str(data.get("reference")),
        "pictures": _pictures(data),
        "seed": str(environment.get("seed")),
        "trained in": f"{environment.get('precision')} on {environment.get('device')}",
        "machine": f"{environment.get('platform')}, {environment.get('cpu_capability', '')}".rstrip(", "),
        "versions": ", ".join(f"{name} {version}" for name, version in _versions(environment).items()),
    }


def _versions(environment: Mapping[str, Any]) -> dict[str, Any]:
    packages = environment.get("packages", {})
    return {"vitrine": environment.get("vitrine"), "Python": environment.get("python"), **packages}


def _pictures(data: Mapping[str, Any]) -> str:
    counts = [
        f"{len(rows):,} {name}" if isinstance(rows, list) else f"{name}: {rows}"
        for name, rows in data.get("splits", {}).items()
    ]
    return ", ".join([*counts, f"{len(data.get('quarantine', ())):,} set aside"])


def _train_command(run: RunRecord) -> str:
    path, data = run.folder.path, str(run.data.get("reference"))
    return shlex.join(["vitrine", "train", data, "--recipe", str(path / "recipe.toml"), "-o", f"{path}-again"])
