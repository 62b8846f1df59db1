"""Which layers a map is made of: what the command line takes, and means of several layers."""

from __future__ import annotations

import pytest
import torch

from vitrine.caption.decoding import MapChoice, describe_layers, parse_layers
from vitrine.caption.run import CaptionSettings
from vitrine.errors import ModelError, UsageError


@pytest.mark.parametrize(
    ("text", "layers", "words"),
    [
        ("-1", -1, "last decoder layer"),
        ("14", 14, "decoder layer 14"),
        ("8-20", (8, 20), "mean of decoder layers 8 to 20"),
        ("mean", "mean", "mean of all decoder layers"),
    ],
)
def test_layers_are_read_and_written_back(text: str, layers: object, words: str) -> None:
    assert parse_layers(text) == layers
    assert describe_layers(parse_layers(text)) == words
    flags = CaptionSettings(layer=parse_layers(text)).flags()
    assert flags == ([] if text == "-1" else ["--layer", text])


@pytest.mark.parametrize("text", ["", "last", "1-", "-2-4", "1..4", "٣", "1,2", "99999"])
def test_other_layers_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a number, as 14 or -1, a range, as 8-20, or mean"):
        parse_layers(text)


def test_a_range_is_the_mean_of_its_layers_ends_included() -> None:
    cross_LBHK = torch.rand(5, 2, 3, 4)
    expected_BLHK = cross_LBHK[1:4].mean(0).mean(1)[:, None, None]
    torch.testing.assert_close(MapChoice((1, 3), "mean").of(cross_LBHK), expected_BLHK)


@pytest.mark.parametrize("layers", [(3, 5), (3, 2), (-2, 1)])
def test_a_range_that_is_not_there_is_refused(layers: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match="expected two of 0 to 4"):
        MapChoice(layers).of(torch.rand(5, 1, 3, 4))
