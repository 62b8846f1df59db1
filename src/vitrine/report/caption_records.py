"""Captions as a table: ``captions.csv``, one record a picture."""

from __future__ import annotations

import json

from vitrine.evaluate.csv_records import record
from vitrine.report.words import CaptionPicture, WordPanel

CAPTION_HEADER = record(("filename", "caption", "log_probability", "words", "verdicts"))
"""The first line."""

SOMEWHERE, NOWHERE = "looked somewhere", "nowhere in particular"


def caption_record(picture: CaptionPicture) -> bytes:
    r"""A picture's line, ended by ``\n``: UTF-8, quoted where it has to be.

    ``words`` and ``verdicts`` are JSON lists of one length. A verdict is "looked somewhere" or "nowhere in particular",
    the latter followed by the word's note where it has one. ``log_probability`` is natural, with six decimals; empty
    where it is not known.
    """
    likely = "" if picture.log_probability is None else f"{picture.log_probability:z.6f}"
    words = json.dumps([word.text for word in picture.words], ensure_ascii=False)
    verdicts = json.dumps([_verdict(word) for word in picture.words], ensure_ascii=False)
    return record((picture.name, picture.caption, likely, words, verdicts))


def _verdict(word: WordPanel) -> str:
    if not word.grey:
        return SOMEWHERE
    return f"{NOWHERE}: {word.note}" if word.note else NOWHERE
