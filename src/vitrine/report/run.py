"""``vitrine report``: runs, what they came to and what their models look at, on one self-contained page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vitrine.classify.model import Classifier, open_classifier
from vitrine.compare.run import ComparisonResult, compare_runs
from vitrine.errors import DataError, UsageError
from vitrine.explain.score import ScoreSettings, score_methods
from vitrine.io.files import write_atomically
from vitrine.report.document import Document, Section
from vitrine.report.html import render_html
from vitrine.report.markdown import write_markdown
from vitrine.report.sections.captions import captioner_section
from vitrine.report.sections.maps import (
    RecordedScores,
    ShownPicture,
    choose_pictures,
    maps_section,
    methods_section,
    pictures_from_paths,
    positions_section,
    read_scores,
    scores_from_dict,
)
from vitrine.report.sections.provenance import foot, limits_section, origins_section
from vitrine.report.sections.summary import (
    Final,
    choose_final,
    classes_section,
    curves_section,
    final_section,
    settings_section,
)
from vitrine.results import ClassificationMetrics
from vitrine.runs.data import resolve_data_reference
from vitrine.runs.find import find_runs
from vitrine.runs.record import read_record

Progress = Callable[[str, int, int], None]
"""What is being done, steps done, of how many."""

_MOST_TESTS = 200  # that a page carries


@dataclass(frozen=True)
class ReportSettings:
    """What a report is asked for.

    Attributes:
        pictures: whose maps and captions are shown; empty chooses validation pictures.
        final: the run that is the final result; None takes the best.
        data: where the runs' data are now; None: where they were.
        score: pictures on which methods are scored anew; 0 takes what was recorded.
        markdown: also the same as Markdown with PNG files.
        title: of the report; "" makes one.
        seed: of the checks.
    """

    pictures: tuple[Path, ...] = ()
    final: str | None = None
    data: str | None = None
    score: int = 0
    markdown: bool = False
    title: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Report:
    """What ``vitrine report`` made.

    Attributes:
        document: its content.
        paths: of the files that were written, the page first.
    """

    document: Document
    paths: tuple[Path, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"written": [str(path) for path in self.paths], **self.document.facts}


def write_report(
    references: Sequence[str],
    out: Path,
    settings: ReportSettings = ReportSettings(),
    *,
    progress: Progress = lambda _what, _done, _total: None,
) -> Report:
    """Write a report of runs.

    Args:
        references: run folders, patterns, and folders that hold runs, such as a sweep's.
        out: the page, ending in .html; Markdown goes beside it.
        settings: what is in it.
        progress: called as work is done.

    Raises:
        RunError: no finished run, or one whose files do not fit one another.
        UsageError: ``out`` is no .html file, or the final run is not among the runs.
        DataError, ModelError: a picture that was named, or the final run's weights, cannot be used.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"-o {out} is no page: expected a name that ends in .html, such as -o report.html.")
    document = build_document(references, settings, out=out, progress=progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, render_html(document))
    written = [out]
    if settings.markdown:
        written += write_markdown(document, out.with_suffix(".md"))
    return Report(document, tuple(written))


def build_document(
    references: Sequence[str],
    settings: ReportSettings = ReportSettings(),
    *,
    out: Path = Path("report.html"),
    progress: Progress = lambda _what, _done, _total: None,
) -> Document:
    """What :func:`write_report` writes; nothing is written."""
    return _Gathering(references, out, settings, progress).document()


