"""What does a caption cost, with a map for every word, beside the published captioner?

    python benchmarks/caption.py                      20 words, 299 px, on the CPU, beside a stand-in of its code
    python benchmarks/caption.py --catr DIR           beside the code itself: a checkout of github.com/saahiluppal/catr
    python benchmarks/caption.py --rounds 1 --batch 4 a quick look

What is measured, and how, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from side_by_side.captioners import Published
from side_by_side.timing import Spread, alternate, ratios
from torch import Tensor
from train import _about

from vitrine.caption.beams import beam_search
from vitrine.caption.decoded import DecodedCaption, captions_of
from vitrine.caption.decoding import greedy
from vitrine.models.captioner import CaptionModel, catr_config, prepare_for_prediction, published_weights
from vitrine.models.captioner.prediction import round_images

LARGEST_DIFFERENCE = 1e-3  # between float32 logits, whose standard deviation is about 1
LARGEST_ROUNDING = 0.25  # of bf16 logits, in standard deviations of the logits
PUBLISHED = "published"
NEVER = -100.0  # the end's bias: every caption has all its words


@dataclass(frozen=True)
class Row:
    """One kind of work. ``times_published`` is taken round by round."""

    name: str
    captions_per_second: Spread
    times_published: Spread


@dataclass(frozen=True)
class Target:
    """A ratio, round by round, and what it should be."""

    name: str
    ratio: Spread
    wanted: str
    reached: bool


class Ways:
    """The published tool and ours, in float32 and with the image side in bf16, on the same weights and pictures."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.words, self.beams, self.batch = options.words, options.beams, options.batch
        self.published_words = options.published_words
        torch.manual_seed(0)
        model = CaptionModel(catr_config("features")).eval()
        _uneven(model)
        self.published = Published(published_weights(model.state_dict()), options.catr)
        float32 = prepare_for_prediction(model)
        self.models = {"fp32": float32, "bf16": round_images(copy.deepcopy(float32))}
        self.pictures = [_waves(options.image, seed) for seed in range(options.batch)]

    def one(self, precision: str) -> tuple[DecodedCaption, ...]:
        """One picture's caption with its maps, greedily."""
        return self._greedy(self.models[precision], self.pictures[:1])

    def many(self, precision: str) -> tuple[DecodedCaption, ...]:
        """All pictures' in one batch."""
        return self._greedy(self.models[precision], self.pictures)

    def searched(self, precision: str) -> tuple[DecodedCaption, ...]:
        """One picture's by beam search."""
        model = self.models[precision]
        with torch.inference_mode():
            memory = model.encode(self.pictures[:1])
            return captions_of(beam_search(model, memory, self.beams, max_pieces=self.words))

    def seen(self, precision: str) -> int:
        """One picture encoded, and no word."""
        with torch.inference_mode():
            self.models[precision].encode(self.pictures[:1])
        return 1

    def as_published(self) -> float:
        """The published tool's way, for its first words: that part of a caption which they are."""
        self.published.words(self.pictures[0][None], self.published_words)
        return self.published_words / self.words

    def _greedy(self, model: CaptionModel, pictures: Sequence[Tensor]) -> tuple[DecodedCaption, ...]:
        with torch.inference_mode():
            return captions_of(greedy(model, model.encode(pictures), max_pieces=self.words))

    def all(self) -> dict[str, Callable[[], float]]:
        """By name."""
        ways: dict[str, Callable[[], float]] = {PUBLISHED: self.as_published}
        for precision in self.models:
            ways |= {
                f"one picture, {precision}": lambda p=precision: len(self.one(p)),  # type: ignore[misc]
                f"{self.beams} beams, {precision}": lambda p=precision: len(self.searched(p)),  # type: ignore[misc]
                f"batch of {self.batch}, {precision}": lambda p=precision: len(self.many(p)),  # type: ignore[misc]
                f"image side alone, {precision}": lambda p=precision: self.seen(p),  # type: ignore[misc]
            }
        return ways


