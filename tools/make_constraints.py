"""Write constraints.txt: the versions that a fresh environment with every extra gets today.

Run by ``make constraints``. Only names and versions are written: no address, no path, and no local suffix such as
``+cpu``, so that the same file serves every package index and every build of torch.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# The versions that were tested together. Refreshed with: make constraints\n"
# Builds for one platform, chosen by torch itself: pinned here they would hinder every other build.
PLATFORM_ONLY = re.compile(r"nvidia-|cuda-|triton|pytorch-triton")


def constraints(freeze: str) -> str:
    """The text of constraints.txt from the output of ``pip freeze``: plain ``name==version`` lines only."""
    lines = []
    for line in freeze.splitlines():
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([^+\s]+)(\+\S+)?", line.strip())
        if match and not PLATFORM_ONLY.match(match[1].lower()) and match[1] != "vitrine":
            lines.append(f"{match[1]}=={match[2]}")
    return HEADER + "\n".join(sorted(lines, key=str.lower)) + "\n"


def main() -> None:
    """Resolve in an environment of its own, so that nothing that was installed by hand gets in."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "bin", "python")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", f"{ROOT}[dev,bench,docs]"], check=True)
        frozen = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True)
    (ROOT / "constraints.txt").write_text(constraints(frozen.stdout), encoding="utf-8")


if __name__ == "__main__":
    main()
