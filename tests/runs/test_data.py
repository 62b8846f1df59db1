"""A run's data: found from any working directory; where they are not, it is said where they were looked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from vitrine.data.sources import absolute_reference, reference_exists
from vitrine.errors import DataError, PictureError
from vitrine.report.run import ReportSettings, build_document
from vitrine.report.sections.maps import choose_pictures
from vitrine.runs.data import resolve_data_reference
from vitrine.runs.folder import RunFolder
from vitrine.runs.record import RunRecord, read_record
from vitrine.serve.galleries import open_gallery
from vitrine.verify.run import verify


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("pets", "/there/pets"),
        ("./pets/", "/there/./pets/"),
        ("../pets", "/there/../pets"),
        ("pets.csv?image=file//name&label=breed", "/there/pets.csv?image=file//name&label=breed"),
        ("hf:./pets?label=breed", "hf:/there/./pets?label=breed"),
        ("a/train-{000..009}.tar::b/train-{0,1}.tar", "/there/a/train-{000..009}.tar::/there/b/train-{0,1}.tar"),
        ("/data/pets", "/data/pets"),
        ("~/pets", "~/pets"),
        ("hf:/data/pets", "hf:/data/pets"),
        ("hf:~/pets", "hf:~/pets"),
        ("hf:owner/name@main", "hf:owner/name@main"),
        ("oxford-pets", "oxford-pets"),
        ("oxford-pets:reference", "oxford-pets:reference"),
        ("scenes:base", "scenes:base"),
        ("https://example.org/shards/index.json", "https://example.org/shards/index.json"),
    ],
)
def test_paths_of_a_reference_are_made_absolute_and_all_else_is_left(reference: str, expected: str) -> None:
    assert absolute_reference(reference, Path("/there")) == expected
    assert absolute_reference(expected, Path("/elsewhere")) == expected


def test_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "pets").mkdir()
    for name in ("pets.csv", "odd?name.csv", "train-008.tar"):
        (tmp_path / name).touch()
    there = ("pets", "pets.csv", "pets.csv?image=a", "odd?name.csv", "odd?name.csv?image=a", "train-{008..009}.tar::x")
    assert [reference_exists(f"{tmp_path}/{name}") for name in there] == [True, True, True, True, False, True]
    assert reference_exists(f"hf:{tmp_path}/pets")
    assert not reference_exists(f"{tmp_path}/dogs") and not reference_exists("scenes:base")


@pytest.fixture
def project(small_run: Path, small_scenes: Path, tmp_path: Path) -> Path:
    """A folder with ``pets`` and ``runs/first``, which was trained in it."""
    project = tmp_path / "project"
    shutil.copytree(small_scenes, project / "pets", ignore=shutil.ignore_patterns("test", "masks"))
    shutil.copytree(small_run, project / "runs" / "first")
    change(project / "runs" / "first" / "data.json", reference="pets")
    change(project / "runs" / "first" / "environment.json", started_in=str(project))
    return project


def change(file: Path, **entries: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def record_of(run: Path) -> RunRecord:
    return read_record(run.name, RunFolder(run))


def test_a_training_writes_down_where_it_was_started(small_run: Path) -> None:
    assert json.loads((small_run / "environment.json").read_text())["started_in"] == str(Path.cwd())


def test_data_are_found_from_another_working_directory(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere" / "pets").mkdir(parents=True)  # not the run's, although it is called so
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = project / "runs" / "first"
    assert resolve_data_reference(RunFolder(run), "pets") == str(project / "pets")
    assert verify(run).same
    assert choose_pictures(record_of(run))
    report = build_document([str(run)], ReportSettings(score=4))
    assert {"maps", "methods"} <= {section.key for section in report.sections}


def test_data_are_found_after_the_project_moved(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In it, where the reference leads to them as it did in training."""
    project.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert verify(Path("runs/first")).same


def test_it_is_said_where_data_were_looked_for(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    both = f"Looked for at {project}/pets and {tmp_path}/pets."
    with pytest.raises(DataError, match="not where they were; say where: verify RUN DATA") as error:
        verify(tmp_path / "moved" / "runs" / "first")
    assert both in str(error.value) and len(str(error.value).splitlines()) == 2


def test_a_run_of_before_is_looked_for_where_its_reference_leads(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = project / "runs" / "first"
    environment = json.loads((run / "environment.json").read_text())
    del environment["started_in"]
    (run / "environment.json").write_text(json.dumps(environment))
    monkeypatch.chdir(project)
    assert resolve_data_reference(RunFolder(run), "pets") == "pets" and verify(run).same
    (run / "environment.json").unlink()
    assert verify(run).same


def test_the_explorer_finds_the_samples_of_a_run_from_another_working_directory(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gallery = open_gallery(str(project / "runs" / "first"))
    assert len(gallery.samples) == 24 and gallery.notes == ()
    for number, sample in gallery.samples.items():
        assert gallery.validation is not None and gallery.validation.names[int(number[1:])] == sample.name
        assert sample.picture.read_bytes() == (project / "pets" / sample.name).read_bytes()
    project.rename(tmp_path / "moved")
    gallery = open_gallery("moved/runs/first")
    assert not gallery.samples and gallery.validation is not None
    (note,) = gallery.notes
    assert f"Looked for at {project}/pets and {tmp_path}/pets." in note and "start where they lie" in note


def test_the_explorer_shows_no_picture_of_another_content(project: Path) -> None:
    """Not even one of the same name in data that only seem to be the run's."""
    gallery = open_gallery(str(project / "runs" / "first"))
    one, other = gallery.samples["v0"], gallery.samples["v1"]
    pixels = one.picture.decode().tobytes()
    assert pixels == Image.open(project / "pets" / one.name).convert("RGB").tobytes()
    shutil.copy(project / "pets" / other.name, project / "pets" / one.name)
    for read in (one.picture.read_bytes, one.picture.decode):
        with pytest.raises(PictureError, match="not what the run recorded"):
            read()
    assert other.picture.read_bytes()
