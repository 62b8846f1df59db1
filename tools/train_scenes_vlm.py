"""Train a small vision-language model on generated scenes with their true captions, so that grounding can be measured.

    python tools/train_scenes_vlm.py -o scenes-vlm
    vitrine evaluate scenes-vlm "scenes:base?test=60" --grounding -o scores/

The model is a LLaVA as transformers saves it, with its processor. Its vision encoder is SigLIP's, begun from the first
blocks of vitrine/scenes-tiny without the class token; its language model is a Llama of width 128 that begins at random.
The encoder stays as it is; the rest is
trained on a stream of scenes in which none comes twice, each with three of its captions after one of several prompts,
by cross-entropy on the captions' pieces and their ends.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from timm.optim import Muon
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from vitrine.caption.tokenizer import Vocabulary
from vitrine.data.captions.datasets import open_captions
from vitrine.models.checkpoints.state_dict import open_weights
from vitrine.models.reference import bundled_folder
from vitrine.models.vlm.families import DEFAULT_PROMPT, FAMILIES
from vitrine.models.vlm.prompt import NEUTRAL_PROMPT, PromptTransform

SIGNS = ("<s>", "</s>", "<pad>", "<image>")
BOS, END, PAD, IMAGE = range(len(SIGNS))
PROMPTS = (DEFAULT_PROMPT, NEUTRAL_PROMPT, "What is in the picture?", "Which objects are there?")
SIDE, PATCH, WIDTH, HEADS = 64, 8, 128, 4
CAPTIONS = 3  # of each picture
IGNORED = -100  # by the cross-entropy


@dataclass(frozen=True)
class Plan:
    """What is built, and how it is trained."""

    steps: int
    batch_size: int
    learning_rate: float
    vision_blocks: int
    layers: int
    seed: int


def learn_pieces(captions: Sequence[str]) -> Any:
    """A tokenizer of byte-level pieces in which every word of the scenes' captions is one piece."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(SIGNS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*captions, *PROMPTS, FAMILIES["llava"].template], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip


