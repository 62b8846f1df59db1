"""Captions as words: the one tokenisation that every caption figure is computed over."""

from __future__ import annotations

import re
import unicodedata

TOKENISATION = (
    "lower case; a word is a run of letters and digits, with - ' . / _ inside it, and , : between digits; "
    "n't 's 'm 'd 're 've 'll are words of their own; every other mark is left out"
)
"""What :func:`tokenise` does, in one line; stored with the figures."""

# Vowel signs and accents that follow a letter (Unicode's M) are none of Python's \w.
_MARKS = "".join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.category(chr(code))[0] == "M")
_JOINERS = "\u200c\u200d"  # zero width, inside the words of some scripts
_RUN = rf"[^\W_](?:[^\W_]|[{_MARKS}{_JOINERS}])*"
_ENDING = r"n't|'(?:s|m|d|re|ve|ll)"
_CONTRACTION = re.compile(rf"(?<=[^\W_])({_ENDING})(?![^\W_])")
_WORD = re.compile(rf"(?<!\S)(?:{_ENDING})(?!\w)|{_RUN}(?:(?:[-'./_]|(?<=\d)[,:](?=\d)){_RUN})*")
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "‐": "-", "‑": "-"})


def tokenise(caption: str) -> tuple[str, ...]:
    """The words of a caption: "A man's T-shirt, isn't it?" gives ``a man 's t-shirt is n't it``.

    The text is composed (NFC) and brought to lower case. A word is a run of letters and digits; a hyphen, apostrophe,
    full stop, slash or underscore inside it belongs to it (``black-and-white``, ``o'clock``, ``3.5``, ``1/2``), and a
    comma or colon between two digits (``1,000``, ``8:25``). The endings n't, 's, 'm, 'd, 're, 've and 'll are words of
    their own. Every other mark is left out, and none is a word. Scripts without spaces give one word a run.

    These are the rules of the Penn Treebank as far as captions need them; pycocoevalcap's ``PTBTokenizer`` (Stanford
    CoreNLP 3.4.1, which needs Java) makes the same words of nearly every caption. It is not that tokeniser: that one
    also keeps the full stop of abbreviations it knows (``u.s.``, ``mr.``), keeps symbols as words (``& $ % #``) and
    brackets as ``-lrb-``, splits ``cannot`` and ``gonna`` in two and ``10:30am`` before the letters.

    Returns:
        Words without white space, none empty; an empty tuple where the caption has no letter and no digit.
    """
    text = unicodedata.normalize("NFC", caption).translate(_APOSTROPHES).lower()
    return tuple(_WORD.findall(_CONTRACTION.sub(r" \1", text)))
