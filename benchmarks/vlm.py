"""What do maps of every word cost in a vision-language model, beside ``generate`` with ``output_attentions``?

    python benchmarks/vlm.py                       576 image tokens, 64 words, on the CPU
    python benchmarks/vlm.py --words 8 --rounds 1  a quick look

The model is a LLaVA of random weights: CLIP's vision encoder at 336 px with patches of 14, four layers of width 256; a
language model of 12 layers, width 896, 14 heads and 2 of keys and values, as small language models have. Both ways
read the same prompt with the same weights in float32, decode greedily, and keep the attention of all layers and heads
to the image tokens. Words and attention are compared before anything is timed. What is measured, and how, is in
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from harness.peak_memory import own_peak_mib
from harness.rounds import Spread, alternate, ratios
from side_by_side.machine import about

from vitrine.caption.decoding import MapChoice, final_captions, greedy
from vitrine.models.vlm.attention_rows import use_row_attention
from vitrine.models.vlm.families import FAMILIES
from vitrine.models.vlm.layout import one_grid
from vitrine.models.vlm.model import PromptInput, VisionLanguageModel

OURS, PEER = "vitrine, rows beside fused attention", "transformers, generate(output_attentions=True)"
PLAIN = "transformers, generate without attentions"
IMAGE, END, PIECES, GRID = 7, 1, 8000, 24
LARGEST_DIFFERENCE = 1e-5  # between attention probabilities


def build_model(layers: int) -> Any:
    """The random model."""
    torch.manual_seed(0)
    vision = {"model_type": "clip_vision_model", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
              "num_attention_heads": 4, "image_size": 336, "patch_size": 14}  # fmt: skip
    text = {"model_type": "llama", "hidden_size": 896, "intermediate_size": 2432, "num_hidden_layers": layers,
            "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": PIECES, "eos_token_id": END,
            "bos_token_id": 0, "pad_token_id": 2}  # fmt: skip
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE)
    return transformers.LlavaForConditionalGeneration(config).eval()


def make_prompt() -> PromptInput:
    """A picture of noise between a few words."""
    ids_1T = torch.tensor([[0, 20, 21, *[IMAGE] * GRID**2, *range(30, 50)]])
    tensors = {
        "input_ids": ids_1T,
        "attention_mask": torch.ones_like(ids_1T),
        "pixel_values": torch.randn(1, 3, 336, 336),
    }
    layout = one_grid((336, 336), (0.0, 0.0, 336.0, 336.0), (GRID, GRID))
    return PromptInput(tensors, torch.arange(3, 3 + GRID**2), layout)


class Ways:
    """Both ways, with the same weights and prompt."""

    def __init__(self, words: int, layers: int) -> None:
        self.words, self.prompt, self.model = words, make_prompt(), build_model(layers)
        self.module = VisionLanguageModel(transformers, self.model, FAMILIES["llava"], [END])

    def ours(self) -> tuple[list[int], torch.Tensor]:
        """Ids, and attention (T, L, H, N)."""
        use_row_attention(transformers, self.model)
        with torch.inference_mode():
            encoded = self.module.encode([self.prompt])
            steps = greedy(self.module, encoded, max_tokens=self.words, maps=MapChoice("all", "all"))
            (caption,) = final_captions(steps)
        return list(caption.ids), torch.from_numpy(caption.maps_TLHK)

    def peer(self) -> tuple[list[int], torch.Tensor]:
        """The same by ``generate``."""
        self.model.set_attn_implementation("eager")
        with torch.inference_mode():
            answer = self.model.generate(
                **self.prompt.tensors, max_new_tokens=self.words, do_sample=False, return_dict_in_generate=True,
                output_attentions=True,
            )  # fmt: skip
        rows = [torch.stack([layer[0, :, -1][:, self.prompt.places_N] for layer in step]) for step in answer.attentions]
        return answer.sequences[0, self.prompt.length :].tolist(), torch.stack(rows)

    def plain(self) -> int:
        """Words of ``generate`` with the library's own fused attention and no attentions: what the answer costs."""
        self.model.set_attn_implementation("sdpa")
        with torch.inference_mode():
            answer = self.model.generate(**self.prompt.tensors, max_new_tokens=self.words, do_sample=False)
        return answer.shape[1] - self.prompt.length


