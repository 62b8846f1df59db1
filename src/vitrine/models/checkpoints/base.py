"""Checkpoints of other libraries under timm's names: what the readers of all formats share.

A format is mostly a list of renamings. Here is what several of them have in common: queries, keys and values packed
into one tensor, tensors that are left out and named in a note, and the message for weights that do not fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vitrine.errors import ModelError, error_summary
from vitrine.models.checkpoints.state_dict import Shape, StateDictFile
from vitrine.results import and_n_more, count_of

IMAGENET_NORMALISATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF_NORMALISATION = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

Readout = Literal["representation", "representation before norm", "class and mean"]

_PACKED = {
    "attn.q": ("attn.qkv", 0, 3), "attn.k": ("attn.qkv", 1, 3), "attn.v": ("attn.qkv", 2, 3),
    "mlp.gate": ("mlp.fc1", 0, 2), "mlp.up": ("mlp.fc1", 1, 2),
}  # fmt: skip


@dataclass(frozen=True)
class ModelDescription:
    """The timm model that a checkpoint belongs to.

    Attributes:
        architecture: timm's name of the model, without tag.
        model_args: timm constructor arguments where they differ from that model's own.
        cfg: timm's description of the weights: input size, normalisation, labels.
        notes: sentences on what was recognised or assumed.
        problem_type: what transformers' configuration says that the outputs are: single_label_classification,
            multi_label_classification or regression; None where there is no such configuration.
    """

    architecture: str
    model_args: Mapping[str, Any]
    cfg: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    problem_type: str | None = None


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """A weights file of any library, with its tensors under timm's names.

    Attributes:
        title: the format, for sentences: "PyTorch-Pretrained-ViT".
        file: the file, with its own names.
        shapes: of the tensors, in timm's names.
        load: reads the tensors, under these names.
        readout: how the head reads the tokens, where timm's layout has no place for it; None where it has.
        eps: of the layer norms, where the file's library uses another than timm's 1e-6.
        cfg: input normalisation that belongs to the format whatever model the weights are put into.
        resample_positions: brings position embeddings (1, N, D) to a grid of so many rows and columns of patches, where
            the file's library does it in its own way.
        notes: sentences on what was left out.
        is_npz: whether timm's own reader of Google's files reads it.
        problem_type: as :class:`ModelDescription` has it, from the configuration beside the file; None without one.
    """

    title: str
    file: StateDictFile
    shapes: Mapping[str, Shape]
    load: Callable[[], dict[str, Tensor]] = field(repr=False)
    readout: Readout | None = None
    eps: float | None = None
    cfg: Mapping[str, Any] = field(default_factory=dict)
    resample_positions: Callable[[Tensor, tuple[int, int]], Tensor] | None = None
    notes: tuple[str, ...] = ()
    is_npz: bool = False
    problem_type: str | None = None

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.file.path

    def classes(self, head: str = "head") -> int:
        """Number of classes of the head with this name; 0 where there is none."""
        shape = self.shapes.get(f"{head}.weight", ())
        return shape[0] if shape else 0


@dataclass(frozen=True)
class NamePlan:
    """Which tensors of a file make up which tensors of a timm model.

    Attributes:
        sources: for every name in timm's layout, the file's names whose tensors it is made of, one behind the other.
        left_out: names in the file that a classifier does not use.
    """

    sources: Mapping[str, tuple[str, ...]]
    left_out: tuple[str, ...] = ()


def plan_names(file: StateDictFile, renames: Sequence[tuple[str, str]], left_out: str = "") -> NamePlan:
    """Rename a file's tensors, and pack queries, keys and values (or a gated MLP's halves) where all parts are there.

    Args:
        file: the file.
        renames: patterns with their replacements, as :func:`re.sub` takes them; each name meets all, in order. A name
            that no pattern changes is kept.
        left_out: a pattern of the whole names that a classifier does not use.
    """
    sources: dict[str, tuple[str, ...]] = {}
    unused_names = []
    for name in file.shapes:
        if left_out and re.fullmatch(left_out, name):
            unused_names.append(name)
            continue
        new = name
        for pattern, replacement in renames:
            new = re.sub(pattern, replacement, new)
        sources[new] = (*sources.get(new, ()), name)
    return NamePlan(_pack(sources), tuple(unused_names))


def _pack(plan: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Parts of one tensor under its name, where all of them are there."""
    result, groups = {}, dict[str, dict[int, tuple[str, ...]]]()
    for name, sources in plan.items():
        match = re.fullmatch(r"(blocks\.\d+)\.(\w+\.\w+)\.(weight|bias)", name)
        part = _PACKED.get(match[2]) if match else None
        if match is None or part is None:
            result[name] = sources
            continue
        target, position, count = part
        whole = f"{match[1]}.{target}.{match[3]}"
        group = groups.setdefault(whole, {})
        group[position] = sources
        if len(group) == count:
            result[whole] = tuple(source for _, one in sorted(group.items()) for source in one)
    used = {source for sources in result.values() for source in sources}
    return result | {name: sources for name, sources in plan.items() if not used.issuperset(sources)}


