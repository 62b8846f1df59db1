"""A captioner's captions made again, and held against the recorded ones row by row; its word pieces measured again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from vitrine.data.caption_transform import CaptionTransform
from vitrine.data.samples import Sample
from vitrine.recipes import CaptionSpec
from vitrine.train.captioning import CaptionBatch, TeacherForcing
from vitrine.workflows.captioner_opening import OpenedCaptioner, load_captioner, open_captioner
from vitrine.workflows.captioner_record import CaptionerRecord, is_exact
from vitrine.workflows.captioner_scores import PredictedCaption, greedy_captions
from vitrine.workflows.forced_captions import Forced, caption_batch, encoded_caption, measure_forced, plain_pictures
from vitrine.workflows.training_task import Setting
from vitrine.workflows.verified import Again, CaptionsCompared, Check, MovedCaption
from vitrine.workflows.verified_files import environment_check


def verify_captions(
    record: CaptionerRecord, samples: Mapping[str, Sample], again: Again, checks: Sequence[Check]
) -> tuple[CaptionsCompared | None, list[Check]]:
    """Caption and compare.

    Args:
        record: the run.
        samples: what is there of its validation pictures, by recorded name.
        again: how.
        checks: those that were made before.

    Returns:
        What was compared, None where no picture can be read; and what to say of it and of the environment.

    Raises:
        ModelError: the captioner's files cannot be used.
        RunError: captions.csv is of other pictures or results than the run's other files.
    """
    _ = record.captions
    opened = open_captioner(str(record.folder.path), precision=again.precision)
    rows = _compared(record, samples, opened, again)
    if rows is not None and rows.compared == rows.recorded:
        found = _forced(record, samples, Setting(opened.device, again.precision), again.batch_size)
        rows = replace(
            rows,
            pieces_then=record.metrics.accuracy,
            pieces_now=found.accuracy,
            loss_then=record.metrics.negative_log_likelihood,
            loss_now=found.loss,
        )
    environment = environment_check(record.folder, record.metrics.precision, again.precision, opened.device)
    return rows, [_captions(rows, again.tolerance, checks), _pieces(rows, again.tolerance), environment]


def _compared(
    record: CaptionerRecord, samples: Mapping[str, Sample], opened: OpenedCaptioner, again: Again
) -> CaptionsCompared | None:
    unreadable: list[str] = []
    found: list[PredictedCaption] = []
    for caption in greedy_captions(
        opened,
        list(samples.values()),
        precision=again.precision,
        unreadable=lambda name, _: unreadable.append(name),
        batch_size=again.batch_size,
    ):
        found.append(caption)
        again.progress(len(found) + len(unreadable), len(samples))
    if not found:
        return None
    moved = []
    largest: tuple[float | None, str | None] = (None, None)
    for now in found:
        then = record.captions[now.name]
        apart = abs(now.log_probability - then.log_probability)
        if now.caption != then.text:
            moved.append(MovedCaption(now.name, then.text, now.caption, then.log_probability, now.log_probability))
        elif largest[0] is None or apart > largest[0]:
            largest = apart, now.name
    return CaptionsCompared(
        recorded=len(record.captions),
        compared=len(found),
        moved=tuple(moved),
        largest=largest[0],
        largest_at=largest[1],
        exact_then=sum(is_exact(record.captions[each.name].text, record.humans[each.name]) for each in found),
        exact_now=sum(is_exact(each.caption, record.humans[each.name]) for each in found),
        precision=again.precision,
    )


def _forced(record: CaptionerRecord, samples: Mapping[str, Sample], setting: Setting, batch_size: int) -> Forced:
    """The recorded human captions of pictures that can all be read, measured as the training measured them."""
    loaded = load_captioner(str(record.folder.path))
    model, words = loaded.model.to(setting.device), loaded.model.vocabulary
    input_ = loaded.input
    transform = CaptionTransform(input_.long_side, input_.multiple, input_.mean, input_.std)
    longest = min(model.longest, (record.recipe.caption or CaptionSpec()).longest)
    names = list(samples)
    ids = [[encoded_caption(words, text, longest) for text in record.humans[name]] for name in names]

    def batches() -> Iterator[CaptionBatch]:
        for found in plain_pictures([samples[name] for name in names], transform, batch_size, workers=0):
            indices = found.indices_B.tolist()
            yield caption_batch(found.pixels, [ids[index] for index in indices], indices, words.pad)

    return measure_forced(TeacherForcing(model, frozen=True), batches(), transform, words.pad, setting)


def _captions(rows: CaptionsCompared | None, tolerance: float, checks: Sequence[Check]) -> Check:
    if rows is None:
        return Check("captions", "not checked", "none of the recorded pictures can be read")
    details = [f"word for word human ones: {rows.exact_then:,} then, {rows.exact_now:,} now"]
    if rows.largest is not None:
        details.append(f"the largest difference of a log-probability is {rows.largest:.2g} ({rows.largest_at})")
    return rows.check("captions", "captions", details, tolerance, checks)


def _pieces(rows: CaptionsCompared | None, tolerance: float) -> Check:
    """The human captions' word pieces, each predicted from those before it."""
    if rows is None or rows.pieces_then is None or rows.pieces_now is None:
        return Check("word pieces", "not checked", "they are measured on all recorded pictures only")
    told = (
        f"{rows.pieces_then:.4f} of them the likeliest then, {rows.pieces_now:.4f} now; "
        f"loss {rows.loss_then:.5f} then, {rows.loss_now:.5f} now"
    )
    same = abs(rows.pieces_then - rows.pieces_now) <= tolerance + 1e-9
    return Check("word pieces", "same" if same else "differs", told)
