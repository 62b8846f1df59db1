"""The section on where everything comes from: weights, data, versions, and the commands that make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from vitrine.models.weights import file_sha256
from vitrine.report.page.document import Block, Commands, Paragraph, Section, Sheet
from vitrine.report.tables import Table
from vitrine.version import __version__
from vitrine.workflows.finished_run import FinishedRun
from vitrine.workflows.run_record import read_json


def origins_section(runs: Sequence[FinishedRun], command: Sequence[str]) -> Section:
    """Where each run, its data and its starting weights come from, and how to make all of it again.

    Args:
        runs: one or more.
        command: that made the report.

    Raises:
        RunError: a run's files cannot be read.
    """
    blocks: list[Block] = [Paragraph("This report was made by:", "note"), Commands((shlex.join(command),))]
    again = tuple(_train_command(run) for run in runs)
    blocks += [Paragraph("The runs were made by, with the recipes that lie in their folders:", "note"), Commands(again)]
    origins = {run.name: _origins(run) for run in runs}
    names = list(dict.fromkeys(what for each in origins.values() for what in each))
    shared = [what for what in names if len({each.get(what) for each in origins.values()}) == 1]
    own = [what for what in names if what not in shared]
    if own:
        rows = tuple((name, *(each.get(what) for what in own)) for name, each in origins.items())
        blocks.append(Sheet(Table(("run", *own), rows), "Run by run"))
    first = next(iter(origins.values()))
    alike = "The same for all runs" if len(runs) > 1 else "The run"
    blocks.append(Sheet(Table(("", "value"), tuple((what, first[what]) for what in shared)), alike))
    return Section("origins", "Where everything comes from", tuple(blocks))


def foot() -> str:
    """The last line of a report."""
    return f"Made by vitrine {__version__} from the files of the runs; no number was typed in by hand."


def _origins(run: FinishedRun) -> dict[str, str]:
    path, data = run.folder.path, run.data
    environment = read_json(path / "environment.json")
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


def _train_command(run: FinishedRun) -> str:
    path, data = run.folder.path, str(run.data.get("reference"))
    return shlex.join(["vitrine", "train", data, "--recipe", str(path / "recipe.toml"), "-o", f"{path}-again"])
