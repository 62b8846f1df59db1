"""The words of a prompt with their maps: what each one's own position looked at while the prompt was read.

These are other rows than those of an answer's words. An answer's word has the map of the position before it, which
predicted it; nobody predicted a prompt's word, and its row says what its position took from the picture for the
positions after it. A word that stands before the picture sees nothing of it in a model that reads in one direction;
prompts are put behind it here.

Axes: Q pieces of the prompt, L layers, H heads, K cells.
"""

from __future__ import annotations

from collections.abc import Sequence

from vitrine.caption.decoding import DecodedCaption, MapChoice
from vitrine.caption.inference import EncodedBatch

LINE = (
    "The prompt: {attention} of each word's own position, {layers}, {heads}, while the prompt was read. "
    "Nothing predicted these words."
)
"""What a figure says of these maps."""


def read_prompts(batch: EncodedBatch, choice: MapChoice) -> Sequence[DecodedCaption]:
    """The question's pieces after each picture of a batch, with their maps, in the form of a caption.

    Args:
        batch: encoded with maps of the prompt's words.
        choice: layers and heads.
    """
    output, prompts = batch.encoder_output, []
    maps = batch.captioner.module.prompt_attention(output)
    for prefill, maps_QLHK, grid in zip(output.features.rows, maps, output.grids, strict=True):
        ids_T, question_Q = prefill.prompt.tensors["input_ids"][0], prefill.prompt.question_Q
        ids = tuple(ids_T[question_Q].tolist())
        reduced_maps = choice.of(maps_QLHK.transpose(0, 1)).numpy()
        prompts.append(DecodedCaption(ids, (0.0,) * len(ids), None, reduced_maps, grid, output.padded_grid))
    return prompts
