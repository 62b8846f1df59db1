"""Caption figures: pycocoevalcap's own numbers, the published formulas, and what is said where something is missing."""

import json
import math
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections import Counter
from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrine.caption.evaluate import caption_table
from vitrine.errors import DataError
from vitrine.metrics import caption_java, java_process
from vitrine.metrics import captions as captions_module
from vitrine.metrics.caption_ngrams import corpus_bleu, ngram_scores
from vitrine.metrics.caption_text import caption_diversity, constant_caption, tokenise
from vitrine.metrics.captions import METRICS, caption_scores
from vitrine.metrics.intervals import mean_interval, wilson

REFERENCES = {
    "dog.jpg": ["A dog runs across the green grass.", "The dog is running on grass", "A brown dog, running outdoors!"],
    "cat.jpg": ["A cat sleeps on a red sofa.", "the cat is lying on the sofa"],
    "bus.jpg": ["A man's bus drives down the street.", "A double-decker bus on a city street", "bus"],
    "food.jpg": ["A plate of food on a table.", "Some food on a white plate"],
    "wave.jpg": ["A man riding a wave on a surfboard.", "a surfer rides a big wave", "A man on a board"],
    "kite.jpg": ["Two people fly a kite on the beach.", "People with a kite at the beach"],
    "zoo.jpg": ["A zebra and a giraffe stand in the grass", "Zebra near a giraffe"],
}
PREDICTED = {
    "dog.jpg": "A dog runs across the grass.",
    "cat.jpg": "the cat is lying on the sofa",
    "bus.jpg": "A bus on a city street",
    "food.jpg": "A plate of food on a table on a table",
    "wave.jpg": "A man riding a wave on a surfboard on a wave",
    "kite.jpg": "a kite",
    "zoo.jpg": "A zebra and a giraffe stand in in the zoo",
}
SCORERS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")


def words_of(predicted, references):
    names = sorted(predicted)
    return [tokenise(predicted[name]) for name in names], [[tokenise(t) for t in references[name]] for name in names]


# ------------------------------------------------------------------ the published formulas, slowly


def slow_ngrams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def slow_bleu(captions, references, n):
    """Papineni et al. (2002), section 2.3, over a corpus."""
    logs = []
    for k in range(1, n + 1):
        matches = total = 0
        for words, others in zip(captions, references, strict=True):
            for ngram, count in slow_ngrams(words, k).items():
                matches += min(count, max(slow_ngrams(other, k)[ngram] for other in others))
                total += count
        logs.append(math.log(matches / total))
    c = sum(map(len, captions))
    r = sum(
        min((abs(len(o) - len(w)), len(o)) for o in others)[1] for w, others in zip(captions, references, strict=True)
    )
    return min(1.0, math.exp(1 - r / c)) * math.exp(sum(logs) / n)


def slow_rouge(words, others):
    """Lin (2004), section 3: F of the longest common subsequence, beta 1.2; best precision and best recall."""

    def longest(first, second):
        @cache
        def common(i, j):
            if i == len(first) or j == len(second):
                return 0
            if first[i] == second[j]:
                return 1 + common(i + 1, j + 1)
            return max(common(i + 1, j), common(i, j + 1))

        return common(0, 0)

    p = max(longest(words, other) / len(words) for other in others)
    r = max(longest(words, other) / len(other) for other in others)
    return (1 + 1.2**2) * p * r / (r + 1.2**2 * p) if p and r else 0.0


def slow_cider(captions, references):
    """Vedantam et al. (2015), equations 1 to 3 and 6 (CIDEr-D, sigma 6), with whole vectors over the vocabulary."""
    figures = []
    for words, others in zip(captions, references, strict=True):
        by_n = []
        for n in range(1, 5):
            space = sorted(
                {g for c in (*captions, *(o for others in references for o in others)) for g in slow_ngrams(c, n)}
            )
            document_counts = [sum(any(g in slow_ngrams(o, n) for o in others) for others in references) for g in space]
            idf = np.log(len(references) / np.maximum(1, document_counts))

            def vector(caption, n=n, space=space, idf=idf):
                return np.array([slow_ngrams(caption, n)[g] for g in space]) * idf

            ours, total = vector(words), 0.0
            for other in others:
                theirs = vector(other)
                size = np.linalg.norm(ours) * np.linalg.norm(theirs)
                penalty = math.exp(-((len(words) - len(other)) ** 2) / (2 * 6**2))
                total += penalty * float(np.minimum(ours, theirs) @ theirs) / size if size else 0.0
            by_n.append(10 * total / len(others))
        figures.append(sum(by_n) / 4)
    return figures


