"""A captioner's vocabulary: word pieces and their ids, read from a file or learnt from captions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from vitrine.errors import DataError, ModelError
from vitrine.io.untrusted_files import MAX_TEXT_BYTES, read_file
from vitrine.results import count_of

_UNKNOWN = "[UNK]"
_SPECIAL = ("[PAD]", _UNKNOWN, "[CLS]", "[SEP]")
_BERT_MASK = "[MASK]"
_REPEATS_A_LINE = 1000  # of one word, in a text that the trainer is given

# Start, end and padding where no others are named: BERT's, RoBERTa's, GPT-2's.
_SPECIAL_TOKENS = (("[CLS]", "[SEP]", "[PAD]"), ("<s>", "</s>", "<pad>"), ("<|endoftext|>",) * 3)

# What a tokenizer's decoder says of the first piece of a word. WordPiece marks the others, with "##".
_WORD_STARTS = {"ByteLevel": "Ġ", "Metaspace": "▁"}


class Vocabulary:
    """Tokens (word pieces) and their ids, of any kind of tokenizer. It can be pickled, and is immutable.

    Attributes:
        size: one more than the highest id.
        start, end, pad: ids that start and end a caption and fill it up; the same id may serve for several.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, start: str | None = None, end: str | None = None, pad: str | None = None
    ) -> None:
        """Wrap a tokenizer of any kind; its padding and truncation are switched off.

        Args:
            tokenizer: changed in place, and not to be used elsewhere.
            start: the piece that starts a caption. Where it, the end or the padding is not named, it is BERT's,
                RoBERTa's or GPT-2's: of the first of these three whose start and end the tokenizer has.
            end: the piece that ends one.
            pad: the piece that fills one up; falls back to the end.

        Raises:
            ModelError: there are no such pieces, or too few pieces to be a vocabulary.
        """
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        ids = tokenizer.get_vocab(with_added_tokens=True)
        usual = next((each for each in _SPECIAL_TOKENS if each[0] in ids and each[1] in ids), (None, None, None))
        self.size = max(ids.values(), default=-1) + 1
        self.start = _find_special(ids, "start", start or usual[0])
        self.end = _find_special(ids, "end", end or usual[1])
        self.pad = _find_special(ids, "pad", pad or (usual[2] if usual[2] in ids else None) or end or usual[1])
        if len(ids) <= len(_SPECIAL) + 1:
            raise ModelError(
                f"This vocabulary has {count_of(len(ids), 'piece')} and no words: {', '.join(list(ids)[:6])}.\n"
                "Give the captioner's own vocab.txt or tokenizer.json."
            )
        self._word_start = _word_start(json.loads(tokenizer.to_str()).get("decoder"))

    def token(self, token_id: int) -> str:
        """The token as the vocabulary spells it, with its marks (``##ing``, ``Ġa``).

        Raises:
            ModelError: there is no such id.
        """
        piece = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
        if piece is None:
            raise ModelError(
                f"Word piece {token_id} is not in this vocabulary of {count_of(self.size, 'piece')}.\n"
                "Give the vocabulary that belongs to the captioner."
            )
        return str(piece)

    def is_continuation(self, token_id: int) -> bool:
        """Whether the token is written onto the one before it, without a space."""
        piece = self.token(token_id)
        if self._word_start is None:
            return piece.startswith("##") and len(piece) > 2
        return not piece.startswith(self._word_start)

    def decode(self, ids: Sequence[int]) -> str:
        """The caption's text, without start, end and padding; an unknown piece is written as ``[UNK]``.

        WordPieces do not record where spaces were: as in transformers, there is none before a full stop, comma,
        question or exclamation mark, and none round an apostrophe.

        Raises:
            ModelError: an id is not in the vocabulary.
        """
        special = {self.start, self.end, self.pad}
        for token_id in ids:
            self.token(token_id)
        words = [token_id for token_id in ids if token_id not in special]
        text = str(self._tokenizer.decode(words, skip_special_tokens=False))
        return (text.replace(" ' ", "'") if self._word_start is None else text).strip()

    def encode(self, text: str) -> list[int]:
        """Ids of a caption's tokens, without start and end, however many there are."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def save(self, path: Path) -> None:
        """Write ``path``, as a ``tokenizer.json`` or, where the name ends in ``.txt``, as a ``vocab.txt``.

        Raises:
            ValueError: a ``vocab.txt`` was asked for of a tokenizer that is not WordPiece.
        """
        if path.suffix != ".txt":
            self._tokenizer.save(str(path))
            return
        if not isinstance(self._tokenizer.model, models.WordPiece):
            raise ValueError("Only a WordPiece vocabulary fits into a vocab.txt.")
        lines = "".join(f"{self.token(number)}\n" for number in range(self.size))
        path.write_text(lines, encoding="utf-8", newline="\n")


def read_vocabulary(
    path: Path,
    *,
    lowercase: bool | None = None,
    start: str | None = None,
    end: str | None = None,
    pad: str | None = None,
) -> Vocabulary:
    """Read a ``tokenizer.json`` (by its ending), a ``vocab.txt`` of WordPieces, or a folder with one of them.

    Args:
        path: of the file or folder.
        lowercase: for a ``vocab.txt``, which does not record it: whether text is lower-cased and its accents removed;
            None does so if none of its pieces has a capital letter, special ones aside.
        start: as in :class:`Vocabulary`.
        end: likewise.
        pad: likewise.

    Raises:
        ModelError: there is no such file, it is not a vocabulary, or it has another number of pieces than of lines.
    """
    if path.is_dir():
        inside = [path / name for name in ("tokenizer.json", "vocab.txt") if (path / name).is_file()]
        if not inside:
            raise ModelError(f"{path}: expected a tokenizer.json or a vocab.txt in this folder; there is neither.")
        path = inside[0]
    try:
        content = read_file(path, MAX_TEXT_BYTES).decode("utf-8")
    except FileNotFoundError:
        raise ModelError(f"{path}: no such vocabulary. Give a vocab.txt or a tokenizer.json.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as a vocabulary: {error}") from None
    try:
        if path.suffix == ".json":
            return Vocabulary(_from_json(content), start=start, end=end, pad=pad)
        return Vocabulary(_from_lines(content, lowercase), start=start, end=end, pad=pad)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def train_vocabulary(
    captions: Iterable[str], size: int, *, lowercase: bool = True, min_frequency: int = 2
) -> Vocabulary:
    """Learn WordPieces from captions (by merging the most frequent pairs, as the tokenizers library does it).

    The same captions give the same vocabulary, in any order.

    Args:
        captions: each is one text.
        size: pieces at most, the four special ones included; few captions give fewer.
        lowercase: lower-case everything and remove accents.
        min_frequency: a pair is merged if it is found this often, 1 or more.

    Raises:
        DataError: no caption has a letter, or ``size`` does not even hold every letter of them.
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizers.BertPreTokenizer()
    # The trainer needs only words and their counts, so that captions that come in a stream need not fit into memory.
    counts = Counter(word for text in captions for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    letters = sorted({letter for word in counts for letter in word})
    if not letters:
        raise DataError("A vocabulary cannot be learnt: there are no captions, or none has a word in it.")
    # The trainer numbers letters in the order of a hash table, another one each time, and breaks ties by number.
    # Numbered in advance, they make it deterministic.
    alphabet = [*_SPECIAL, *letters, *(f"##{letter}" for letter in letters)]
    if size < len(alphabet):
        raise DataError(
            f"A vocabulary of {count_of(size, 'piece')} is too small: the captions' {len(letters)} letters "
            f"and signs alone take "
            f"{len(alphabet)}."
        )
    learner = Tokenizer(models.WordPiece(unk_token=_UNKNOWN))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(
        _repeat_words(counts),
        trainers.WordPieceTrainer(
            vocab_size=size,
            min_frequency=min_frequency,
            special_tokens=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        ),
    )
    return Vocabulary(_bert_tokenizer(learner.get_vocab(), lowercase))


def _repeat_words(counts: Mapping[str, int]) -> Iterator[str]:
    """Texts in which each word occurs as often as it was counted."""
    for word, count in counts.items():
        line = f"{word} " * _REPEATS_A_LINE
        yield from repeat(line, count // _REPEATS_A_LINE)
        yield f"{word} " * (count % _REPEATS_A_LINE)


def _bert_tokenizer(ids: dict[str, int], lowercase: bool) -> Tokenizer:
    """BERT's tokenizer over these pieces (Devlin et al. 2019; its decoder as bert-base-uncased has it)."""
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    special = [piece for piece in (*_SPECIAL, _BERT_MASK) if piece in ids]
    tokenizer.add_special_tokens([AddedToken(piece, special=True) for piece in special])
    return tokenizer


def _from_lines(content: str, lowercase: bool | None) -> Tokenizer:
    lines = [line.rstrip("\r") for line in content.split("\n")]
    if lines[-1] == "":
        del lines[-1]
    ids = {line: number for number, line in enumerate(lines)}
    if len(ids) != len(lines):
        twice = next(line for number, line in enumerate(lines) if ids[line] != number)
        raise ModelError(
            f"expected one piece a line; {twice!r} is there twice. Pieces have their line as their number."
        )
    missing = [piece for piece in _SPECIAL if piece not in ids]
    if missing:
        raise ModelError(f"expected a WordPiece vocabulary, one piece a line; {missing[0]} is not among its lines.")
    if lowercase is None:
        lowercase = not any(line != line.lower() for line in lines if not (line[0:1] == "[" and line[-1:] == "]"))
    tokenizer = _bert_tokenizer(ids, lowercase)
    if tokenizer.get_vocab_size() != len(lines):
        raise ModelError(f"{len(lines):,} lines were read as {count_of(tokenizer.get_vocab_size(), 'piece')}.")
    return tokenizer


def _from_json(content: str) -> Tokenizer:
    try:
        return Tokenizer.from_str(content)
    except Exception as error:  # the library raises nothing more particular
        raise ModelError(f"this is not a tokenizer.json: {error}") from None


def _find_special(ids: dict[str, int], role: str, piece: str | None) -> int:
    if piece is None:
        raise ModelError(f"This vocabulary has no {role} that vitrine knows by name: say which piece it is.")
    if piece not in ids:
        raise ModelError(f"This vocabulary has no piece {piece!r} for its {role}.")
    return ids[piece]


def _word_start(decoder: dict[str, Any] | None) -> str | None:
    """The mark of a word's first piece; None where the other pieces are marked instead."""
    if decoder is None:
        return None
    if decoder["type"] == "Sequence":
        return next(filter(None, map(_word_start, decoder["decoders"])), None)
    if decoder["type"] == "Replace" and decoder["content"] == " ":
        return str(decoder["pattern"].get("String"))
    return decoder.get("replacement") or _WORD_STARTS.get(decoder["type"])