def main() -> None:
    """Parse, compare, measure, print."""
    options = _parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    ways = Ways(options)
    compared = _same(ways)
    speeds = alternate(ways.all(), rounds=options.rounds)  # type: ignore[arg-type]
    rows = [Row(name, Spread.of(own), ratios(own, speeds[PUBLISHED])) for name, own in speeds.items()]
    _print(options, ways, compared, rows, _targets(ways, speeds))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--catr", type=Path, metavar="DIR", help="a checkout of the published code (default: a stand-in)"
    )
    parser.add_argument("--image", type=int, default=299, help="side in pixels (default 299)")
    parser.add_argument("--words", type=int, default=20, help="word pieces of a caption (default 20)")
    parser.add_argument("--beams", type=int, default=5, help="of beam search (default 5)")
    parser.add_argument("--batch", type=int, default=16, help="pictures of a batch (default 16)")
    parser.add_argument("--published-words", type=int, default=2, help="of the published tool, scaled (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that does not (default 5)")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its own choice")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


@torch.no_grad()
def _uneven(model: CaptionModel) -> None:
    """Weights with noise everywhere, so that a misplaced one shows, and words that depend on the picture."""
    for name, weight in model.state_dict().items():
        noise = torch.randn(weight.shape)
        if name.endswith("running_var"):
            weight.copy_(1 + 0.1 * noise.abs())
        elif weight.ndim <= 1:
            damped = 0.3 if "bn3" in name or "downsample" in name else 1.0
            weight.copy_(damped * (1 + 0.1 * noise) if name.endswith("weight") else 0.1 * noise)
        elif "embeddings" in name:
            weight.copy_(noise)
        else:
            gain = 2.0 if "in_proj_weight" in name else 1.4
            weight.copy_(gain / math.sqrt(weight[0].numel()) * noise)
    model.head.layers[-1].bias[model.end] = NEVER  # type: ignore[index,union-attr]


