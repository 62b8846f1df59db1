"""Multi-label data: scenes with several objects, a table of which shapes are in each."""

from __future__ import annotations

import csv
from pathlib import Path

from vitrine.data.scenes.dataset import ScenePicture


def write_multi_label_data(folder: Path, pictures: int = 60, validation: int = 24) -> Path:
    """A table with a column ``colours`` of ``a|b``, and its pictures; a scene has the colours of all its objects."""
    lines = ["filename,split,colours"]
    for split, count in (("train", pictures), ("validation", validation)):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture = ScenePicture("base", 0, split, index, 32)
            name = f"{split}/{index:03}.png"
            (folder / name).write_bytes(picture.read_bytes())
            labels = sorted({each.colour for each in picture.scene.objects})
            lines.append(f"{name},{split},{'|'.join(labels)}")
    table = folder / "colours.csv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return table


def label_sets_of(table: Path, split: str) -> dict[str, set[str]]:
    """The labels of each picture of a split, read from the table as a person would."""
    with table.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == split]
    return {row["filename"]: set(filter(None, row["colours"].split("|"))) for row in rows}