def processor_seconds(work: Callable[[], Any]) -> float:
    """Of this process: other work on the machine adds little to them."""
    began = time.process_time()
    work()
    return time.process_time() - began


def word_costs(ways: Ways, repeats: int = 12) -> dict[str, float]:
    """Processor seconds of the prompt, of a word, and of the products of a word's linear layers by themselves, which no
    way of making maps can do without."""
    use_row_attention(transformers, ways.model)
    linear = [layer for part in (ways.model.model.language_model, ways.model.lm_head) for layer in part.modules()
              if isinstance(layer, torch.nn.Linear)]  # fmt: skip
    inputs = {layer.in_features: torch.randn(1, 1, layer.in_features) for layer in linear}
    with torch.inference_mode():
        encoded = ways.module.encode([ways.prompt])
        ids, first = torch.tensor([30]), ways.module.step(torch.tensor([30]), encoded, None).state

        def words() -> None:
            state = first
            for _ in range(repeats):
                state = ways.module.step(ids, encoded, state).state

        def products() -> None:
            for _ in range(repeats):
                for layer in linear:
                    layer(inputs[layer.in_features])

        words(), products()
        return {
            "prompt": round(processor_seconds(lambda: ways.module.encode([ways.prompt])), 3),
            "word": round(processor_seconds(words) / repeats, 4),
            "products_of_a_word": round(processor_seconds(products) / repeats, 4),
        }


def added_mib(way: str, options: argparse.Namespace) -> float:
    """What one answer adds to a process's memory at its most, in MiB, in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--memory",
        way,
        "--words",
        str(options.words),
        "--layers",
        str(options.layers),
    ]
    command += ["--threads", str(options.threads)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def print_added_mib(way: str, ways: Ways) -> None:
    """The child's part: the peak from here on, less what is held already."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = own_peak_mib()
    getattr(ways, way)()
    print(own_peak_mib() - before)


def main() -> int:
    """Compare, measure, print; 1 where the ways differ."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    ways = Ways(options.words, options.layers)
    if options.memory:
        print_added_mib(options.memory, ways)
        return 0
    (our_ids, our_rows), (their_ids, their_rows) = ways.ours(), ways.peer()
    apart = float((our_rows - their_rows).abs().max()) if our_ids == their_ids else float("inf")
    print(f"same words: {our_ids == their_ids}; attention at most {apart:.1e} apart", file=sys.stderr)
    seconds: dict[str, list[float]] = {OURS: [], PEER: [], PLAIN: []}

    def timed(name: str, work: Callable[[], int]) -> Callable[[], int]:
        def run() -> int:
            began = time.process_time()
            done = work()
            seconds[name].append(time.process_time() - began)
            return done

        return run

    works = {OURS: lambda: len(ways.ours()[0]), PEER: lambda: len(ways.peer()[0]), PLAIN: ways.plain}
    speeds = alternate({name: timed(name, work) for name, work in works.items()}, rounds=options.rounds, warm_up=0)
    print(f"words per second: {speeds}", file=sys.stderr)
    memory = {OURS: added_mib("ours", options), PEER: added_mib("peer", options)}
    print(f"added MiB: {memory}", file=sys.stderr)
    result = {
        "same_words": our_ids == their_ids,
        "largest_difference_of_attention": apart,
        "words_per_second": {name: str(Spread.of(values)) for name, values in speeds.items()},
        "processor_seconds": {name: str(Spread.of(values)) for name, values in seconds.items()},
        "times_less_processor_time": str(ratios(seconds[PEER], seconds[OURS])),
        "times_less_processor_time_than_without_attentions": str(ratios(seconds[PLAIN], seconds[OURS])),
        "processor_seconds_of": word_costs(ways),
        "times_as_fast": str(ratios(speeds[OURS], speeds[PEER])),
        "times_as_fast_as_without_attentions": str(ratios(speeds[OURS], speeds[PLAIN])),
        "added_mib": {name: round(value) for name, value in memory.items()},
        "times_less_added_memory": round(memory[PEER] / memory[OURS], 1),
        "about": about() | {"image_tokens": GRID**2, "words": len(our_ids), "layers": options.layers},
    }
    print(json.dumps(result, indent=1))
    return int(apart > LARGEST_DIFFERENCE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=64)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", choices=("ours", "peer"), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