# ------------------------------------------------------------------ words


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A man's T-shirt, isn't it?", "a man 's t-shirt is n't it"),
        ("  Two\tdogs\n run.. ", "two dogs run"),
        ("It’s 8:25, 1,000 people; 3.5 ft", "it 's 8:25 1,000 people 3.5 ft"),
        ("a chair,couch and black-and-white/grey cat", "a chair couch and black-and-white/grey cat"),
        ("he'll they've I'm she'd we're can't", "he 'll they 've i 'm she 'd we 're ca n't"),
        ("'quoted' dogs' o'clock - -- \"x\"", "quoted dogs o'clock x"),
        ("Cafe\u0301 NAÏVE हिन्दी 日本語 ❤️", "café naïve हिन्दी 日本語"),
        ("... !! & % ❤️", ""),
        ("", ""),
    ],
)
def test_words_of_a_caption(caption, words):
    assert tokenise(caption) == tuple(words.split())


@given(st.text(max_size=40))
def test_words_are_never_empty_and_hold_no_space(caption):
    words = tokenise(caption)
    assert " ".join(words).split() == list(words)
    assert all(any(letter.isalnum() for letter in word) for word in words)


@given(st.lists(st.sampled_from(["Dog", "isn't", "man's", "T-shirt", "3.5", "n't", "'s", "1,000", "(x)"]), max_size=8))
def test_words_stay_words(parts):
    words = tokenise(" ".join(parts))
    assert tokenise(" ".join(words)) == words


# ------------------------------------------------------------------ BLEU, ROUGE-L, CIDEr


def test_figures_equal_those_of_pycocoevalcap():
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    predicted = {**PREDICTED, "kite.jpg": "", "zoo.jpg": "zebra"}
    res = {name: [" ".join(tokenise(caption))] for name, caption in predicted.items()}
    gts = {name: [" ".join(tokenise(caption)) for caption in REFERENCES[name]] for name in predicted}
    expected = dict(
        zip(
            SCORERS,
            [
                *bleu.Bleu(4).compute_score(gts, res, verbose=0)[0],
                Rouge().compute_score(gts, res)[0],
                Cider().compute_score(gts, res)[0],
            ],
            strict=True,
        )
    )
    metrics = caption_scores(predicted, REFERENCES).predicted.metrics
    assert {key: metrics[key].value for key in SCORERS} == pytest.approx(expected, abs=1e-9)
    assert min(expected.values()) > 0.1


def test_figures_equal_the_published_formulas():
    pytest.importorskip("pycocoevalcap")
    captions, references = words_of(PREDICTED, REFERENCES)
    metrics = caption_scores(PREDICTED, REFERENCES).predicted.metrics
    for n in range(1, 5):
        assert metrics[f"bleu_{n}"].value == pytest.approx(slow_bleu(captions, references, n), abs=1e-6)
    rouge = [slow_rouge(words, others) for words, others in zip(captions, references, strict=True)]
    assert metrics["rouge_l"].value == pytest.approx(np.mean(rouge), abs=1e-9)
    assert metrics["cider"].value == pytest.approx(np.mean(slow_cider(captions, references)), abs=1e-9)


def test_the_human_column_scores_the_first_caption_against_the_others():
    pytest.importorskip("pycocoevalcap")
    references = {**REFERENCES, "one.jpg": ["only one caption here"]}
    scores = caption_scores({**PREDICTED, "one.jpg": "one caption"}, references)
    several = {name: texts for name, texts in references.items() if len(texts) > 1}
    first = {name: texts[0] for name, texts in several.items()}
    captions, others = words_of(first, {name: texts[1:] for name, texts in several.items()})
    assert (scores.human.pictures, scores.predicted.pictures) == (7, 8)
    assert scores.human.metrics["bleu_2"].value == pytest.approx(slow_bleu(captions, others, 2), abs=1e-6)
    assert scores.human.metrics["cider"].value == pytest.approx(np.mean(slow_cider(captions, others)), abs=1e-9)


