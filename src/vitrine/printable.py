r"""Text that is not ours (names of files and classes, what a file or a library says), made fit to be shown.

Such text may hold characters that act where they are shown: escape sequences that colour, move or rename a terminal,
line breaks that forge a line of ours, marks that turn the direction of reading round, and control characters that no
XML file may have. They are shown as what they are, ``\x1b`` and the like; every other character stays.
"""

from __future__ import annotations

import re

_BREAKS = "\n\t"
_DIRECTION_MARKS = "\u061c\u200e\u200f"
# Of the characters without a shape of their own (Unicode's Cc, Cs, Zl, Zp, most of Cf, and its non-characters) only the
# two joiners stay: emoji and several scripts are spelled with them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufdd0-\ufdef\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f\U0001fffe\U0001ffff\U000ffffe\U000fffff\U0010fffe\U0010ffff]"
)


def printable_line(text: object) -> str:
    r"""A text on one line, whatever is in it: line breaks, too, are shown as ``\n``.

    >>> printable_line("cat\x1b[2J\n.jpg")
    'cat\\x1b[2J\\n.jpg'
    """
    return _UNSAFE.sub(lambda match: _escape(match[0]), str(text))


def printable_lines(text: object) -> str:
    """A text of several lines, whose own line breaks and tabulators stay."""
    return _UNSAFE.sub(lambda match: match[0] if match[0] in _BREAKS else _escape(match[0]), str(text))


def printable_words(text: object) -> str:
    """Text for a figure or a page: like :func:`printable_lines`, but that marks of the direction of reading stay.

    They order no more than what they stand beside, and names in Arabic and Hebrew are written with them.
    """
    stays = f"{_BREAKS}{_DIRECTION_MARKS}"
    return _UNSAFE.sub(lambda match: match[0] if match[0] in stays else _escape(match[0]), str(text))


def printable_json(text: str) -> str:
    r"""JSON that means the same and acts nowhere: what is not printable inside of its strings is written as ``\uNNNN``.

    JSON has line breaks between its values and none in its strings, so those stay.
    """

    def json_escape(match: re.Match[str]) -> str:
        units = match[0].encode("utf-16-be", "surrogatepass")
        codes = (f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
        return match[0] if match[0] in _BREAKS else "".join(codes)

    return _UNSAFE.sub(json_escape, text)


_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def escape_controls(name: str) -> str:
    r"""A name that stays a name, in tables and figures, on one line: control characters are shown as ``\x1b``, ``\n``.

    What names in Arabic, Hebrew or Persian are spelled with, marks of the direction of reading among it, stays. It is
    for names of files and classes wherever they come in; what is shown of them on a terminal goes through the others.
    """
    return _CONTROLS.sub(lambda match: _escape(match[0]), name)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