class _Gathering:
    """One report as it is put together."""

    def __init__(self, references: Sequence[str], out: Path, settings: ReportSettings, progress: Progress) -> None:
        self.references, self.out, self.settings, self.progress = references, out, settings, progress
        found, read = find_runs(references), cache(read_record)
        self.comparison: ComparisonResult = compare_runs(found, read)
        runs = [read(name, run) for name, run in found.runs.items()]
        self.records = {run.name: run for run in runs if not run.is_captioner}
        self.captioners = {run.name: run for run in runs if run.is_captioner}
        self.final: Final | None = choose_final(self.comparison, self.records, settings.final)
        self.missing: list[str] = []
        self.mapped = 0

    def document(self) -> Document:
        """All sections, in order."""
        looked = self._inside()
        captioned = [self._captioner(number, name) for number, name in enumerate(self.captioners, 1)]
        before = [
            *([final_section(self.final, self.comparison, self.records)] if self.final else []),
            settings_section(self.comparison, self.final),
            curves_section(self.comparison, self.records, self.final),
            *([classes_section(self.final)] if self.final else []),
        ]
        after = [
            limits_section(
                self.final,
                self.comparison,
                self.records,
                {name: run.folder.path for name, run in self.captioners.items()},
                scored=any(section.key == "methods" for section in looked),
                mapped=self.mapped,
                missing=self.missing,
            ),
            origins_section([*self.records.values(), *self.captioners.values()], self._command()),
        ]
        sections = [*before, *looked, *captioned, *after]
        return Document(
            title=self.settings.title or self._title(),
            detail=self._detail(),
            sections=tuple(section for section in sections if section is not None),
            foot=foot(),
            facts=self._facts(),
        )

    def _inside(self) -> list[Section]:
        """What the final model looks at."""
        if self.final is None:
            return []
        folder = self.final.record.folder.path
        opened = open_classifier(str(folder), self.final.record.metrics.precision)
        sections = [positions_section(opened, self.final.name)]
        pictures = self._pictures(opened)
        if pictures:
            sections.append(self._maps(opened, pictures))
        scores = self._scores(opened, folder)
        return [*sections, *([methods_section(scores)] if scores else [])]

    def _maps(self, opened: Classifier, pictures: Sequence[ShownPicture]) -> Section:
        made = maps_section(
            opened, pictures, self.settings.seed, lambda done, total: self.progress("Checking maps", done, total)
        )
        self.mapped = made.shown
        if made.unreadable and self.settings.pictures:
            name, reason = made.unreadable[0]
            raise DataError(f"{name} cannot be used: {reason}. Leave it out of --pictures.")
        self.missing += [f"The map of {name}: {reason}." for name, reason in made.unreadable]
        return made.section

    def _pictures(self, opened: Classifier) -> tuple[ShownPicture, ...]:
        assert self.final is not None
        if self.settings.pictures:
            return pictures_from_paths(self.settings.pictures, opened.labels)
        try:
            found = choose_pictures(self.final.record, self.settings.data)
        except DataError as error:
            self.missing.append(
                f"Maps: the pictures cannot be opened ({str(error).splitlines()[0]}); --data says where."
            )
            return ()
        if not found:
            self.missing.append("Maps: the validation pictures are no longer there, or carry no probabilities.")
        return found

    def _scores(self, opened: Classifier, folder: Path) -> RecordedScores | None:
        if not self.settings.score:
            return read_scores(folder)
        assert self.final is not None
        data = self.settings.data or resolve_data_reference(
            self.final.record.folder, str(self.final.record.data["reference"])
        )
        asked = ScoreSettings(limit=self.settings.score, curves=self.settings.score, seed=self.settings.seed)
        scored = score_methods(
            opened, str(folder), data, asked, lambda done, total: self.progress("Scoring methods", done, total)
        )
        return scores_from_dict(scored.to_dict())

    def _captioner(self, number: int, name: str) -> Section:
        record, pictures = self.captioners[name], self.settings.pictures
        try:
            return captioner_section(
                record, number, pictures, lambda done, total: self.progress("Captioning", done, total)
            )
        except DataError as error:
            if pictures:
                raise
            self.missing.append(f"Captions of {name}: its pictures cannot be shown ({str(error).splitlines()[0]}).")
            return captioner_section(record, number, None)

    def _title(self) -> str:
        if self.final is None:
            return f"Captions by {', '.join(self.captioners)}"
        metrics, split = self.final.shown
        return f"{self.final.name}: {split} accuracy {metrics.accuracy:.4f}"

    def _detail(self) -> str:
        parts = [f"{len(self.records)} run{'s' * (len(self.records) != 1)} of classifiers"] if self.records else []
        if self.captioners:
            parts.append(f"{len(self.captioners)} captioner{'s' * (len(self.captioners) != 1)}")
        references = {str(record.data["reference"]) for record in self.records.values()}
        return " · ".join([*parts, *sorted(references)])

    def _command(self) -> list[str]:
        s = self.settings
        words = ["vitrine", "report", *self.references, "-o", str(self.out)]
        words += [word for path in s.pictures for word in ("--pictures", str(path))]
        for flag, value in (("--final", s.final), ("--data", s.data), ("--title", s.title or None)):
            words += [] if value is None else [flag, value]
        words += ["--score", str(s.score)] if s.score else []
        words += ["--seed", str(s.seed)] if s.seed else []
        return [*words, *(["--markdown"] if s.markdown else [])]

    def _facts(self) -> dict[str, Any]:
        """What programs read of the page; tests by the hundred are for ``vitrine compare --json``."""
        compared = self.comparison.to_dict()
        if len(compared["tests"]) > _MOST_TESTS:
            del compared["tests"]
        facts: dict[str, Any] = {"comparison": compared}
        if self.final is not None:
            facts["final"] = {
                "run": self.final.name,
                "validation": _without_matrix(self.final.record.classification_metrics),
                "test": None if self.final.test is None else _without_matrix(self.final.test),
            }
        return facts


def _without_matrix(metrics: ClassificationMetrics) -> dict[str, Any]:
    """The figures; the confusion matrix is in the run's own file."""
    return {key: value for key, value in metrics.to_dict().items() if key != "confusion"}