def build(plan: Plan, words: Any) -> tuple[Any, Any]:
    """The model with the vision encoder's first weights, and its processor."""
    torch.manual_seed(plan.seed)
    config = transformers.LlavaConfig(
        vision_config={"model_type": "siglip_vision_model", "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH,
                       "num_hidden_layers": plan.vision_blocks, "num_attention_heads": HEADS, "image_size": SIDE,
                       "patch_size": PATCH, "hidden_act": "gelu", "vision_use_head": False},
        text_config={"model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH,
                     "num_hidden_layers": plan.layers, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
                     "max_position_embeddings": 256, "vocab_size": len(words), "eos_token_id": END,
                     "bos_token_id": BOS, "pad_token_id": PAD, "tie_word_embeddings": True},
        image_token_id=IMAGE, vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    images = transformers.SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = transformers.LlavaProcessor(images, words, patch_size=PATCH, vision_feature_select_strategy="full")
    model = transformers.LlavaForConditionalGeneration(config)
    tower = model.model.vision_tower
    kept = tower.load_state_dict(vision_weights(plan.vision_blocks, tower.state_dict()), strict=False)
    assert not kept.unexpected_keys and all("post_layernorm" in name for name in kept.missing_keys), kept
    model.generation_config.eos_token_id = END
    return model, processor


def vision_weights(blocks: int, names: Any) -> dict[str, Tensor]:
    """The first blocks of vitrine/scenes-tiny under the names of SigLIP's encoder."""
    file = open_weights(bundled_folder() / "model.safetensors")
    own = {name: value.float() for name, value in file.tensors().items()}
    front = "vision_model." if any(name.startswith("vision_model.") for name in names) else ""
    weights = {
        f"{front}embeddings.patch_embedding.weight": own["patch_embed.proj.weight"],
        f"{front}embeddings.patch_embedding.bias": own["patch_embed.proj.bias"],
        f"{front}embeddings.position_embedding.weight": own["pos_embed"][0, 1:],
    }
    parts = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj",
             "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}  # fmt: skip
    for block in range(blocks):
        for kind in ("weight", "bias"):
            for ours, theirs in parts.items():
                weights[f"{front}encoder.layers.{block}.{theirs}.{kind}"] = own[f"blocks.{block}.{ours}.{kind}"]
            chunks = own[f"blocks.{block}.attn.qkv.{kind}"].chunk(3)
            for name, chunk in zip("qkv", chunks, strict=True):
                weights[f"{front}encoder.layers.{block}.self_attn.{name}_proj.{kind}"] = chunk
    return weights


class Batches:
    """Batches of scenes that never come twice, each scene with several captions after one prompt."""

    def __init__(self, plan: Plan, processor: Any, config: Any, words: Any) -> None:
        self.plan = plan
        self.stream = open_captions("scenes:base", seed=plan.seed).splits["train"]
        self.vocabulary = Vocabulary(
            Tokenizer.from_str(words.backend_tokenizer.to_str()), start="</s>", end="</s>", pad="<pad>"
        )
        transforms = [PromptTransform(processor, config, FAMILIES["llava"], prompt) for prompt in PROMPTS]
        photo = self.stream[0:1][0].picture.decode()
        self.prompts = [each(photo).tensors["input_ids"][0].tolist() for each in transforms]

    def batch(self, step: int) -> dict[str, Tensor]:
        """The model's arguments, and the labels: the captions of a picture stand in one row after the prompt, each
        counting its positions from the prompt's end and seeing the prompt and itself alone."""
        size, chance = self.plan.batch_size, random.Random(f"{self.plan.seed} {step}")
        samples, prompt = self.stream[step * size : (step + 1) * size], chance.choice(self.prompts)
        pixels_BHW3 = np.stack([np.asarray(each.picture.decode()) for each in samples])
        answers = [
            [[*self.vocabulary.encode(text), END] for text in chance.sample(list(each.captions), CAPTIONS)]
            for each in samples
        ]
        longest = max(sum(map(len, texts)) for texts in answers)
        rows = [_row(prompt, texts, longest) for texts in answers]
        ids_BT, labels_BT, positions_BT, parts_BT = (torch.tensor(each) for each in zip(*rows, strict=True))
        earlier_TT = torch.ones(ids_BT.shape[1], ids_BT.shape[1], dtype=torch.bool).tril()
        sees_BTT = (parts_BT[:, None] == 0) | (parts_BT[:, None] == parts_BT[:, :, None])
        return {
            "input_ids": ids_BT,
            "labels": labels_BT,
            "position_ids": positions_BT,
            "attention_mask": (sees_BTT & earlier_TT)[:, None],
            "pixel_values": torch.from_numpy(pixels_BHW3).permute(0, 3, 1, 2).float() / 127.5 - 1,
        }


def _row(prompt: list[int], texts: list[list[int]], longest: int) -> tuple[list[int], ...]:
    """Ids, the next ones where they are to be learnt, positions, and the part (0 the prompt, then the captions).

    A caption's part begins with the prompt's last piece, from which its first word is predicted.
    """
    start = len(prompt) - 1
    ids, labels, positions, parts = prompt[:-1], [IGNORED] * start, list(range(start)), [0] * start
    for part, text in enumerate(texts, start=1):
        ids += [prompt[-1], *text[:-1]]
        labels += text
        positions += range(start, start + len(text))
        parts += [part] * len(text)
    padding = longest - (len(ids) - start)
    return ids + [PAD] * padding, labels + [IGNORED] * padding, positions + [0] * padding, parts + [-1] * padding


class Trainer:
    """Fits the language model and the projector; the learning rate rises over the first 5 % of the steps, then falls
    as a cosine."""

    def __init__(self, model: Any, plan: Plan, batches: Batches) -> None:
        self.model, self.plan, self.batches, self.step = model, plan, batches, 0
        for value in model.model.vision_tower.parameters():
            value.requires_grad_(False)
        inside = [value for name, value in model.named_parameters() if ".layers." in name and value.ndim == 2]
        matrices = [value for value in inside if value.requires_grad]
        others = [
            value for value in model.parameters()
            if value.requires_grad and not any(value is each for each in matrices)
        ]  # fmt: skip
        self.optimizer = Muon(
            [{"params": matrices, "weight_decay": 0.01}, {"params": others, "use_fallback": True, "weight_decay": 0.0}],
            lr=plan.learning_rate, nesterov=True, betas=(0.9, 0.98), adjust_lr_fn="match_rms_adamw",
        )  # fmt: skip

    def run(self, seconds: float) -> bool:
        """Train to the last step, or for so long; whether it is done."""
        stop, losses = time.monotonic() + seconds, list[float]()
        while self.step < self.plan.steps and time.monotonic() < stop:
            losses.append(self._train_batch(self.batches.batch(self.step)))
            self.step += 1
            if self.step % 25 == 0:
                print(f"step {self.step:,} of {self.plan.steps:,}: loss {np.mean(losses[-25:]):.4f}", flush=True)
        return self.step == self.plan.steps

    def _train_batch(self, batch: dict[str, Tensor]) -> float:
        warmup, steps = max(1, self.plan.steps // 20), self.plan.steps
        share = min((self.step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * self.step / steps))
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * share
        labels_BT = batch.pop("labels")
        logits_BTV = self.model(**batch, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Keep what a later call goes on from."""
        state = {"step": self.step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, path)

    def resume(self, path: Path) -> None:
        """Go on from what :meth:`save` kept."""
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def main() -> int:
    """Train and save; 1 where the time was over before the last step, and a call with the same options goes on."""
    options = _parser().parse_args()
    plan = Plan(
        options.steps, options.batch_size, options.learning_rate, options.vision_blocks, options.layers, options.seed
    )
    torch.set_num_threads(options.threads)
    samples = open_captions("scenes:base?train=1500", seed=plan.seed).splits["train"]
    words = learn_pieces([caption for sample in samples for caption in sample.captions])
    model, processor = build(plan, words)
    trainer = Trainer(model.train(), plan, Batches(plan, processor, model.config, words))
    options.out.mkdir(parents=True, exist_ok=True)
    state = options.out / "training.pt"
    if state.is_file():
        trainer.resume(state)
    if not trainer.run(60 * options.minutes):
        trainer.save(state)
        print(f"Step {trainer.step:,} of {plan.steps:,}: the same command goes on from here.")
        return 1
    model.eval().save_pretrained(options.out)
    processor.save_pretrained(options.out)
    state.unlink(missing_ok=True)
    print(f"{options.out}: {sum(value.numel() for value in model.parameters()):,} weights")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so many; the same command goes on")
    parser.add_argument("--batch-size", type=int, default=32, help="pictures, each with three captions")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--vision-blocks", type=int, default=2, help="of the six that vitrine/scenes-tiny has")
    parser.add_argument("--layers", type=int, default=4, help="of the language model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