def test_corpus_bleu_from_sums_is_pycocoevalcaps():
    pytest.importorskip("pycocoevalcap")
    for predicted in (PREDICTED, dict.fromkeys(PREDICTED, ""), dict.fromkeys(PREDICTED, "a")):
        scores = ngram_scores(*words_of(predicted, REFERENCES))
        from_sums = corpus_bleu(scores.values_PV[:, :-2].sum(axis=0, keepdims=True))[0]
        assert from_sums == pytest.approx([scores.corpus[f"bleu_{n}"] for n in range(1, 5)], rel=1e-9, abs=1e-12)


def test_intervals_are_from_leaving_out_pictures_one_by_one():
    pytest.importorskip("pycocoevalcap")
    predicted, references_by_name = (
        {f"{number}{name}": value for name, value in each.items() for number in range(3)}
        for each in (PREDICTED, REFERENCES)
    )
    scores = caption_scores(predicted, references_by_name)
    captions, references = words_of(predicted, references_by_name)
    places = range(len(captions))
    bleu, rouge, cider = [], [], slow_cider(captions, references)
    for left_out in places:
        rest = [i for i in places if i != left_out]
        bleu.append(slow_bleu([captions[i] for i in rest], [references[i] for i in rest], 2))
        rouge.append(slow_rouge(captions[left_out], references[left_out]))
    metrics = scores.predicted.metrics
    assert metrics["rouge_l"].interval.low == pytest.approx(mean_interval(np.array(rouge), 0, 1).low, abs=1e-6)
    assert metrics["cider"].interval.high == pytest.approx(mean_interval(np.array(cider), 0, 10).high, abs=1e-6)
    whole = metrics["bleu_2"].value
    pseudo_P = np.array([len(places) * whole - (len(places) - 1) * without for without in bleu])
    expected = mean_interval(pseudo_P - pseudo_P.mean() + whole, -9, 9)
    assert metrics["bleu_2"].interval.low == pytest.approx(max(0, expected.low), abs=1e-6)
    assert metrics["bleu_2"].interval.high == pytest.approx(min(1, expected.high), abs=1e-6)
    flat = [slow_rouge(tokenise(scores.constant_caption), others) for others in references]
    lead = scores.lead["rouge_l"]
    assert lead.value == pytest.approx(np.mean(rouge) - np.mean(flat), abs=1e-9)
    assert lead.interval.low == pytest.approx(mean_interval(np.subtract(rouge, flat), -1, 1).low, abs=1e-6)


def test_no_interval_where_it_would_have_no_width_or_pictures_are_few():
    assert captions_module._with_interval("bleu_1", 0.25, np.full(40, 0.25), 0).interval is None
    assert captions_module._with_interval("bleu_1", 0.25, None, 0).interval is None
    few = caption_scores(PREDICTED, REFERENCES)
    assert all(score is None or score.interval is None for score in few.predicted.metrics.values())
    assert "Intervals need 20 pictures." in few.notes


def test_captions_without_words_score_nothing_and_break_nothing():
    pytest.importorskip("pycocoevalcap")
    scores = caption_scores(dict.fromkeys(PREDICTED, " ... "), REFERENCES)
    assert [scores.predicted.metrics[key].value for key in SCORERS] == pytest.approx([0] * 6, abs=1e-12)
    assert scores.predicted.diversity.empty == 7
    assert (scores.predicted.exact, scores.predicted.diversity.words) == (0, 0)
    assert "no word at all" in caption_table(scores)


def test_one_picture_is_said_to_have_no_cider():
    pytest.importorskip("pycocoevalcap")
    scores = caption_scores({"dog.jpg": REFERENCES["dog.jpg"][0]}, REFERENCES)
    assert scores.predicted.metrics["cider"].value == 0
    assert scores.predicted.metrics["rouge_l"].value == pytest.approx(1)
    assert scores.predicted.metrics["rouge_l"].interval is None
    assert any("With one picture CIDEr is 0" in note for note in scores.notes)
    assert any(
        note.startswith("6 pictures with human captions are not counted: there is no predicted one")
        for note in scores.notes
    )


