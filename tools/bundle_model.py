"""Put a finished run into the package as ``vitrine/scenes-tiny``: weights as float16, with history and recipe.

Usage: python tools/bundle_model.py RUN

The model card beside the weights (``README.md``) is written by hand: it states what ``vitrine evaluate`` measured.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from vitrine.models.load import load_for_inference
from vitrine.models.reference import bundled_folder
from vitrine.runs.folder import RunFolder

MOST_BYTES = 3_000_000


def main(run: Path) -> None:
    """Copy ``run`` into the package's folder for the bundled model."""
    built = load_for_inference(run)
    folder = bundled_folder()
    folder.mkdir(exist_ok=True)
    RunFolder(folder).save_model(built.module, RunFolder(run).read_labels(), built.input, torch.float16)
    for name in ("labels.txt", "history.jsonl", "recipe.toml"):
        shutil.copyfile(run / name, folder / name)
    size = (folder / "model.safetensors").stat().st_size
    print(f"{folder}: {size:,} bytes of weights")
    if size > MOST_BYTES:
        raise SystemExit(f"The weights may have {MOST_BYTES:,} bytes at most.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
