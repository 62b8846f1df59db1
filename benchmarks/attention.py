"""What does an attention map cost, beside PyTorch-Pretrained-ViT and transformers?

    python benchmarks/attention.py                                       ViT-B/16, 384 px, batch 8, on the CPU
    python benchmarks/attention.py --device cuda                         on a GPU
    python benchmarks/attention.py --model vit_tiny_patch16_224 --image 224 --rounds 1

What is measured, and how, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness.arithmetic import finish
from harness.peak_memory import own_peak_mib
from harness.rounds import Spread, alternate, ratios
from side_by_side.machine import DEVICES, about
from side_by_side.peers import HuggingFace, Peer, PretrainedViT, Timm
from side_by_side.task import Task

from vitrine.attribution.attention import attention_map
from vitrine.attribution.rollout import rollout
from vitrine.models.load import load_model
from vitrine.models.precision import autocast

BASELINE = "transformers, output_attentions"
# As an expert would take them: weights in bf16, and of timm's model only the last block without fused attention.
BEST = (f"{BASELINE}, bf16", "timm, hook on the last block, bf16")
LARGEST_DIFFERENCE = 1e-6  # between the maps in float32


@dataclass(frozen=True)
class Row:
    """One way to a map. ``times`` is pictures/s over those of what it is compared with, round by round."""

    name: str
    pictures_per_second: Spread
    times_baseline: Spread
    times_plain: Spread
    peak_mib: int


class Ways:
    """Every way to the class token's map of the last layer, and to a rollout, with the same weights and pictures."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.device = torch.device(options.device)
        self.module = load_model(
            options.model, pretrained=False, num_classes=37, image_size=options.image
        ).module.eval()
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        self.module.to(self.device)
        block = self.module.blocks[0]  # type: ignore[index]
        self.task = Task(
            model=options.model,
            image=options.image,
            patch=self.module.patch_embed.patch_size[0],  # type: ignore[union-attr,index,arg-type]
            width=self.module.embed_dim,  # type: ignore[arg-type]
            depth=len(self.module.blocks),  # type: ignore[arg-type]
            heads=block.attn.num_heads,  # type: ignore[union-attr]
            mlp=block.mlp.fc1.out_features,  # type: ignore[union-attr]
            classes=37,
            batch=options.batch,
            batches=1,
            rounds=1,
            folder="",
            device=options.device,
        )
        self.pixels_BCHW = torch.randn(options.batch, 3, options.image, options.image).to(self.device)
        self.grid = options.image // self.task.patch
        self._peers: dict[tuple[str, torch.dtype], torch.nn.Module] = {}

    def peer(self, kind: type[Peer], dtype: torch.dtype = torch.float32) -> torch.nn.Module:
        """Another tool's module, built when it is first wanted."""
        if (kind.name, dtype) not in self._peers:
            tool = kind(self.task)
            tool.load(self.module.state_dict())
            module: Any = tool.module.eval()
            if kind is HuggingFace:
                module.set_attn_implementation("eager")  # the only one that gives attentions
            if kind is Timm:
                module.blocks[-1].attn.fused_attn = False
            self._peers[kind.name, dtype] = module.to(dtype)
        return self._peers[kind.name, dtype]

    def plain(self, precision: str) -> torch.Tensor:
        """A forward pass without map, as ``vitrine predict`` runs it."""
        with torch.inference_mode(), autocast(self.device, precision, logits_of=self.module):
            logits_BC: torch.Tensor = self.module(self.pixels_BCHW)
        return logits_BC

    def ours(self, precision: str) -> torch.Tensor:
        """The class token's map."""
        with autocast(self.device, precision):
            return attention_map(self.module, self.pixels_BCHW).scores_BRC

    def our_rollout(self, precision: str) -> torch.Tensor:
        """Rollout."""
        with autocast(self.device, precision):
            return rollout(self.module, self.pixels_BCHW).scores_BRC

    def transformers(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The map from ``output_attentions``."""
        return self._on_grid(self._attentions(dtype)[-1].mean(1)[:, 0])

    def timm(self, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """The map that a hook takes from the last block of timm's own model, the others' attention fused."""
        module: Any = self.peer(Timm, dtype)
        kept: list[torch.Tensor] = []
        hook = module.blocks[-1].attn.attn_drop.register_forward_hook(lambda _, inputs, __: kept.append(inputs[0]))
        try:
            with torch.inference_mode():
                module(self.pixels_BCHW.to(dtype))
        finally:
            hook.remove()
        return self._on_grid(kept[0].mean(1)[:, 0])

    def transformers_rollout(self) -> torch.Tensor:
        """The usual rollout over ``output_attentions``."""
        attentions = self._attentions()
        identity = torch.eye(attentions[0].shape[-1], device=self.device)
        rolled = identity
        for attention in attentions:
            rolled = (0.5 * attention.mean(1) + 0.5 * identity) @ rolled
        return self._on_grid(rolled[:, 0])

    def _attentions(self, dtype: torch.dtype = torch.float32) -> Sequence[torch.Tensor]:
        with torch.inference_mode():
            found: Sequence[torch.Tensor] = self.peer(HuggingFace, dtype)(
                pixel_values=self.pixels_BCHW.to(dtype), output_attentions=True
            ).attentions
        return found

    def pretrained_vit(self) -> torch.Tensor:
        """The scores that PyTorch-Pretrained-ViT leaves behind."""
        module = self.peer(PretrainedViT)
        with torch.inference_mode():
            module(self.pixels_BCHW)
            return self._on_grid(module.transformer.blocks[-1].attn.scores.mean(1)[:, 0])  # type: ignore[union-attr,index]

    def _on_grid(self, rows_BN: torch.Tensor) -> torch.Tensor:
        return rows_BN[:, 1:].reshape(-1, self.grid, self.grid)

    def all(self) -> dict[str, Callable[[], torch.Tensor]]:
        """By name."""
        return {
            "vitrine, no map, fp32": lambda: self.plain("fp32"),
            "vitrine, map, fp32": lambda: self.ours("fp32"),
            "vitrine, no map, bf16": lambda: self.plain("bf16"),
            "vitrine, map, bf16": lambda: self.ours("bf16"),
            "vitrine, rollout, fp32": lambda: self.our_rollout("fp32"),
            "vitrine, rollout, bf16": lambda: self.our_rollout("bf16"),
            BASELINE: self.transformers,
            "transformers, rollout": self.transformers_rollout,
            "PyTorch-Pretrained-ViT, scores": self.pretrained_vit,
            BEST[0]: lambda: self.transformers(torch.bfloat16),
            BEST[1]: self.timm,
        }

    def counted(self) -> dict[str, Callable[[], int]]:
        """The ways as pieces of work, finished when they return: each its number of pictures."""
        return {name: partial(self._counted, way) for name, way in self.all().items()}

    def _counted(self, way: Callable[[], torch.Tensor]) -> int:
        pictures = len(way())
        finish(self.device)
        return pictures


def main() -> None:
    """Parse, compare, measure, print."""
    options = parser_of().parse_args()
    ways = Ways(options)
    if options.peak:
        ways.all()[options.peak]()
        print(round(own_peak_mib()))
        return
    differences = same_maps(ways)
    speeds = alternate(ways.counted(), rounds=options.rounds)
    rows = []
    for name, own in speeds.items():
        plain = speeds["vitrine, no map, bf16" if "bf16" in name else "vitrine, no map, fp32"]
        peak = 0 if options.no_memory or options.device != "cpu" else peak_of(name, options)
        rows.append(Row(name, Spread.of(own), ratios(own, speeds[BASELINE]), ratios(own, plain), peak))
    _print(options, differences, rows)


def parser_of() -> argparse.ArgumentParser:
    """The script's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_384", help="timm name of a plain vision transformer")
    parser.add_argument("--image", type=int, default=384, help="side in pixels (default 384)")
    parser.add_argument("--batch", type=int, default=8, help="pictures of a batch (default 8)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that does not (default 5)")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="of every tool (default cpu)")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peaks: a process each")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser


