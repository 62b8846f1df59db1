"""Names of classes: always different, and each class found by its name or its number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrine.classify.labels import classes_called, find_class, shared_names_note, unique_labels
from vitrine.errors import ModelError

BIRDS = ("owl", "crane", "ox", "crane", "maillot", "maillot")


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("owl", "ox"), ("owl", "ox")),
        ((), ()),
        (BIRDS, ("owl", "crane [1]", "ox", "crane [3]", "maillot [4]", "maillot [5]")),
        (("", "", "a"), (" [0]", " [1]", "a")),
        (("crane", "crane", "crane [0]"), ("crane [0] [0]", "crane [1]", "crane [0]")),
        (("a [1]", "a", "a", "a [1]"), ("a [1] [0]", "a [1]", "a [2]", "a [1] [3]")),
    ],
)
def test_names_that_several_classes_have_are_followed_by_the_number(names: tuple[str, ...], labels: object) -> None:
    assert unique_labels(names) == labels


@given(st.lists(st.sampled_from(["a", "b", "a [0]", "a [1]", "a [1] [1]", "1", ""]), max_size=9))
def test_labels_are_different_and_stay_so(names: list[str]) -> None:
    labels = unique_labels(names)
    assert len(set(labels)) == len(labels) == len(names)
    assert unique_labels(labels) == labels
    for number, (label, name) in enumerate(zip(labels, names, strict=True)):
        assert label == name if names.count(name) == 1 else label.startswith(f"{name} [{number}]")
        assert find_class(labels, label) == number == find_class(labels, number)


def test_a_class_by_its_number_and_names_that_are_numbers() -> None:
    labels = unique_labels(BIRDS)
    assert [find_class(labels, text) for text in ("owl", "crane [3]", "5", "0")] == [0, 3, 5, 0]
    assert find_class(("10", "0", "2"), "0") == 1, "a name comes first"
    assert find_class(("10", "0", "2"), "2") == 2 and find_class(("10", "0", "2"), 0) == 0


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("crane", r"2 classes called 'crane'\. Give one of: crane \[1\], crane \[3\]"),
        ("6", "no class '6'"),
        ("-1", "no class '-1'"),
        ("²", "no class '²'"),
        ("", "no class ''"),
        (6, "no class 6: the model has 6, 0 to 5"),
        (-1, "no class -1"),
    ],
)
def test_what_is_no_class_is_refused(wanted: str | int, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        find_class(unique_labels(BIRDS), wanted)
    assert len(str(error.value).splitlines()) <= 2


def test_names_that_are_shared_are_said() -> None:
    labels = unique_labels(BIRDS)
    (note,) = shared_names_note(labels)
    assert "crane [1], crane [3]; maillot [4], maillot [5]" in note
    assert shared_names_note(("a", "b [1]", "c [7]")) == ()
    assert classes_called(labels, "crane") == ("crane [1]", "crane [3]") and classes_called(labels, "owl") == ()
