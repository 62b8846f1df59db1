"""What does a caption cost, with a map for every word, beside the published captioner?

    python benchmarks/caption.py                      20 words, 299 px, on the CPU, beside a stand-in of its code
    python benchmarks/caption.py --catr DIR           beside the code itself: a checkout of github.com/saahiluppal/catr
    python benchmarks/caption.py --device cuda        on a GPU
    python benchmarks/caption.py --rounds 1 --batch 4 a quick look

What is measured, and how, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from harness.rounds import Spread, alternate, ratios
from side_by_side.caption_ways import PUBLISHED, Ways
from side_by_side.machine import DEVICES, about
from torch import Tensor

from vitrine.models.captioner import CaptionModel

LARGEST_DIFFERENCE = 1e-3  # between float32 logits, whose standard deviation is about 1
LARGEST_ROUNDING = 0.25  # of bf16 logits, in standard deviations of the logits


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


def main() -> None:
    """Parse, compare, measure, print."""
    options = _parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    ways = Ways(options)
    compared = same(ways)
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
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="of both (default cpu)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def same(ways: Ways) -> dict[str, float]:
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
    singly = [ways.greedy("fp32", [picture])[0] for picture in ways.pictures]
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
    ids_BT = torch.tensor([[model.start, *ids[:-1]] for ids in captions], device=pictures[0].device)
    with torch.inference_mode():
        return model(model.encode(pictures), ids_BT)[0].cpu()


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
    words = ratios(speeds[f"words alone, batch of {ways.batch}"], speeds["words alone, one picture"])
    found.append(Target(f"batch of {ways.batch}, words alone, times one by one", words, "none", True))
    return found


def _print(
    options: argparse.Namespace, ways: Ways, compared: dict[str, float], rows: Sequence[Row], targets: Sequence[Target]
) -> None:
    beside = f"{ways.published.name}, {ways.published_words} words timed and scaled to {ways.words}"
    if options.json:
        content = {"environment": about(), "task": vars(options) | {"catr": str(options.catr)}, "published": beside}
        content |= {"compared": compared, "rows": [asdict(row) for row in rows]}
        print(json.dumps(content | {"targets": [asdict(target) for target in targets]}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in about().items()))
    size = f"{options.image} x {options.image} px, on {options.device}"
    print(f"{ways.words} words, {size}, maps of all words included; median (lowest to highest)")
    print(f"published: {beside}; bf16: the image side, words in fp32")
    for name, value in compared.items():
        print(f"  {name}: {value:.3g}")
    print(f"\n{'':28} {'captions/s':>26} {'times published':>26}")
    for row in rows:
        print(f"{row.name:28} {_finer(row.captions_per_second):>26} {row.times_published!s:>26}")
    print()
    for target in targets:
        reached = f", {'reached' if target.reached else 'missed'}" if target.wanted != "none" else ""
        print(f"{target.name}: {target.ratio}; target {target.wanted}{reached}")


def _finer(spread: Spread) -> str:
    return f"{spread.median:.3f} ({spread.low:.3f} to {spread.high:.3f})"


if __name__ == "__main__":
    main()