def same_maps(ways: Ways) -> dict[str, float]:
    """Stop unless all tools give the same maps in float32: the largest difference of each from ours."""
    mine, rolled = ways.ours("fp32").to(ways.device), ways.our_rollout("fp32").to(ways.device)
    differences = {
        BASELINE: float((ways.transformers() - mine).abs().max()),
        "PyTorch-Pretrained-ViT, scores": float((ways.pretrained_vit() - mine).abs().max()),
        "transformers, rollout": float((ways.transformers_rollout() - rolled).abs().max()),
        "timm, hook on the last block": float((ways.timm(torch.float32) - mine).abs().max()),
    }
    for name, difference in differences.items():
        if not difference <= LARGEST_DIFFERENCE:
            sys.exit(f"{name} gives another map: it differs by {difference:.3g}. Nothing was timed.")
    rounded = {
        "vitrine's map in bf16": float((ways.ours("bf16").to(ways.device) - mine).abs().max()),
        "vitrine's rollout in bf16": float((ways.our_rollout("bf16").to(ways.device) - rolled).abs().max()),
    } | {name: float((ways.all()[name]().float() - mine).abs().max()) for name in BEST}
    largest = {"largest value of the map": float(mine.max()), "of the rollout": float(rolled.max())}
    return differences | rounded | largest


def peak_of(name: str, options: argparse.Namespace) -> int:
    """Largest resident set of one way in a new process, in MiB."""
    command = [sys.executable, __file__, "--peak", name, "--model", options.model]
    command += ["--image", str(options.image), "--batch", str(options.batch)]
    done = subprocess.run(command, cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1])


def _print(options: argparse.Namespace, differences: dict[str, float], rows: Sequence[Row]) -> None:
    if options.json:
        content = {"environment": about(), "task": vars(options), "largest_differences": differences}
        print(json.dumps(content | {"rows": [asdict(row) for row in rows]}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in about().items()))
    size = f"{options.model}, {options.image} px, batch {options.batch}"
    print(f"{size}, on {options.device}; median (lowest to highest)")
    print("largest difference of maps: " + ", ".join(f"{name} {value:.2g}" for name, value in differences.items()))
    print(f"\n{'':32} {'pictures/s':>24} {'times ' + BASELINE:>38} {'times no map':>24} {'peak MiB':>9}")
    for row in rows:
        peak = f"{row.peak_mib:,}" if row.peak_mib else "-"
        beside = f"{row.times_baseline!s:>38} {row.times_plain!s:>24}"
        print(f"{row.name:32} {row.pictures_per_second!s:>24} {beside} {peak:>9}")


if __name__ == "__main__":
    main()