def convert_names(title: str, file: StateDictFile, plan: NamePlan, **details: Any) -> ConvertedCheckpoint:
    """Convert a file by a plan: tensors are renamed, and joined where timm has one for several.

    Args:
        title: the format, for sentences.
        file: the file.
        plan: from :func:`plan_names`.
        details: the other fields of the checkpoint.

    Raises:
        ModelError: tensors that belong together do not fit together.
    """
    shapes = {}
    for name, sources in plan.sources.items():
        parts = [file.shapes[source] for source in sources]
        if len(parts) > 1 and (len({part[1:] for part in parts}) > 1 or not all(parts)):
            raise ModelError(f"{file.path}: {' and '.join(sources)} have shapes that do not go together.")
        shapes[name] = parts[0] if len(parts) == 1 else (sum(part[0] for part in parts), *parts[0][1:])

    def load() -> dict[str, Tensor]:
        tensors = file.tensors()
        return {
            name: tensors[sources[0]] if len(sources) == 1 else torch.cat([tensors[source] for source in sources])
            for name, sources in plan.sources.items()
        }

    return ConvertedCheckpoint(title, file, shapes, load, **details)


def rearrange_checkpoint(
    checkpoint: ConvertedCheckpoint, rearrange: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> ConvertedCheckpoint:
    """The checkpoint with its tensors rearranged, and the shapes that they have then.

    Args:
        checkpoint: with tensors under the names that ``rearrange`` takes.
        rearrange: gives tensors under timm's names; it must take tensors on the meta device too, which have no values.

    Raises:
        ModelError: a tensor has a shape that this format does not have.
    """
    meta_tensors = {name: torch.empty(shape, device="meta") for name, shape in checkpoint.shapes.items()}
    try:
        shapes = {name: tuple(value.shape) for name, value in rearrange(meta_tensors).items()}
    except (RuntimeError, IndexError, KeyError, ValueError) as error:
        raise ModelError(
            f"{checkpoint.path} has the names of {checkpoint.title}, with shapes that do not go together: "
            f"{error_summary(error)}."
        ) from error
    return replace(checkpoint, shapes=shapes, load=lambda: rearrange(checkpoint.load()))


def left_out_note(names: Sequence[str], why: str) -> tuple[str, ...]:
    """A sentence that tells which tensors were left out; none where there are none."""
    return (f"Left out, as {why}: {and_n_more(names, 2)}.",) if names else ()


_SHOWN = 4  # groups of tensors that a message names
_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape (?:torch\.Size\()?\[([\d, ]*)\]\)? from checkpoint, "
    r"the shape in current model is (?:torch\.Size\()?\[([\d, ]*)\]"
)


def group_names(names: Iterable[str]) -> list[str]:
    """Tensor names, with those that differ by block or kind alone written once: ``blocks.{0..11}.norm1.{weight,bias}``.

    A block of which ten tensors or more are there is written ``blocks.{2..11}.*``.
    """
    blocks: dict[str, set[int]] = {}
    for name in names:
        match = re.match(r"(.*?\.)?(\d+)\.(.*)", name)
        pattern = f"{match[1] or ''}\0.{match[3]}" if match else name
        numbers = blocks.setdefault(pattern, set())
        if match:
            numbers.add(int(match[2]))
    members: dict[tuple[str, str], list[str]] = {}
    for pattern, numbers in blocks.items():
        before, mark, after = pattern.partition("\0.")
        place = f"{before}{_span(numbers)}." if mark else ""
        members.setdefault((place, "" if mark else pattern.rpartition(".")[0]), []).append(after if mark else pattern)
    result = []
    for (place, _), rest in members.items():
        result += [f"{place}*"] if place and len(rest) >= 10 else [f"{place}{part}" for part in _kinds(rest)]
    return result