def test_nothing_is_printed(capfd):
    caption_scores(PREDICTED, REFERENCES)
    assert capfd.readouterr() == ("", "")


def test_without_pycocoevalcap_the_rest_is_there(monkeypatch):
    full = caption_scores(PREDICTED, REFERENCES)
    for name in ("", ".bleu.bleu_scorer", ".rouge.rouge", ".cider.cider_scorer"):
        monkeypatch.setitem(sys.modules, f"pycocoevalcap{name}", None)
    scores = caption_scores(PREDICTED, REFERENCES, java=True)
    assert set(scores.predicted.metrics.values()) == {None}
    assert sum("pip install 'vitrine[caption-metrics]'" in note for note in scores.notes) == 2
    assert scores.predicted.diversity == full.predicted.diversity
    assert (scores.predicted.exact, scores.constant_caption, scores.lead) == (1, full.constant_caption, {})
    text = caption_table(scores)
    assert "BLEU" not in text.partition("Constant caption")[0]
    assert "distinct words" in text


# ------------------------------------------------------------------ the constant caption


def slow_medoid(captions):
    """Mean cosine to all captions, pair by pair."""
    total = np.zeros(len(captions))
    for n in range(1, 5):
        space = sorted({g for caption in captions for g in slow_ngrams(caption, n)})
        document_counts = np.array([sum(g in slow_ngrams(caption, n) for caption in captions) for g in space])
        counts = np.array([[slow_ngrams(caption, n)[g] for g in space] for caption in captions]).reshape(-1, len(space))
        vectors = counts * np.log(len(captions) / document_counts)
        sizes = np.linalg.norm(vectors, axis=1)
        for i, j in np.ndindex(len(captions), len(captions)):
            if sizes[i] and sizes[j]:
                total[i] += vectors[i] @ vectors[j] / (sizes[i] * sizes[j])
    return total


@pytest.mark.parametrize("seed", range(5))
def test_the_constant_caption_is_the_medoid(seed):
    rng, words = random.Random(seed), ["a", "a", "a", "man", "dog", "red", "on", "rides", "wave"]
    captions = [tuple(rng.choices(words, k=rng.randint(1, 7))) for _ in range(25)]
    total = slow_medoid(captions)
    assert total[captions.index(constant_caption(captions))] == pytest.approx(total.max())
    assert total.max() > np.median(total) * 1.05


def test_equally_typical_captions_are_taken_by_the_alphabet():
    assert constant_caption([("b", "c"), ("a", "d"), ()]) == ("a", "d")
    assert constant_caption([("same",)] * 3) == ("same",)


def test_the_constant_caption_can_come_from_training_captions():
    training = ["A zebra stands.", "a cat sits on a mat", "A cat sits on a mat!", "a cat on a mat"]
    scores = caption_scores(PREDICTED, REFERENCES, control_from=training)
    assert (scores.constant_caption, scores.constant_from) == ("a cat sits on a mat", "given captions")
    assert scores.constant.diversity.distinct == 1
    captions, references = words_of(dict.fromkeys(PREDICTED, "a cat sits on a mat"), REFERENCES)
    if scores.constant.metrics["bleu_1"]:
        assert scores.constant.metrics["bleu_1"].value == pytest.approx(slow_bleu(captions, references, 1), abs=1e-6)
    with pytest.raises(DataError, match="None of the captions"):
        caption_scores(PREDICTED, REFERENCES, control_from=["..."])


def test_a_captioner_that_always_says_the_constant_has_no_lead():
    pytest.importorskip("pycocoevalcap")
    constant = caption_scores(PREDICTED, REFERENCES).constant_caption
    scores = caption_scores(dict.fromkeys(PREDICTED, constant), REFERENCES)
    assert scores.predicted == scores.constant
    assert all((score.value, score.interval) == (0, None) for score in scores.lead.values())
    assert "CIDEr is equal to the constant caption's" in caption_table(scores)


# ------------------------------------------------------------------ lengths, words, repeats


