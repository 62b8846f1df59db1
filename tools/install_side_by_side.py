"""Install what a project needs with two pips at a time: one pip unpacks on one core alone, and torch is gigabytes.

``python tools/install_side_by_side.py '[dev]'`` in the environment that is filled, with the extras that are wanted. A
plain ``pip install`` of the same afterwards finds everything there but the project; whatever failed here, for whichever
reason, is its to do and to report.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
PIP = (sys.executable, "-m", "pip", "install", "-qq", "--no-compile", "--disable-pip-version-check")
UNKNOWN = 1 << 20
"""Bytes that a distribution counts which is not on this machine's disk."""


def requirements(project: dict[str, Any], extras: Sequence[str]) -> set[str]:
    """What a project needs with some extras, by its table in pyproject.toml: extras that name others are followed."""
    needed: set[str] = set(project["dependencies"])
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{project['name']}\[(.+)\]", requirement)
            needed |= requirements(project, re.split(r"\s*,\s*", own[1])) if own else {requirement}
    return needed


def resolve(needed: Sequence[str]) -> list[dict[str, Any]]:
    """What pip would install, as its report tells it; nothing where it cannot say."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = (*PIP, "--dry-run", "--report", str(report), "-c", "constraints.txt", *needed)
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            return []
        return list(json.loads(report.read_text(encoding="utf-8"))["install"])


def two_piles(distributions: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Addresses in two piles of about the same size; what shares a first name (``nvidia-``) may share a folder, and
    stays together."""
    families: dict[str, list[str]] = defaultdict(list)
    sizes: dict[str, int] = defaultdict(int)
    for each in distributions:
        address = each["download_info"]["url"]
        family = each["metadata"]["name"].replace("_", "-").partition("-")[0].lower()
        families[family].append(address)
        sizes[family] += _size(address)
    piles, weights = ([], []), [0, 0]
    for family in sorted(families, key=lambda name: (-sizes[name], name)):
        lighter = weights.index(min(weights))
        piles[lighter].extend(families[family])
        weights[lighter] += sizes[family]
    return piles


def _size(address: str) -> int:
    parts = urlsplit(address)
    path = Path(unquote(parts.path))
    return path.stat().st_size if parts.scheme == "file" and path.is_file() else UNKNOWN


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = sorted(requirements(project, re.findall(r"[\w.-]+", sys.argv[1])))
    piles = [pile for pile in two_piles(resolve(needed)) if pile]
    for process in [subprocess.Popen((*PIP, "--no-deps", *pile), cwd=ROOT) for pile in piles]:
        process.wait()


if __name__ == "__main__":
    main()
