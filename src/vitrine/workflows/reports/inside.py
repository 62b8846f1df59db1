"""Sections on what the final model looks at: its position embeddings, and attention maps with verdicts.

Axes: R grid rows, C grid columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrine.data.listing import one_picture
from vitrine.data.samples import Sample
from vitrine.errors import ModelError, RunError
from vitrine.explain.methods import Method
from vitrine.explain.position_findings import assess_positions
from vitrine.explain.positions import position_embeddings
from vitrine.report.maps import MapPicture
from vitrine.report.page.document import Block, Finding, Findings, Gallery, MapView, Paragraph, Plot, Section, Sheet
from vitrine.report.positions import number_rows, position_figure
from vitrine.report.scale import Scale, shared_scale
from vitrine.report.tables import Table
from vitrine.workflows.explain_words import true_label_in
from vitrine.workflows.figure_names import plain_stem
from vitrine.workflows.map_pictures import map_picture
from vitrine.workflows.mapping import Mapper, check_maps
from vitrine.workflows.opened import OpenedModel
from vitrine.workflows.run_pictures import validation_samples
from vitrine.workflows.run_record import RunRecord, read_predictions

_SIDE = 480  # pixels of a photograph on the page


def positions_section(opened: OpenedModel, name: str) -> Section:
    """The similarity of position embeddings as one figure, with its numbers beside those of controls."""
    try:
        table = position_embeddings(opened.module)
    except ModelError as error:
        blocks: tuple[Block, ...] = (Paragraph(str(error).splitlines()[0]),)
        return Section("positions", "Position embeddings", blocks)
    findings = assess_positions(
        table.embeddings_RCD, computed=table.computed, notes=(*opened.built.notes, *table.notes)
    )
    columns = ("", "this model", "untrained", "fixed 2-D sine")
    numbers = Table(columns, tuple((what, *cells) for what, cells in number_rows([findings.numbers], findings)))
    figure = position_figure(findings, f"Position embeddings of {name}", words=False)
    alt = (
        f"Similarity of each of {findings.rows} × {findings.columns} position embeddings with all. {findings.sentence}"
    )
    return Section(
        "positions",
        "Position embeddings",
        (
            Paragraph(findings.sentence),
            Sheet(
                numbers, "Untrained: random embeddings of this size. Fixed 2-D sine: embeddings that encode position."
            ),
            Plot("positions", figure, alt, lines=False),
            *(Paragraph(note, "note") for note in findings.notes),
        ),
    )


@dataclass(frozen=True)
class ShownPicture:
    """A picture whose map is shown, its true label where it is known, and why it is shown."""

    sample: Sample
    true: str | None
    why: str


def default_pictures(record: RunRecord, data: str | None = None) -> tuple[ShownPicture, ...]:
    """The two validation pictures on which the run was surest and right, the two surest and wrong, and the two on which
    it was least sure, of different classes where there are any: fewer where it has no more, none where the pictures are
    no longer there.

    Args:
        record: the run.
        data: where its data are now; None: where they were.

    Raises:
        DataError: there are no such data.
        RunError: predictions.csv has a probability that is no number.
    """
    rows = read_predictions(record.folder.path)
    try:
        sure = {row["filename"]: float(row["probability"]) for row in rows if "probability" in row}
    except ValueError as error:
        raise RunError(f"predictions.csv in {record.folder.path} has a probability that is no number.") from error
    answers = record.answers
    ranked = sorted(sure, key=lambda name: (-sure[name], name))
    right = [name for name in ranked if answers[name].right]
    wrong = [name for name in ranked if not answers[name].right]
    chosen: dict[str, str] = dict.fromkeys(_spread(right, record.truths), "surest and right")
    chosen |= dict.fromkeys(_spread(wrong, record.truths), "surest and wrong")
    unsure = [name for name in reversed(ranked) if name not in chosen]
    chosen |= dict.fromkeys(_spread(unsure, record.truths), "least sure")
    there = validation_samples(record, chosen, data)
    return tuple(ShownPicture(sample, record.truths[name], chosen[name]) for name, sample in there.items())


def _spread(names: Sequence[str], truths: Mapping[str, str], count: int = 2) -> list[str]:
    """The first names, of different classes where there are any."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(truths[name], name)
    taken = list(first.values())[:count]
    return (taken + [name for name in names if name not in taken])[:count]


def given_pictures(paths: Sequence[Path], labels: Sequence[str]) -> tuple[ShownPicture, ...]:
    """The pictures that a person names; their folder or file name may say the true label.

    Raises:
        DataError: there is no such file.
    """
    return tuple(
        ShownPicture(one_picture(path, "vitrine explain"), true_label_in(str(path.absolute()), labels), "")
        for path in paths
    )


@dataclass(frozen=True)
class MapsMade:
    """A section of maps, how many there are, and (name, reason) of pictures that cannot be read."""

    section: Section
    shown: int
    unreadable: tuple[tuple[str, str], ...]


def maps_section(
    opened: OpenedModel,
    pictures: Sequence[ShownPicture],
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> MapsMade:
    """Attention maps of pictures on one scale, each checked on its own picture."""
    mapper = Mapper(opened, Method())
    drawn: list[tuple[MapPicture, str, str]] = []
    unreadable = []
    for index, shown in enumerate(pictures):
        mapped = next(mapper.run([shown.sample], 1))
        if mapped.batch.unreadable:
            unreadable.append((shown.sample.name, mapped.batch.unreadable[0][1]))
            continue
        checked = check_maps(mapper, mapped, seed)
        picture = map_picture(mapper, mapped, 0, shown.sample, shown.true, checked)
        drawn.append((picture.lighter(_SIDE), shown.why, checked.verdicts[0].flag))
        progress(index + 1, len(pictures))
    return MapsMade(Section("maps", "What it looks at", _maps(drawn)), len(drawn), tuple(unreadable))


def _maps(drawn: Sequence[tuple[MapPicture, str, str]]) -> tuple[Block, ...]:
    """(picture, why it is shown, flag of its verdict) as blocks."""
    if not drawn:
        return (Paragraph("No picture was there to be shown."),)
    scale = Scale("uniform", shared_scale([picture.map_RC for picture, *_ in drawn]))
    stems = [f"map-{i}-{plain_stem(Path(picture.name).stem)}" for i, (picture, *_) in enumerate(drawn, 1)]
    views = tuple(MapView(stem, each, scale, why) for stem, (each, why, _) in zip(stems, drawn, strict=True))
    method = drawn[0][0].method
    return (
        Paragraph(f"{method[0].upper()}{method[1:]}. All maps have one scale."),
        Findings((_verdicts([flag for *_, flag in drawn]),)),
        Gallery(views),
        Paragraph(
            "These pictures are no sample: they were chosen for what they are, and a check on one picture is weak. "
            "Whether maps of this model point at things in general is another measurement, on many pictures.",
            "note",
        ),
    )


def _verdicts(flags: Sequence[str]) -> Finding:
    good, bad, n = flags.count("believable"), flags.count("doubtful"), len(flags)
    flag = "doubtful" if bad else "believable" if good == n else "not checked"
    return Finding(flag, f"Of {n} map{'s' * (n != 1)}, {good} can be believed by these checks, and {bad} cannot.")