def test_diversity_by_hand():
    captions = [tuple(text.split()) for text in ("a a dog", "a a dog", "the cat on the cat", "zorg zorg blip", "")]
    diversity = caption_diversity(captions, human_words={"a", "dog", "the", "cat", "on"})
    assert (diversity.lengths.mean, diversity.lengths.shortest, diversity.lengths.longest) == (
        pytest.approx(14 / 5),
        0,
        5,
    )
    assert (diversity.captions, diversity.empty, diversity.words, diversity.novel_words) == (5, 1, 7, 2)
    assert diversity.novel_examples == ("zorg", "blip")
    assert (diversity.distinct, diversity.duplicates, diversity.commonest, diversity.commonest_count) == (
        4,
        2,
        "a a dog",
        2,
    )
    assert (diversity.repeated_words, diversity.repeated_pairs) == (3, 1)
    content = diversity.to_dict()
    assert content["share_sharing_a_caption"] == 0.4
    assert content["share_of_words_never_said_by_a_human"] == round(2 / 7, 6)
    assert content["share_with_a_word_twice_in_a_row"] == 0.6


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=6).map(tuple), min_size=1, max_size=8))
def test_repeats_by_searching_every_place(captions):
    diversity = caption_diversity(captions, human_words={"a"})
    twice = sum(any(c[i : i + 2] == c[j : j + 2] for j in range(len(c) - 1) for i in range(j)) for c in captions)
    assert diversity.repeated_pairs == twice
    assert diversity.repeated_words == sum(
        "".join(c) != "".join(c[:1]) + "".join(y for x, y in pairwise(c) if x != y) for c in captions
    )
    assert diversity.duplicates == sum(captions.count(c) > 1 for c in captions)
    assert (
        captions.count(tuple(diversity.commonest.split()))
        == diversity.commonest_count
        == max(map(captions.count, captions))
    )


def test_exact_matches_are_counted_after_tokenisation():
    predicted = {**PREDICTED, "dog.jpg": "a DOG runs across the green grass", "kite.jpg": "People fly a kite"}
    scores = caption_scores(predicted, REFERENCES)
    assert (scores.predicted.exact, scores.predicted.exact_interval) == (2, wilson(2, 7))
    assert scores.to_dict()["predicted"]["exact"]["share"] == round(2 / 7, 6)


# ------------------------------------------------------------------ input and result


@pytest.mark.parametrize(
    ("predicted", "references", "expected"),
    [
        ({}, REFERENCES, "There is no predicted caption"),
        ({"x.jpg": "a", "cat.jpg": "b"}, REFERENCES, r"1 of 2 pictures has no human caption.*, for example x\.jpg\."),
        ({"x.jpg": "a"}, {"x.jpg": []}, "1 of 1 picture has no human caption"),
        ({"x.jpg": "a"}, {"x.jpg": ["!"]}, "1 of 1 picture has no human caption with words"),
    ],
)
def test_what_cannot_be_scored(predicted, references, expected):
    with pytest.raises(DataError, match=expected):
        caption_scores(predicted, references)


def test_one_text_is_no_list_of_references():
    with pytest.raises(ValueError, match="sequence of captions"):
        caption_scores({"x.jpg": "a"}, {"x.jpg": "a cat"})


def test_human_captions_without_words_are_left_out_and_counted():
    plain = caption_scores(PREDICTED, REFERENCES)
    scores = caption_scores(PREDICTED, {**REFERENCES, "cat.jpg": ["!", *REFERENCES["cat.jpg"], ""]})
    assert scores.notes == ("2 human captions without a word were left out.", *plain.notes)
    assert scores.predicted == plain.predicted
    assert scores.human_captions == sum(map(len, REFERENCES.values()))


def test_the_same_captions_give_the_same_bytes():
    names = list(PREDICTED)
    random.Random(1).shuffle(names)
    first = json.dumps(caption_scores(PREDICTED, REFERENCES).to_dict())
    in_another_order = {name: PREDICTED[name] for name in names}
    assert json.dumps(caption_scores(in_another_order, {name: REFERENCES[name] for name in names}).to_dict()) == first
    assert set(json.loads(first)["predicted"]["metrics"]) == set(METRICS)
    assert "-0.0," not in first