def _span(numbers: set[int]) -> str:
    """Block numbers: one as it is, several in braces, with .. between neighbours."""
    blocks = sorted(numbers)
    if len(blocks) == 1:
        return str(blocks[0])
    if blocks[-1] - blocks[0] + 1 == len(blocks):
        return f"{{{blocks[0]}..{blocks[-1]}}}"
    return f"{{{','.join(map(str, blocks[:6]))}{',...' if len(blocks) > 6 else ''}}}"


def _kinds(names: Sequence[str]) -> list[str]:
    """``norm.weight`` and ``norm.bias`` as one ``norm.{weight,bias}``."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        base, dot, kind = name.rpartition(".")
        kinds.setdefault(base + dot, []).append(kind)
    return [base + (kind[0] if len(kind) == 1 else f"{{{','.join(kind)}}}") for base, kind in kinds.items()]


def count_names(names: Sequence[str], what: str) -> str:
    """How many tensors, and which: ``12 tensors are missing (blocks.2.*)``."""
    groups = group_names(names)
    more = f", and {len(groups) - _SHOWN} more such" if len(groups) > _SHOWN else ""
    verb = " is" if len(names) == 1 else "s are"
    return f"{len(names)} tensor{verb} {what} ({', '.join(groups[:_SHOWN])}{more})"


def explain_mismatch(missing: Sequence[str], unexpected: Sequence[str], depths: tuple[int, int]) -> str:
    """Why weights do not fit a model, as far as the names of tensors tell: one or two sentences, or none.

    Args:
        missing: names that the model has and the file has not.
        unexpected: names that the file has and the model has not.
        depths: blocks in the file, and in the model.
    """
    file_depth, model_depth = depths
    sentences = []
    if file_depth and file_depth != model_depth:
        return f"The file has {count_of(file_depth, 'block')}, the model {model_depth}."
    signs: Mapping[str, tuple[str, str]] = {
        r".*\.ls[12]\.gamma|.*\.gamma_[12]": ("layer scale, as DINOv2, DeiT III and BEiT have", ""),
        r"(.*\.)?dist_token|head_dist\..*": ("a distillation token, as deit_*_distilled_* have", ""),
        r"reg_token": ("register tokens, as models with reg4 in their name have", ""),
        r"fc_norm\..*": ("a head on the mean of the patches", " (global_pool = 'avg')"),
        r"norm_pre\..*": ("a norm before its blocks, as CLIP's image towers have", ""),
        r".*\.attn\.(qkv\.|q_|v_)bias": ("biases of queries, keys and values", " (qkv_bias)"),
        r".*\.attn\.[qk]_norm\..*": ("norms of queries and keys", " (qk_norm)"),
        r"pos_embed": ("learned position embeddings", ""),
        r"pre_logits\..*": ("a representation layer before its head", ""),
    }
    for pattern, (what, option) in signs.items():
        for names, text in (
            (unexpected, "The file is of a model with"),
            (missing, "The model has, and the file lacks,"),
        ):
            if any(re.fullmatch(pattern, name) for name in names):
                sentences.append(f"{text} {what}{option}.")
    return " ".join(sentences[:2])


def group_size_mismatches(message: str) -> str | None:
    """torch's message about sizes that do not match, with the tensors grouped; None where it is another message."""
    by_sizes: dict[tuple[str, str], list[str]] = {}  # the same tensor of every block has one entry
    for name, *sizes in _MISMATCH.findall(message):
        there, here = (size.replace(", ", " x ") or "a number" for size in sizes)
        by_sizes.setdefault((there, here), []).append(name)
    if not by_sizes:
        return None
    parts = []
    for (there, here), names in by_sizes.items():
        parts += [f"{group} is {there} in the file and {here} in the model" for group in group_names(names)]
    more = f", and {len(parts) - _SHOWN} more such" if len(parts) > _SHOWN else ""
    return f"size mismatch: {', '.join(parts[:_SHOWN])}{more}"
