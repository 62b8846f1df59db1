"""CLIP's image tower under the names of OpenAI's code and of OpenCLIP, which has them from there: ``visual.ln_pre``.

Its file says neither which activation the tower was trained with nor how its pictures were normalised: a name does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from torch import Tensor

from vitrine.errors import ModelError
from vitrine.models.checkpoints.base import (
    ConvertedCheckpoint,
    ModelDescription,
    convert_names,
    left_out_note,
    plan_names,
    rearrange_checkpoint,
)
from vitrine.models.checkpoints.state_dict import StateDictFile
from vitrine.models.checkpoints.timm import read_dimensions, size_word
from vitrine.results import and_n_more

_RENAMES = (
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
    (r"^(blocks\.\d+)\.attn\.in_proj_(weight|bias)$", r"\1.attn.qkv.\2"),
    (r"^(blocks\.\d+)\.attn\.out_proj\.", r"\1.attn.proj."),
    (r"^(blocks\.\d+)\.mlp\.c_fc\.", r"\1.mlp.fc1."),
    (r"^(blocks\.\d+)\.mlp\.c_proj\.", r"\1.mlp.fc2."),
)
_SIGNS = ("class_embedding", "positional_embedding", "conv1.weight", "ln_pre.weight")
_OTHER_TOWERS = ("attn_pool.", "ls_1.")  # CoCa's pool, the layer scale of the Perception Encoder


def is_open_clip(file: StateDictFile) -> bool:
    """Whether these are weights of CLIP's image tower, a vision transformer, under OpenAI's names."""
    return all(name in file.shapes for name in _SIGNS) and not any(
        part in name for name in file.shapes for part in _OTHER_TOWERS
    )


def convert_open_clip(file: StateDictFile) -> ConvertedCheckpoint:
    """Weights of the tower; the projection into the space that it shares with text is left out."""
    plan = plan_names(file, _RENAMES, "proj")
    notes = left_out_note(plan.left_out, "no classifier uses it")
    return rearrange_checkpoint(convert_names("OpenCLIP", file, plan, notes=notes), _with_axis_of_pictures)


def _with_axis_of_pictures(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Class token (D,) and positions (N, D) as timm has them: (1, 1, D) and (1, N, D)."""
    tokens_1ND = {"cls_token": tensors["cls_token"].reshape(1, 1, -1), "pos_embed": tensors["pos_embed"][None]}
    return {**tensors, **tokens_1ND}


def describe_open_clip(
    checkpoint: ConvertedCheckpoint,
    model_args: Mapping[str, Any] | None = None,  # noqa: ARG001
) -> ModelDescription:
    """The timm model of such weights, which no file says.

    Raises:
        ModelError: always; the message lists the models that have these sizes.
    """
    size = read_dimensions(checkpoint.shapes, checkpoint.path)
    word = size_word(size.width, size.depth)
    pattern = f"vit_{word or '*'}_patch{size.patch}_clip*_{size.image}"
    names = [name for name in timm.list_models(pattern) if word]
    fitting_models = f" ({and_n_more(names, 3)})" if names else ""
    raise ModelError(
        f"{checkpoint.path} is of CLIP's image tower and does not say with which activation it was trained: quickgelu "
        "is OpenAI's, the usual one LAION's.\n"
        f"Name the model: --arch NAME{fitting_models}, or in training: --set model=NAME --set pretrained=FILE."
    )
