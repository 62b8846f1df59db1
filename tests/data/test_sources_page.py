"""docs/data.md: every tree that it shows is built from its text, and opens as its commands say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support.layouts import Layout, read_layouts, write_tree
from support.paths import CHECKOUT

from vitrine.api.options import data_reference
from vitrine.check import check
from vitrine.data import sources
from vitrine.data.captions import files as caption_files
from vitrine.data.check import DataReport
from vitrine.data.ignored_files import FILES, FOLDERS, is_ignored
from vitrine.data.image_folder import read_pictures
from vitrine.shards import write_shards

PAGE = (CHECKOUT / "docs" / "data.md").read_text("utf-8")
LAYOUTS = {layout.title: layout for layout in read_layouts(PAGE)}


def outcome_of(report: DataReport) -> str:
    counts = f"{report.pictures} pictures"
    if report.captions is not None:
        return f"{counts}, {report.captions.captions} captions"
    if not report.labels:
        return counts
    noun = "labels" if report.is_multi_label else "classes"
    return f"{counts}, {len(report.labels)} {noun}: {', '.join(report.labels)}"


def run(command: str) -> str:
    """What a command of the page comes to, in the page's own words."""
    _, verb, *words = shlex.split(command)
    if verb == "predict":
        return f"{len(read_pictures(Path(words[1])).samples)} pictures"
    if verb == "shards":
        pytest.importorskip("webdataset")
        write_shards(words[0], Path(words[2]))
        return outcome_of(check(words[0]))
    assert verb == "check" and len(words) in (1, 3) and words[1:2] in ([], ["--encoding"])
    return outcome_of(check(data_reference(words[0], words[2] if words[1:] else None)))


@pytest.mark.parametrize("title", LAYOUTS)
def test_a_layout_opens_as_the_page_says(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout: Layout = LAYOUTS[title]
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path, layout.files)
    if layout.program:
        pytest.importorskip("datasets")
        (tmp_path / "parquet").mkdir()
        exec(layout.program, {})
    assert layout.commands
    for command, outcome in layout.commands:
        assert run(command) == outcome, command


def test_the_page_shows_every_layout_and_option() -> None:
    assert len(LAYOUTS) >= 20
    for option in {*sources.OPTIONS, *caption_files.OPTIONS}:
        assert f"`{option}=" in PAGE, option
    for what in ("annotations/captions_", "Karpathy", "LAVIS", "Flickr8k", "metadata", "results", "masks", "hf:owner"):
        assert what in PAGE


def test_names_that_the_page_calls_no_data_are_none() -> None:
    section = PAGE.split("## Files that are no data")[1].split("\n## ")[0]
    names = re.findall(r"`([^`]+)`", section)
    assert len(names) > 12 and all(map(is_ignored, names))
    assert {"$recycle.bin", "lost+found", "@eadir", "__macosx", "thumbs.db"} <= FOLDERS | FILES