# ------------------------------------------------------------------ the table


def test_the_table_shows_every_figure_aligned():
    pytest.importorskip("pycocoevalcap")
    scores = caption_scores(PREDICTED, REFERENCES)
    heading, table, sentences = caption_table(scores).split("\n\n")
    human_words = [tokenise(text) for texts in REFERENCES.values() for text in texts]
    distinct = len(set().union(*human_words))
    assert heading == (
        f"7 pictures, {len(human_words)} human captions of 1 to 9 words "
        f"(mean {sum(map(len, human_words)) / len(human_words):.1f}), "
        f"{distinct} distinct words"
    )
    header, rule, *rows = table.splitlines()
    starts = [header.index(name) for name in ("predicted", "constant caption", "human")]
    assert all(row[start - 1] == " " and row[start] != " " for row in rows for start in starts)
    assert [i for i in range(1, len(rule)) if rule[i - 1 : i + 1] == " ─"] == starts
    cider = scores.predicted.metrics["cider"]
    assert f"{cider.value:.3f}" in table
    assert "METEOR" not in table
    assert max(map(len, sentences.splitlines())) <= 100
    assert f'Constant caption: "{scores.constant_caption}"' in sentences


def test_without_a_second_human_caption_there_is_no_human_column():
    scores = caption_scores(PREDICTED, {name: texts[:1] for name, texts in REFERENCES.items()})
    assert scores.human is None
    assert scores.to_dict()["human"] is None
    assert caption_table(scores).splitlines()[2].split("  ")[-1].strip() == "constant caption"
    assert any("No picture has two human captions" in note for note in scores.notes)


def test_worse_than_the_constant_caption_is_said():
    pytest.importorskip("pycocoevalcap")
    references = {f"{i}.jpg": ["a man rides a wave", f"dog number {i} here"] for i in range(40)}
    references |= {f"{i}x.jpg": ["something else entirely happens", "quite another thing"] for i in range(40)}
    scores = caption_scores(dict.fromkeys(references, "zorg blip"), references)
    assert scores.lead["cider"].interval.high < 0
    assert "BELOW the constant caption's" in caption_table(scores)


# ------------------------------------------------------------------ Java


def fake_java(tmp_path, monkeypatch, script):
    pytest.importorskip("pycocoevalcap")
    path = tmp_path / "bin" / "java"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\n[ "$1" = -version ] && exit 0\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")


def is_running(process):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def test_java_that_hangs_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, f'echo $$ >> "{tmp_path}/started"\nexec sleep 600')
    monkeypatch.setattr(caption_java, "_START_SECONDS", 0.7)  # called 1 s
    monkeypatch.setattr(caption_java, "_SECONDS_PER_CAPTION", 0.0)
    began = time.monotonic()
    scores = caption_scores(PREDICTED, REFERENCES, java=True)
    assert time.monotonic() - began < 30
    assert "METEOR was not computed: it took longer than 1 s." in scores.notes
    assert "The words were not compared with PTBTokenizer's: it took longer than 1 s." in scores.notes
    assert (scores.predicted.metrics["meteor"], scores.predicted.metrics["spice"]) == (None, None)
    process_ids = [int(line) for line in (tmp_path / "started").read_text().split()]
    assert process_ids
    time.sleep(0.2)
    assert not any(map(is_running, process_ids))


def test_java_that_fails_is_a_sentence(tmp_path, monkeypatch):
    fake_java(tmp_path, monkeypatch, 'echo "Exception in thread main: no heap" >&2\nexit 1')
    scores = caption_scores(PREDICTED, REFERENCES, java=True)
    assert sum(note.startswith("METEOR was not computed: its process failed (") for note in scores.notes) == 1
    assert any(note.startswith("The words were not compared with PTBTokenizer's: ") for note in scores.notes)
    assert scores.predicted.metrics["meteor"] is None


