"""``vitrine report``: runs and answers, what they came to and what models look at, on one self-contained page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vitrine.attribution.registry import CORE_METHODS
from vitrine.classify.model import Classifier, open_classifier
from vitrine.compare.run import ComparisonResult, compare_runs
from vitrine.display import ResultDisplay
from vitrine.errors import DataError, UsageError
from vitrine.explain.score import ScoreSettings, score_methods
from vitrine.io.files import write_atomically
from vitrine.io.output_lock import writes_file
from vitrine.plotting.style import shorten
from vitrine.report.document import Document, Section
from vitrine.report.glossary import glossary_section
from vitrine.report.html import render_html
from vitrine.report.markdown import write_markdown
from vitrine.report.sections.answers import answer_limits, answer_origins, build_answers_section, read_answers
from vitrine.report.sections.captions import build_captioner_section
from vitrine.report.sections.labels import build_labels_section
from vitrine.report.sections.maps import (
    RecordedScores,
    SelectedPicture,
    build_maps_section,
    build_methods_section,
    build_positions_section,
    choose_pictures,
    pictures_from_paths,
    read_scores,
    scores_from_dict,
)
from vitrine.report.sections.provenance import build_limits_section, build_origins_section, footer
from vitrine.report.sections.summary import (
    FinalResult,
    build_classes_section,
    build_curves_section,
    build_result_section,
    build_settings_section,
    choose_final,
)
from vitrine.report.sources import find_sources
from vitrine.results import ClassificationMetrics, count_of
from vitrine.runs.data import resolve_data_reference
from vitrine.runs.find import find_runs
from vitrine.runs.leakage import LEAKAGE
from vitrine.runs.record import RunRecord, read_record

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how many of how many steps are done."""

_MAX_TESTS = 200  # in the facts of a page


@dataclass(frozen=True)
class ReportSettings:
    """What goes into a report.

    Attributes:
        pictures: paths of pictures whose maps and captions are shown; empty chooses validation pictures.
        final: name or folder of the run that is the final result; None takes the best run.
        data: reference of the runs' data; None takes the one that they were trained on.
        score: number of pictures on which methods are scored anew; 0 takes recorded scores.
        markdown: whether to write the report as Markdown with PNG files, too.
        title: of the report; "" makes one.
        seed: of the checks of maps.
    """

    pictures: tuple[Path, ...] = ()
    final: str | None = None
    data: str | None = None
    score: int = 0
    markdown: bool = False
    title: str = ""
    seed: int = 0


@dataclass(frozen=True, repr=False)
class Report(ResultDisplay):
    """A report that was written.

    Attributes:
        document: the report's content.
        paths: files that were written, the page first.
    """

    document: Document
    paths: tuple[Path, ...]

    def headline(self) -> str:
        """Where the page is."""
        return f"report in {self.paths[0]}"

    def to_dict(self) -> dict[str, Any]:
        """The paths and the numbers behind the report, as ``--json`` prints them."""
        return {"written": [str(path) for path in self.paths], **self.document.facts}


