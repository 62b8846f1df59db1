"""How fast does vitrine train and predict, beside PyTorch-Pretrained-ViT and transformers? And where does bf16 pay?

    python benchmarks/train.py                                          ViT-B/16, 224 px, batch 8, on the CPU
    python benchmarks/train.py --device cuda --batch 128                  on a GPU, vitrine compiled
    python benchmarks/train.py --model vit_tiny_patch16_224 --rounds 1   a quick look
    python benchmarks/train.py --widths                                  bf16 against fp32, by token width

What is measured, and how, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from harness.rounds import Spread, alternate, ratios
from side_by_side.best_peers import AtBest
from side_by_side.machine import DEVICES, about
from side_by_side.memory import TOOLS, make_tool, peak_mib
from side_by_side.ours import Ours
from side_by_side.task import Task, Tool, write_pictures
from side_by_side.widths import measure_widths

from vitrine.models.load import load_model

BASELINE = "PyTorch-Pretrained-ViT"
TARGETS = {"train": 3.0, "infer": 4.5}  # times the baseline's pictures/s
LARGEST_DIFFERENCE = 1e-4  # between the tools' float32 logits
LARGEST_ROUNDING = 0.25  # of the logits' standard deviation: between a tool's logits as they are timed and in float32


@dataclass(frozen=True)
class Row:
    """One tool at one kind of work. ``times_baseline`` is taken round by round."""

    work: str
    tool: str
    pictures_per_second: Spread
    times_baseline: Spread
    peak_mib: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, print."""
    options = parser_of().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.widths:
        _print_widths(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        task = task_of(options, folder)
        write_pictures(Path(folder), task.batch * task.batches)
        tools = [make_tool(name, task) for name in TOOLS]
        try:
            equality = same_logits(task, tools)
            rows = _measure(task, tools, options)
        finally:
            for tool in tools:
                tool.close()
    _print_rows(task, equality, rows, as_json=options.json)


def parser_of() -> argparse.ArgumentParser:
    """The script's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224", help="timm name of a plain vision transformer")
    parser.add_argument("--batch", type=int, default=8, help="pictures of a batch (default 8)")
    parser.add_argument("--batches", type=int, default=3, help="batches of a round (default 3)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count, after one that does not (default 7)")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves its own choice")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="of every tool (default cpu)")
    parser.add_argument("--only", choices=("train", "infer"), help="one kind of work")
    parser.add_argument("--peers-load", action="store_true", help="the other tools read the JPEG files too")
    parser.add_argument("--no-dropout", action="store_true", help=f"{BASELINE} trains without its dropout of 0.1")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peaks: a process each")
    parser.add_argument("--widths", action="store_true", help="instead: training in bf16 and fp32 by token width")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def task_of(options: argparse.Namespace, folder: str) -> Task:
    """What every tool is asked to do."""
    module = load_model(options.model, pretrained=False).module
    size, patch = module.patch_embed.img_size, module.patch_embed.patch_size  # type: ignore[union-attr]
    block = module.blocks[0]  # type: ignore[index]
    return Task(
        model=options.model,
        image=size[0],  # type: ignore[index,arg-type]
        patch=patch[0],  # type: ignore[index,arg-type]
        width=module.embed_dim,  # type: ignore[arg-type]
        depth=len(module.blocks),  # type: ignore[arg-type]
        heads=block.attn.num_heads,  # type: ignore[union-attr]
        mlp=block.mlp.fc1.out_features,  # type: ignore[union-attr]
        classes=37,
        batch=options.batch,
        batches=options.batches,
        rounds=options.rounds + 1,
        folder=folder,
        dropout=not options.no_dropout,
        peers_load=options.peers_load,
        device=options.device,
    )


def same_logits(task: Task, tools: Sequence[Tool]) -> dict[str, float]:
    """Give every tool the same weights, and stop unless all of them then say the same of the same pictures.

    Returns:
        The largest difference from our float32 logits: of each tool in float32, and of ours in the timed precision.
    """
    ours = next(tool for tool in tools if isinstance(tool, Ours))
    generator = torch.Generator().manual_seed(0)
    # Noise everywhere: with the zeros and ones that biases and norms begin with, a misplaced one would not show.
    weights = {
        name: weight.cpu() + 0.02 * torch.randn(weight.shape, generator=generator)
        for name, weight in ours.module.state_dict().items()
    }
    for tool in tools:
        tool.load(weights)
    shape = (task.batch, 3, task.image, task.image)
    pixels_BCHW = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    wanted_BC = ours.logits(pixels_BCHW)
    differences = {tool.name: float((tool.logits(pixels_BCHW) - wanted_BC).abs().max()) for tool in tools}
    for name, difference in differences.items():
        if not difference <= LARGEST_DIFFERENCE:
            sys.exit(f"{name} computes something else: its logits differ by {difference:.3g}. Nothing was timed.")
    spread = float(wanted_BC.std())
    for tool in tools:
        if isinstance(tool, (Ours, AtBest)):
            name = f"vitrine in {ours.precision}" if isinstance(tool, Ours) else f"{tool.name}, as timed"
            differences[name] = float((tool.logits_as_run(pixels_BCHW) - wanted_BC).abs().max())
            if not differences[name] <= LARGEST_ROUNDING * spread:
                sys.exit(
                    f"{name} is off by {differences[name]:.3g} where logits vary by {spread:.3g}. Nothing was timed."
                )
    differences["standard deviation of the logits"] = spread
    return differences


def _measure(task: Task, tools: Sequence[Tool], options: argparse.Namespace) -> list[Row]:
    rows = []
    for work in ("infer", "train"):  # training comes last: it changes the weights
        if options.only not in (None, work):
            continue
        speeds = alternate({tool.name: getattr(tool, work) for tool in tools}, rounds=options.rounds)
        for tool in tools:
            peak = 0 if options.no_memory or task.device != "cpu" else peak_mib(tool.name, work, task)
            own = speeds[tool.name]
            rows.append(Row(work, tool.name, Spread.of(own), ratios(own, speeds[BASELINE]), peak))
    return rows


def _print_rows(task: Task, differences: dict[str, float], rows: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        content = {"environment": about(), "task": asdict(task), "largest_differences": differences}
        print(json.dumps(content | {"rows": [asdict(row) for row in rows]}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in about().items()))
    size = f"{task.model}, {task.image} px, batch {task.batch}, {task.classes} classes"
    print(f"{size}, on {task.device}; median (lowest to highest)")
    print("largest difference of logits: " + ", ".join(f"{name} {value:.2g}" for name, value in differences.items()))
    print(f"\n{'':6} {'':24} {'pictures/s':>26} {'times ' + BASELINE:>30} {'peak MiB':>9}")
    for row in rows:
        peak = f"{row.peak_mib:,}" if row.peak_mib else "-"
        print(f"{row.work:6} {row.tool:24} {row.pictures_per_second!s:>26} {row.times_baseline!s:>30} {peak:>9}")
    for row in rows:
        if row.tool == Ours.name:
            reached = "reached" if row.times_baseline.median >= TARGETS[row.work] else "missed"
            print(f"{row.work}: target {TARGETS[row.work]} times {BASELINE}, {reached}")


def _print_widths(options: argparse.Namespace) -> None:
    rows = measure_widths(rounds=options.rounds, steps=options.batches)
    if options.json:
        print(json.dumps({"environment": about(), "widths": [asdict(row) for row in rows]}, indent=2))
        return
    print(", ".join(f"{name} {value}" for name, value in about().items()))
    print(
        f"\n{'width':>5} {'tokens':>6} {'batch':>5} {'fp32 pictures/s':>28} {'bf16 pictures/s':>28} {'bf16 / fp32':>22}"
    )
    for row in rows:
        print(f"{row.width:5} {row.tokens:6} {row.batch:5} {row.fp32!s:>28} {row.bf16!s:>28} {row.gain!s:>22}")


if __name__ == "__main__":
    main()
