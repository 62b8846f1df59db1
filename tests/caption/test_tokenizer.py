"""Vocabularies: read, learnt, saved, and refused."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from vitrine.caption.tokenizer import Vocabulary, read_vocabulary, train_vocabulary
from vitrine.errors import DataError, ModelError

LINES = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg", *(f"##{letter}" for letter in "abcdef")]
LINES += ["cab", "##bed", "bad", "##ge", "face", ".", ",", "'", "-", "s"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    captions = ["a cat on a mat.", "a cat, a dog and a red star", "two red stars above a cat"] * 3
    return train_vocabulary(captions, 200)


def slow_pieces(word: str) -> list[str]:
    """WordPiece as its authors describe it: the longest beginning that is a piece, again and again."""
    found: list[str] = []
    while word:
        mark = "##" if found else ""
        longest = next((length for length in range(len(word), 0, -1) if mark + word[:length] in LINES), 0)
        if not longest:
            return ["[UNK]"]
        found.append(mark + word[:longest])
        word = word[longest:]
    return found


def test_a_vocab_txt_is_numbered_by_its_lines(folder: Path) -> None:
    vocabulary = read_vocabulary(folder / "vocab.txt")
    assert vocabulary.size == len(LINES)
    assert [vocabulary.token(number) for number in range(vocabulary.size)] == LINES
    assert (vocabulary.pad, vocabulary.start, vocabulary.end) == (0, 3, 4)


@given(st.lists(st.text("abcdefghABC", min_size=1, max_size=9), max_size=4))
@settings(max_examples=60)
def test_text_is_cut_into_the_longest_pieces(tmp_path_factory: pytest.TempPathFactory, said: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "longest.txt"
    if not path.exists():
        path.write_text("\n".join(LINES), encoding="utf-8")
    vocabulary = read_vocabulary(path)
    expected = [piece for word in said for piece in slow_pieces(word.lower())]
    ids = vocabulary.encode(" ".join(said))
    assert [vocabulary.token(number) for number in ids] == expected
    assert [vocabulary.is_continuation(number) for number in ids] == [piece.startswith("##") for piece in expected]
    if "[UNK]" not in expected:
        assert vocabulary.decode(ids) == " ".join(said).lower()


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["[CLS]", "bad", "cab", ".", "[SEP]", "[PAD]", "[PAD]"], "bad cab."),
        (["bad", ",", "bad", "cab", "##bed"], "bad, bad cabbed"),
        (["cab", "'", "s", "face"], "cab's face"),
        (["a", "-", "b"], "a - b"),
        (["bad", "[UNK]", "face"], "bad [UNK] face"),
        ([], ""),
    ],
)
def test_text_reads_as_transformers_writes_it(folder: Path, pieces: list[str], text: str) -> None:
    assert read_vocabulary(folder).decode([LINES.index(piece) for piece in pieces]) == text


def test_case_is_kept_where_the_vocabulary_has_it(folder: Path) -> None:
    (folder / "cased.txt").write_text("\n".join([*LINES, "Cab"]), encoding="utf-8")
    cased = read_vocabulary(folder / "cased.txt")
    assert cased.decode(cased.encode("Cab cab")) == "Cab cab"
    lower = read_vocabulary(folder / "cased.txt", lowercase=True)
    assert lower.decode(lower.encode("Cab cab")) == "cab cab"
    uncased = read_vocabulary(folder / "vocab.txt")
    assert uncased.decode(uncased.encode("Cáb BAD")) == "cab bad"


def test_line_ends_of_any_system_are_read(folder: Path) -> None:
    for content in ("\n".join(LINES), "\r\n".join(LINES) + "\r\n"):
        (folder / "other.txt").write_bytes(content.encode())
        assert read_vocabulary(folder / "other.txt").encode("cab bad") == [LINES.index("cab"), LINES.index("bad")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n".join([*LINES, "cab"]), "'cab' is there twice"),
        ("\n".join(["", "", *LINES]), "'' is there twice"),
        ("\n".join(line for line in LINES if line != "[UNK]"), r"\[UNK\] is not among"),
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n", "no words"),
        ("", "expected a WordPiece vocabulary"),
        (b"\x80\x02}q\x00", "cannot be read as a vocabulary"),
    ],
)
def test_what_is_no_vocab_txt_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelError, match=message) as refused:
        read_vocabulary(path)
    assert str(path) in str(refused.value)


def test_what_is_no_tokenizer_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for content in ("{}", "not json", '{"model": {"type": "Unheard"}}'):
        path.write_text(content)
        with pytest.raises(ModelError, match=r"not a tokenizer\.json"):
            read_vocabulary(path)
    with pytest.raises(ModelError, match="no such vocabulary"):
        read_vocabulary(tmp_path / "absent.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="there is neither"):
        read_vocabulary(tmp_path / "empty")


def test_marks_can_be_named(folder: Path) -> None:
    vocabulary = read_vocabulary(folder, start="[MASK]", end="[unused0]", pad="[UNK]")
    assert [vocabulary.token(number) for number in (vocabulary.start, vocabulary.end, vocabulary.pad)] == [
        "[MASK]",
        "[unused0]",
        "[UNK]",
    ]
    with pytest.raises(ModelError, match="no piece '<s>' for its start"):
        read_vocabulary(folder, start="<s>")


@pytest.mark.parametrize("number", [-1, len(LINES), 30_522])
def test_a_number_without_piece_is_refused(folder: Path, number: int) -> None:
    vocabulary = read_vocabulary(folder)
    for ask in (vocabulary.token, vocabulary.is_continuation, lambda number: vocabulary.decode([number])):
        with pytest.raises(ModelError, match="not in this vocabulary"):
            ask(number)


def test_learning_is_deterministic() -> None:
    rng = random.Random(0)  # many pairs that are equally frequent
    captions = [" ".join("".join(rng.choices("abcdefgh", k=3)) for _ in range(6)) for _ in range(40)]
    shuffled = rng.sample(captions, len(captions))
    learnt = [train_vocabulary(order, 90) for order in (captions, captions, shuffled, captions, shuffled)]
    pieces = [[one.token(number) for number in range(one.size)] for one in learnt]
    assert pieces[0][:4] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    assert all(other == pieces[0] for other in pieces)
    assert len(set(pieces[0])) == 90


@given(st.lists(st.text("abcde é.,-'", min_size=1, max_size=20), min_size=1, max_size=6), st.integers(30, 60))
@settings(max_examples=40)
def test_what_was_learnt_from_can_be_written(captions: list[str], size: int) -> None:
    try:
        vocabulary = train_vocabulary(captions, size)
    except DataError:
        assert not any(caption.strip() for caption in captions)
        return
    assert vocabulary.size <= size
    for caption in captions:
        ids = vocabulary.encode(caption)
        assert all(vocabulary.token(number) != "[UNK]" for number in ids)
        assert vocabulary.decode(ids).replace(" ", "") == caption.replace(" ", "").replace("é", "e")


@given(st.lists(st.text("abcdé A.,", max_size=12), min_size=1, max_size=8), st.integers(30, 60))
@settings(max_examples=25)
def test_counts_of_words_teach_what_whole_captions_do(captions: list[str], size: int) -> None:
    """The library itself, on every caption as it stands; one of them a few thousand times."""
    captions = [*captions, *["abba cab"] * 2500]
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    words = [w for text in captions for w, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))]
    letters = sorted({letter for word in words for letter in word})
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = normalizer, splitter
    first = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    learner.train_from_iterator(
        captions,
        trainers.WordPieceTrainer(
            vocab_size=size, min_frequency=2, special_tokens=first, limit_alphabet=len(first), show_progress=False
        ),
    )
    learnt = train_vocabulary(iter(captions), size)
    assert [learnt.token(number) for number in range(learnt.size)] == [
        piece for piece, _ in sorted(learner.get_vocab().items(), key=lambda item: item[1])
    ]


def test_frequent_words_are_learnt_whole(words: Vocabulary) -> None:
    assert [words.token(number) for number in words.encode("Two stars above a cat, a dog.")] == [
        *("two", "stars", "above", "a", "cat", ",", "a", "dog", "."),
    ]


def test_learning_refuses_what_it_cannot_do() -> None:
    for captions in ([], ["", "  "]):
        with pytest.raises(DataError, match="cannot be learnt"):
            train_vocabulary(captions, 100)
    with pytest.raises(DataError, match="3 letters and signs alone take 10"):
        train_vocabulary(["abc"], 9)
    assert train_vocabulary(["abc"], 10).size == 10


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_a_saved_vocabulary_is_the_same(words: Vocabulary, tmp_path: Path, name: str) -> None:
    words.save(tmp_path / name)
    for again in (read_vocabulary(tmp_path / name), read_vocabulary(tmp_path), pickle.loads(pickle.dumps(words))):
        assert (again.size, again.start, again.end, again.pad) == (words.size, words.start, words.end, words.pad)
        assert [again.token(number) for number in range(again.size)] == [
            words.token(number) for number in range(words.size)
        ]
        ids = again.encode("A red Cat, above 2 stars")
        assert ids == words.encode("A red Cat, above 2 stars")
        assert again.decode(ids) == words.decode(ids)


def byte_level() -> Tokenizer:
    """GPT-2's way: bytes, and a mark on the first piece of a word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {"<|endoftext|>": 0} | {letter: number for number, letter in enumerate(alphabet, start=1)}
    ids |= {"Ġa": len(ids), "Ġc": len(ids) + 1, "at": len(ids) + 2, "Ġcat": len(ids) + 3}
    tokenizer = Tokenizer(models.BPE(ids, [("Ġ", "a"), ("Ġ", "c"), ("a", "t"), ("Ġc", "at")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    return tokenizer


def test_other_kinds_of_tokenizer_serve(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    vocabulary = read_vocabulary(tmp_path)
    assert (vocabulary.start, vocabulary.end, vocabulary.pad) == (0, 0, 0)
    ids = vocabulary.encode("a cat née.")
    assert vocabulary.decode([*ids, vocabulary.end]) == "a cat née."
    pieces = [vocabulary.token(number) for number in ids]
    assert pieces == ["Ġa", "Ġcat", "Ġ", "n", "Ã", "©", "e", "."]
    assert [vocabulary.is_continuation(number) for number in ids] == [False, False, False, True, True, True, True, True]
    with pytest.raises(ValueError, match="WordPiece"):
        vocabulary.save(tmp_path / "vocab.txt")


@pytest.mark.parametrize(
    "decoder",
    [
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"}],
        },
    ],
)
def test_sentencepiece_marks_beginnings(decoder: dict[str, object]) -> None:
    pieces = ["<s>", "</s>", "<pad>", "<unk>", "▁a", "▁ca", "t", "s"]
    tokenizer = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token="<unk>"))
    content = json.loads(tokenizer.to_str()) | {"decoder": decoder}
    vocabulary = Vocabulary(Tokenizer.from_str(json.dumps(content)))
    assert (vocabulary.start, vocabulary.end, vocabulary.pad) == (0, 1, 2)
    assert [vocabulary.is_continuation(number) for number in (4, 5, 6, 7)] == [False, False, True, True]
    assert vocabulary.decode([0, 4, 5, 6, 7, 1]) == "a cats"