def _waves(side: int, seed: int) -> Tensor:
    """A picture in [-1, 1]: a sum of plane waves, (3, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.linspace(0, 1, side)[:, None], torch.linspace(0, 1, side)[None]
    picture = torch.zeros(3, side, side)
    for _ in range(12):
        fy, fx = (40 * torch.rand(2, generator=generator) - 20).tolist()
        colour, phase = torch.randn(3, 1, 1, generator=generator), 6.3 * torch.rand(3, 1, 1, generator=generator)
        picture += colour * (2 * math.pi * (fy * y + fx * x) + phase).sin()
    return picture / picture.abs().max()


def _same(ways: Ways) -> dict[str, float]:
    """Stop unless every way gives what it should; the largest difference of each.

    Float32 gives the published logits after each word, beams the log-probability that teacher forcing gives to their
    caption, a batch the words of each picture alone, and bf16 the float32 logits up to rounding.
    """
    (alone,) = ways.one("fp32")
    ids = list(alone.ids)
    expected_TV = ways.published.logits(ways.pictures[0][None], ids[:-1])
    ours_TV = _forced(ways.models["fp32"], ways.pictures[:1], [ids])[0]
    spread = float(ours_TV[:, 1000:].std())
    _stop(expected_TV.argmax(-1).tolist() != ids, "The published tool says other words.")
    rounded_TV = _forced(ways.models["bf16"], ways.pictures[:1], [ids])[0]
    compared = {
        "float32 logits from the published ones": float((ours_TV - expected_TV).abs().max()),
        "bf16 logits from float32": float((rounded_TV - ours_TV).abs().max()),
        "standard deviation of the logits": spread,
        "words of bf16 that are those of float32": sum(
            a == b for a, b in zip(ids, ways.one("bf16")[0].ids, strict=True)
        ),
        "words": len(ids),
    }
    _stop(compared["float32 logits from the published ones"] > LARGEST_DIFFERENCE, "The logits differ.", compared)
    _stop(compared["bf16 logits from float32"] > LARGEST_ROUNDING * spread, "bf16 is far from float32.", compared)
    for precision in ways.models:
        (searched,) = ways.searched(precision)
        lines_TV = _forced(ways.models[precision], ways.pictures[:1], [searched.ids])[0].log_softmax(-1)
        again = float(lines_TV.gather(1, torch.tensor(searched.ids)[:, None]).sum())
        name = f"log-probability of {ways.beams} beams from teacher forcing, {precision}"
        compared[name] = abs(again - searched.log_probability)
        _stop(compared[name] > LARGEST_DIFFERENCE, "Beam search is wrong about its caption.", compared)
    batch = ways.many("fp32")
    singly = [ways._greedy(ways.models["fp32"], [picture])[0] for picture in ways.pictures]
    _stop([c.ids for c in batch] != [c.ids for c in singly], "A batch says other words than each picture alone.")
    far = max(float(abs(a.maps_TLHK - b.maps_TLHK).max()) for a, b in zip(batch, singly, strict=True))
    compared["maps of a batch from those of each picture alone, fp32"] = far
    _stop(far > LARGEST_DIFFERENCE, "A batch has other maps than each picture alone.", compared)
    many_BTV = [
        _forced(ways.models[precision], ways.pictures, [c.ids for c in singly]) for precision in ("fp32", "bf16")
    ]
    compared["bf16 logits of a batch from float32"] = float((many_BTV[1] - many_BTV[0]).abs().max())
    far = compared["bf16 logits of a batch from float32"]
    _stop(far > LARGEST_ROUNDING * spread, "bf16 is far from float32 in a batch.", compared)
    return compared


def _forced(model: CaptionModel, pictures: Sequence[Tensor], captions: Sequence[Sequence[int]]) -> Tensor:
    """Logits (B, T, V) that predict each word of captions of one length, without any cache."""
    ids_BT = torch.tensor([[model.start, *ids[:-1]] for ids in captions])
    with torch.inference_mode():
        return model(model.encode(pictures), ids_BT)[0]


def _stop(wrong: bool, why: str, compared: dict[str, float] | None = None) -> None:
    if wrong:
        told = "".join(f"\n  {name}: {value:.3g}" for name, value in (compared or {}).items())
        sys.exit(f"{why} Nothing was timed.{told}")


def _targets(ways: Ways, speeds: dict[str, list[float]]) -> list[Target]:
    found = []
    for precision, least in (("fp32", 15.0), ("bf16", 30.0)):
        one = speeds[f"one picture, {precision}"]
        times = ratios(one, speeds[PUBLISHED])
        slower = ratios(one, speeds[f"{ways.beams} beams, {precision}"])
        sooner = ratios(speeds[f"batch of {ways.batch}, {precision}"], one)
        found += [
            Target(f"one picture, {precision}, times published", times, f"{least:g} or more", times.median >= least),
            Target(f"{ways.beams} beams, {precision}, time over greedy", slower, "under 1.5", slower.median < 1.5),
            Target(f"batch of {ways.batch}, {precision}, times one by one", sooner, "2 or more", sooner.median >= 2),
        ]
    return found


def _print(
    options: argparse.Namespace, ways: Ways, compared: dict[str, float], rows: Sequence[Row], targets: Sequence[Target]
) -> None:
    beside = f"{ways.published.name}, {ways.published_words} words timed and scaled to {ways.words}"
    if options.json:
        content = {"environment": _about(), "task": vars(options) | {"catr": str(options.catr)}, "published": beside}
        content |= {"compared": compared, "rows": [asdict(row) for row in rows]}
        print(json.dumps(content | {"targets": [asdict(target) for target in targets]}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in _about().items()))
    size = f"{options.image} x {options.image} px"
    print(f"{ways.words} words, {size}, maps of all words included; median (lowest to highest)")
    print(f"published: {beside}; bf16: the image side, words in fp32")
    for name, value in compared.items():
        print(f"  {name}: {value:.3g}")
    print(f"\n{'':28} {'captions/s':>26} {'times published':>26}")
    for row in rows:
        print(f"{row.name:28} {_finer(row.captions_per_second):>26} {row.times_published!s:>26}")
    print()
    for target in targets:
        reached = "reached" if target.reached else "missed"
        print(f"{target.name}: {target.ratio}; target {target.wanted}, {reached}")


def _finer(spread: Spread) -> str:
    return f"{spread.median:.3f} ({spread.low:.3f} to {spread.high:.3f})"


if __name__ == "__main__":
    main()
