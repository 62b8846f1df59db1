"""The figures of a captioner as a table: predicted captions, one caption for all pictures, and people."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from vitrine.evaluate.caption_constant import RULE
from vitrine.evaluate.caption_results import METRICS, CaptionScores, Score, ScoredCaptions
from vitrine.report.tables import Cell, Table
from vitrine.results import Interval, shown_number

_WIDTH = 100  # characters of the sentences in a terminal
_FIRST = "cider"  # the metric whose lead is put into words, where it was computed
_LONGEST_CAPTION = 160


def caption_table(scores: CaptionScores) -> str:
    """The figures for a terminal: what they are of, the table, and the sentences that belong to it.

    A row a metric, a column each for the predicted captions, the constant caption and, where there are any, people;
    95 % intervals in parentheses. Metrics that were not computed have no row.
    """
    said = [line for sentence in _sentences(scores) for line in textwrap.wrap(sentence, _WIDTH)]
    return "\n\n".join([_heading(scores), _table(scores).text(), "\n".join(said)])


def caption_markdown(scores: CaptionScores) -> str:
    """The same for a README: a pipe table between the heading and a list of the sentences."""
    listed = "\n".join(f"- {sentence}" for sentence in _sentences(scores))
    return "\n\n".join([_heading(scores), _table(scores).markdown(), listed])


def _heading(scores: CaptionScores) -> str:
    lengths = scores.human_lengths
    return (
        f"{_count(scores.predicted.pictures, 'picture')}, {_count(scores.human_captions, 'human caption')} "
        f"of {lengths.shortest} to {lengths.longest} words (mean {lengths.mean:.1f}), "
        f"{scores.human_words:,} distinct words"
    )


def _table(scores: CaptionScores) -> Table:
    columns = {"predicted": scores.predicted, "constant caption": scores.constant}
    if scores.human is not None:
        columns["human"] = scores.human
    shown = list(columns.values())
    rows: list[tuple[Cell, ...]] = [
        (label, *(_score(column.metrics[key]) for column in shown))
        for key, label in METRICS.items()
        if any(column.metrics[key] is not None for column in shown)
    ]
    rows += [(label, *(cell(column) for column in shown)) for label, cell in _ROWS.items()]
    # The constant caption repeats itself by design: nothing is said of it there.
    rows += [
        (label, *(None if column is scores.constant else cell(column) for column in shown))
        for label, cell in _VARIETY_ROWS.items()
    ]
    if len({column.pictures for column in shown}) > 1:
        rows.append(("pictures", *(f"{column.pictures:,}" for column in shown)))
    return Table(("", *columns), tuple(rows))


def _exact(column: ScoredCaptions) -> str:
    return f"{column.exact / column.pictures:.3f} {_ends(column.exact_interval)}"


def _lengths(column: ScoredCaptions) -> str:
    lengths = column.variety.lengths
    return f"{lengths.mean:.1f} ({lengths.shortest} to {lengths.longest})"


_ROWS: dict[str, Callable[[ScoredCaptions], str]] = {
    "equals a human caption": _exact,
    "words, mean (least to most)": _lengths,
}
_VARIETY_ROWS: dict[str, Callable[[ScoredCaptions], str]] = {
    "distinct words": lambda column: f"{column.variety.words:,}",
    "  never said by a human": lambda column: _share(column.variety.unheard, column.variety.words),
    "distinct captions": lambda column: f"{column.variety.distinct:,}",
    "caption also of another picture": lambda column: _share(column.variety.shared, column.pictures),
    "a word twice in a row": lambda column: _share(column.variety.stutters, column.pictures),
    "a pair of words twice": lambda column: _share(column.variety.repeats, column.pictures),
    "no word at all": lambda column: _share(column.variety.empty, column.pictures),
}


def _sentences(scores: CaptionScores) -> list[str]:
    predicted = scores.predicted.variety
    source = "the captions given for it" if scores.constant_from == "given captions" else "these human captions"
    rule = RULE.partition(";")[0]
    sentences = [_lead(scores.lead[_FIRST])] if _FIRST in scores.lead else []
    sentences.append(f"Constant caption: {_quoted(scores.constant_caption)}; of {source} {rule}.")
    if predicted.commonest_count > 1:
        sentences.append(
            f"Commonest prediction: {_quoted(predicted.commonest)}, for {predicted.commonest_count:,} pictures."
        )
    if predicted.unheard_examples:
        sentences.append(f"Words never said by a human: {', '.join(predicted.unheard_examples)}.")
    has_intervals = any(score is not None and score.interval for score in scores.predicted.metrics.values())
    if has_intervals:
        sentences.append(
            f"Intervals are 95 %, over pictures: {scores.resamples:,} resamples, seed {scores.seed}; Wilson for shares."
        )
    return [*sentences, *scores.notes]


def _lead(score: Score) -> str:
    label, size = METRICS[_FIRST], f"{abs(score.value):.3f}"
    if score.interval is None:
        side = "above" if score.value > 0 else "below" if score.value < 0 else "equal to"
        return f"{label} is {side} the constant caption's{f' by {size}' if score.value else ''}; no interval."
    if score.interval.low > 0:
        return f"{label} is {size} {_ends(score.interval)} above the constant caption's."
    if score.interval.high < 0:
        mirrored = Interval(-score.interval.high, -score.interval.low)
        return f"{label} is {size} {_ends(mirrored)} BELOW the constant caption's: looking did not help."
    return (
        f"{label} cannot be told from the constant caption's: "
        f"the difference is {shown_number(score.value, 3)} {_ends(score.interval)}."
    )


def _score(score: Score | None) -> str | None:
    if score is None:
        return None
    return f"{score.value:.3f}" if score.interval is None else f"{score.value:.3f} {_ends(score.interval)}"


def _ends(interval: Interval) -> str:
    return f"({shown_number(interval.low, 3)} to {shown_number(interval.high, 3)})"


def _share(count: int, of: int) -> str:
    return f"{count / of:.3f} ({count:,})" if count else "0"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _quoted(caption: str) -> str:
    if not caption:
        return "no word at all"
    return f'"{caption if len(caption) <= _LONGEST_CAPTION else caption[: _LONGEST_CAPTION - 1] + "…"}"'