def test_what_scorers_print_is_no_part_of_their_answer(tmp_path, monkeypatch, capfd):
    fake_java(tmp_path, monkeypatch, "exit 1")
    folder = tmp_path / "stand-in" / "pycocoevalcap" / "meteor"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder.parent / "__init__.py").touch()
    (folder / "meteor.py").write_text(
        "import os\n"
        "class Meteor:\n"
        "    def compute_score(self, gts, res):\n"
        "        print('noise')\n"
        "        os.system('echo more noise')\n"
        "        return len(res) / 10 + len(gts['0']) / 100, []\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand-in"))
    scores = caption_scores(PREDICTED, REFERENCES, java=True)
    meteor = [column.metrics["meteor"].value for column in (scores.predicted, scores.constant, scores.human)]
    others = len(REFERENCES[min(REFERENCES)])
    assert meteor == pytest.approx([0.7 + others / 100, 0.7 + others / 100, 0.7 + (others - 1) / 100])
    assert capfd.readouterr() == ("", "")


def test_no_java_and_a_broken_java_are_told_apart(tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert caption_scores(PREDICTED, REFERENCES, java=True).notes[-1] == (
        "METEOR and SPICE were not computed: it takes Java, and no java is on the PATH."
    )
    monkeypatch.setattr(shutil, "which", lambda name: str(tmp_path / "java"))
    assert caption_scores(PREDICTED, REFERENCES, java=True).notes[-1].endswith(f"{tmp_path / 'java'} does not run.")


def test_spice_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(caption_java, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[tmp_path]))
    monkeypatch.setattr(caption_java, "_missing_dependency", lambda: None)
    answers = {"METEOR": [math.nan], "PTBTokenizer": ["a "]}
    monkeypatch.setattr(caption_java, "_run_job", lambda label, job, captions: answers[label])
    scores = caption_java.java_scores([([("a",)], [[("a",)]])], ["A."])
    assert scores.values == {"meteor": None, "spice": None}
    assert scores.notes[0] == "METEOR was not computed: its answer is no number."
    assert "SPICE was not computed: it needs the models of Stanford CoreNLP 3.6.0" in scores.notes[1]
    assert scores.notes[2] == "PTBTokenizer makes the same words of all 1 caption."
    for name in ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar"):
        (tmp_path / "spice" / "lib").mkdir(parents=True, exist_ok=True)
        (tmp_path / "spice" / "lib" / name).touch()
    answers |= {"SPICE": [0.25]}
    assert caption_java.java_scores([([("a",)], [[("a",)]])], ["A."]).values["spice"] == (0.25,)


def test_spice_is_handed_each_set_with_its_references(monkeypatch):
    calls = []

    class Spice:
        def compute_score(self, references, captions):
            calls.append((references, captions))
            return np.float64(0.25), []

    monkeypatch.setitem(sys.modules, "pycocoevalcap.spice.spice", SimpleNamespace(Spice=Spice))
    sets = [[{"0": ["a cat"]}, {"0": ["the cat", "a cat"]}], [{"0": ["b"]}, {"0": ["c"]}]]
    assert java_process.JOBS["SPICE"](sets) == [0.25, 0.25]
    assert calls == [(references, captions) for captions, references in sets]


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java on this machine")
def test_meteor_is_pycocoevalcaps_and_the_words_are_ptbs():
    pytest.importorskip("pycocoevalcap.meteor.meteor")
    predicted = {**PREDICTED, "kite.jpg": ""}
    references = {**REFERENCES, "zoo.jpg": [*REFERENCES["zoo.jpg"], "zebra & giraffe"]}
    scores = caption_scores(predicted, references, java=True)
    if any(note.startswith("METEOR was not computed") for note in scores.notes):
        pytest.skip(f"Java is here but METEOR does not run: {scores.notes}")
    # What pycocoevalcap's Meteor().compute_score gives for these words; a second one here would take as long again.
    expected = [0.4396149866865382, 0.13873120046683798, 0.29093625537577816]
    assert scores.constant_caption == "the dog is running on grass"
    meteor = [column.metrics["meteor"].value for column in (scores.predicted, scores.constant, scores.human)]
    assert meteor == pytest.approx(expected, abs=1e-6)
    assert scores.notes[-1] == (
        'PTBTokenizer makes other words of 1 of 25 captions, for example "zebra & giraffe" where these figures have '
        '"zebra giraffe".'
    )
    assert "METEOR" in caption_table(scores)