@writes_file("report")
def write_report(
    references: Sequence[str],
    out: Path,
    settings: ReportSettings = ReportSettings(),
    *,
    progress: Progress = lambda _what, _done, _total: None,
) -> Report:
    """Write a report of runs, captions and answers as one HTML page.

    Args:
        references: run folders, patterns, and folders that hold runs, such as a sweep's; folders of captions, figures
            of answers, and scores of layers: see :func:`vitrine.report.sources.find_sources`.
        out: the page, ending in .html; Markdown goes beside it.
        settings: what goes into it.
        progress: called as work is done.

    Raises:
        RunError: no finished run, or one whose files do not fit one another.
        UsageError: ``out`` is no .html file, the final run is not among the runs, or there is no run for a setting that
            is of runs.
        DataError, ModelError: a picture in ``settings``, a figure, or the final run's weights, cannot be used.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"-o {out} is no page: expected a name that ends in .html, such as -o report.html.")
    document = build_document(references, settings, out=out, progress=progress)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, render_html(document))
    paths = [out]
    if settings.markdown:
        paths += write_markdown(document, out.with_suffix(".md"))
    return Report(document, tuple(paths))


def build_document(
    references: Sequence[str],
    settings: ReportSettings = ReportSettings(),
    *,
    out: Path = Path("report.html"),
    progress: Progress = lambda _what, _done, _total: None,
) -> Document:
    """The content of a report, without writing it; the arguments and errors are those of :func:`write_report`."""
    return _DocumentBuilder(references, out, settings, progress).build()


class _DocumentBuilder:
    """Builds the sections of one report, and collects sentences on what is missing."""

    def __init__(self, references: Sequence[str], out: Path, settings: ReportSettings, progress: Progress) -> None:
        self.references, self.out, self.settings, self.progress = references, out, settings, progress
        sources = find_sources(references)
        self.answers, self.missing = read_answers(sources)
        self.comparison: ComparisonResult | None = None
        runs: list[RunRecord] = []
        if sources.runs or not sources.has_answers:
            run_folders, read = find_runs(sources.runs or references), cache(read_record)
            self.comparison = compare_runs(run_folders, read)
            runs = [read(name, run) for name, run in run_folders.runs.items()]
        else:
            _refuse_settings_of_runs(settings)
        self.records = {run.name: run for run in runs if not run.is_captioner and not run.is_multi_label}
        self.multi_label = {run.name: run for run in runs if run.is_multi_label}
        self.captioners = {run.name: run for run in runs if run.is_captioner}
        self.final: FinalResult | None = (
            choose_final(self.comparison, self.records, settings.final) if self.comparison else None
        )
        self.map_count = 0

    def build(self) -> Document:
        """The document with all sections, in order."""
        if self.multi_label:
            self.missing.append(
                "What multi-label models look at: vitrine explain draws maps, of each label with --target LABEL."
            )
        model_sections = self._model_sections()
        caption_sections = [self._captioner_section(number, name) for number, name in enumerate(self.captioners, 1)]
        caption_sections += [build_answers_section(model, number) for number, model in enumerate(self.answers, 1)]
        last = [self._limits(any(section.key == "methods" for section in model_sections)), self._origins()]
        sections = [*self._result_sections(), *model_sections, *caption_sections, *last]
        glossary = glossary_section(sections)
        return Document(
            title=self.settings.title or self._title(),
            detail=self._detail(),
            sections=(*sections, *([glossary] if glossary else [])),
            footer=footer(self.comparison is not None),
            facts=self._facts(),
        )

    def _result_sections(self) -> list[Section]:
        """Sections on what the runs came to; none without runs."""
        if self.comparison is None:
            return []
        sections = [
            *([build_result_section(self.final, self.comparison, self.records)] if self.final else []),
            build_settings_section(self.comparison, self.final),
            build_curves_section(self.comparison, self.records | self.multi_label, self.final),
            *([build_classes_section(self.final)] if self.final else []),
            *(build_labels_section(record, number) for number, record in enumerate(self.multi_label.values(), 1)),
        ]
        return [section for section in sections if section is not None]

    def _limits(self, has_scores: bool) -> Section:
        """What was not checked."""
        return build_limits_section(
            self.final,
            self.comparison,
            self.records,
            {name: run.folder.path for name, run in self.captioners.items()},
            has_scores=has_scores,
            map_count=self.map_count,
            missing=[*self.missing, *answer_limits(self.answers)],
        )

    def _origins(self) -> Section:
        """Where everything comes from."""
        runs = [*self.records.values(), *self.multi_label.values(), *self.captioners.values()]
        return build_origins_section(runs, self._command(), answer_origins(self.answers) if self.answers else ())

    def _model_sections(self) -> list[Section]:
        """Sections on what the final model looks at: positions, maps, methods."""
        if self.final is None:
            return []
        folder = self.final.record.folder.path
        classifier = open_classifier(str(folder), self.final.record.metrics.precision)
        sections = [build_positions_section(classifier, self.final.name)]
        pictures = self._pictures(classifier)
        if pictures:
            sections.append(self._maps(classifier, pictures))
        scores = self._scores(classifier, folder)
        return [*sections, *([build_methods_section(scores)] if scores else [])]

    def _maps(self, classifier: Classifier, pictures: Sequence[SelectedPicture]) -> Section:
        maps = build_maps_section(
            classifier, pictures, self.settings.seed, lambda done, total: self.progress("Checking maps", done, total)
        )
        self.map_count = maps.count
        if maps.unreadable and self.settings.pictures:
            name, reason = maps.unreadable[0]
            raise DataError(f"{name} cannot be used: {reason}. Leave it out of --pictures.")
        self.missing += [f"The map of {name}: {reason}." for name, reason in maps.unreadable]
        return maps.section

    def _pictures(self, classifier: Classifier) -> tuple[SelectedPicture, ...]:
        assert self.final is not None
        if self.settings.pictures:
            return pictures_from_paths(self.settings.pictures, classifier.labels)
        try:
            pictures = choose_pictures(self.final.record, self.settings.data)
        except DataError as error:
            self.missing.append(
                f"Maps: the pictures cannot be opened ({str(error).splitlines()[0]}); --data says where."
            )
            return ()
        if not pictures:
            self.missing.append("Maps: the validation pictures are no longer there, or carry no probabilities.")
        return pictures

    def _scores(self, classifier: Classifier, folder: Path) -> RecordedScores | None:
        if not self.settings.score:
            return read_scores(folder)
        assert self.final is not None
        data = self.settings.data or resolve_data_reference(
            self.final.record.folder, str(self.final.record.data["reference"])
        )
        score_settings = ScoreSettings(
            CORE_METHODS, limit=self.settings.score, curves=self.settings.score, seed=self.settings.seed, fillers=()
        )
        result = score_methods(
            classifier,
            str(folder),
            data,
            score_settings,
            lambda done, total, _: self.progress("Scoring methods", done, total),
        )
        return scores_from_dict(result.to_dict())

    def _captioner_section(self, number: int, name: str) -> Section:
        record, pictures = self.captioners[name], self.settings.pictures
        try:
            return build_captioner_section(
                record, number, pictures, lambda done, total: self.progress("Captioning", done, total)
            )
        except DataError as error:
            if pictures:
                raise
            self.missing.append(f"Captions of {name}: its pictures cannot be shown ({str(error).splitlines()[0]}).")
            return build_captioner_section(record, number, None)

    def _title(self) -> str:
        if self.comparison is None:
            names = " and ".join(shorten(model.name, 60) for model in self.answers[:2])
            return f"Answers of {names}{' and others' if len(self.answers) > 2 else ''}"
        if self.final is None and self.comparison.multi_label:
            best = self.comparison.multi_label[0]
            return f"{best.name}: validation mean average precision {best.mean_average_precision:.4f}"
        if self.final is None:
            return f"Captions by {', '.join(self.captioners)}"
        metrics, split = self.final.best_measurement
        leakage = self.final.best_leakage
        without = f" ({leakage.headline()})" if leakage else ""
        return f"{self.final.name}: {split} accuracy {metrics.accuracy:.4f}{without}"

    def _detail(self) -> str:
        parts = [f"{count_of(len(self.records), 'run')} of classifiers"] if self.records else []
        if self.multi_label:
            parts.append(count_of(len(self.multi_label), "multi-label run"))
        if self.captioners:
            parts.append(count_of(len(self.captioners), "captioner"))
        answers = sum(len(model.figures) for model in self.answers)
        parts += [count_of(answers, "answer")] if answers else []
        references = {str(record.data["reference"]) for record in (self.records | self.multi_label).values()}
        leakage = self.final.best_leakage if self.final else None
        leak = [f"{leakage.split} accuracy {leakage.headline()}"] if leakage else []
        return " · ".join([*leak, *parts, *sorted(references)])

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
        """Numbers for programs that read the page; more than 200 tests are left to ``vitrine compare --json``."""
        facts: dict[str, Any] = {}
        if self.comparison is not None:
            facts["comparison"] = comparison = self.comparison.to_dict()
            if len(comparison["tests"]) > _MAX_TESTS:
                del comparison["tests"]
        if self.answers:
            facts["answers"] = [model.to_dict() for model in self.answers]
        if self.final is not None:
            facts["final"] = {
                "run": self.final.name,
                "validation": _without_matrix(self.final.record.classification_metrics),
                "test": None if self.final.test is None else _without_matrix(self.final.test),
                LEAKAGE: {each.split: each.to_dict() for each in self.final.looked_for},
            }
        return facts


def _refuse_settings_of_runs(settings: ReportSettings) -> None:
    """Refuse what says something of runs where there are none.

    Raises:
        UsageError: it names the option.
    """
    options = {
        "--pictures": settings.pictures,
        "--final": settings.final,
        "--data": settings.data,
        "--score": settings.score,
    }
    for option, value in options.items():
        if value:
            raise UsageError(
                f"{option} is of runs, and there is none among what this report is made from: leave it out."
            )


def _without_matrix(metrics: ClassificationMetrics) -> dict[str, Any]:
    """The metrics as JSON without the confusion matrix, which the run's own file has."""
    return {key: value for key, value in metrics.to_dict().items() if key != "confusion"}
