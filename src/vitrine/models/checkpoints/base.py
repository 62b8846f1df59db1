"""Weights of other libraries under timm's names: what every format is made of.

A format is a list of renamings; what several of them have in common (packed queries, keys and values; left-out
tensors that say so) is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vitrine.errors import ModelError
from vitrine.models.checkpoints.state_dict import Shape, StoredWeights

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

Readout = Literal["representation", "representation before norm", "class and mean"]

_PACKED = {
    "attn.q": ("attn.qkv", 0, 3), "attn.k": ("attn.qkv", 1, 3), "attn.v": ("attn.qkv", 2, 3),
    "mlp.gate": ("mlp.fc1", 0, 2), "mlp.up": ("mlp.fc1", 1, 2),
}  # fmt: skip


@dataclass(frozen=True)
class Described:
    """What weights say of the model they belong to.

    Attributes:
        architecture: timm's name of the model, without tag.
        model_args: timm constructor arguments where they differ from that model's own.
        cfg: timm's description of the weights: input size, normalisation, labels.
        notes: sentences on what was assumed.
    """

    architecture: str
    model_args: Mapping[str, Any]
    cfg: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConvertedCheckpoint:
    """A file's weights in timm's names.

    Attributes:
        title: what they are, for sentences: "PyTorch-Pretrained-ViT".
        path: of the file.
        shapes: of the tensors, in timm's names.
        load: reads the tensors, under these names.
        readout: how the head reads the tokens, where timm's layout has no place for it; None where it has.
        eps: of the layer norms, where the file's library uses another than timm's 1e-6.
        cfg: input normalisation that belongs to the format whatever model the weights are put into.
        positions: brings position embeddings to another grid where the file's library does it in its own way.
        notes: sentences on what was left out.
        npz: the file is read by timm's own reader of Google's files.
    """

    title: str
    path: Path
    shapes: Mapping[str, Shape]
    load: Callable[[], dict[str, Tensor]] = field(repr=False)
    readout: Readout | None = None
    eps: float | None = None
    cfg: Mapping[str, Any] = field(default_factory=dict)
    positions: Callable[[Tensor, int], Tensor] | None = None
    notes: tuple[str, ...] = ()
    npz: bool = False

    def classes(self, head: str = "head") -> int:
        """Number of classes of the head with this name; 0 where there is none."""
        shape = self.shapes.get(f"{head}.weight", ())
        return shape[0] if shape else 0


def convert_names(
    stored: StoredWeights, renames: Sequence[tuple[str, str]], left_out: str = ""
) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """For every name in timm's layout the stored names whose tensors it is made of, one behind the other.

    Args:
        stored: the file.
        renames: patterns with their replacements, as :func:`re.sub` takes them; each name meets all, in order.
        left_out: a pattern of the whole names that a classifier does not use.

    Returns:
        The plan, and the names that were left out. A name that no pattern changes is kept.
    """
    plan: dict[str, tuple[str, ...]] = {}
    dropped = []
    for name in stored.shapes:
        if left_out and re.fullmatch(left_out, name):
            dropped.append(name)
            continue
        new = name
        for pattern, replacement in renames:
            new = re.sub(pattern, replacement, new)
        plan[new] = (*plan.get(new, ()), name)
    return _packed(plan), tuple(dropped)


def _packed(plan: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Queries, keys and values packed into one tensor, where all three are there."""
    result, groups = {}, dict[str, dict[int, tuple[str, ...]]]()
    for name, sources in plan.items():
        match = re.fullmatch(r"(blocks\.\d+)\.(\w+\.\w+)\.(weight|bias)", name)
        part = _PACKED.get(match[2]) if match else None
        if match is None or part is None:
            result[name] = sources
            continue
        target, place, count = part
        packed = f"{match[1]}.{target}.{match[3]}"
        group = groups.setdefault(packed, {})
        group[place] = sources
        if len(group) == count:
            result[packed] = tuple(source for _, one in sorted(group.items()) for source in one)
    used = {source for sources in result.values() for source in sources}
    return result | {name: sources for name, sources in plan.items() if not used.issuperset(sources)}


def converted_shapes(stored: StoredWeights, plan: Mapping[str, tuple[str, ...]]) -> dict[str, Shape]:
    """Shapes in timm's names.

    Raises:
        ModelError: tensors that belong together do not fit together.
    """
    shapes = {}
    for name, sources in plan.items():
        parts = [stored.shapes[source] for source in sources]
        if len(parts) > 1 and (len({part[1:] for part in parts}) > 1 or not all(parts)):
            raise ModelError(f"{stored.path}: {' and '.join(sources)} have shapes that do not go together.")
        shapes[name] = parts[0] if len(parts) == 1 else (sum(part[0] for part in parts), *parts[0][1:])
    return shapes


def tensor_loader(stored: StoredWeights, plan: Mapping[str, tuple[str, ...]]) -> Callable[[], dict[str, Tensor]]:
    """A function that reads the file and puts its tensors together."""

    def load() -> dict[str, Tensor]:
        found = stored.tensors()
        return {
            name: found[sources[0]] if len(sources) == 1 else torch.cat([found[source] for source in sources])
            for name, sources in plan.items()
        }

    return load


def left_out_note(names: Sequence[str], why: str) -> tuple[str, ...]:
    """A sentence that tells which tensors were left out; none where there are none."""
    if not names:
        return ()
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return (f"Left out, as {why}: {', '.join(names[:2])}{more}.",)


_SHOWN = 4  # groups in a line
_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape (?:torch\.Size\()?\[([\d, ]*)\]\)? from checkpoint, "
    r"the shape in current model is (?:torch\.Size\()?\[([\d, ]*)\]"
)


def grouped(names: Iterable[str]) -> list[str]:
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
    ordered = sorted(numbers)
    if len(ordered) == 1:
        return str(ordered[0])
    if ordered[-1] - ordered[0] + 1 == len(ordered):
        return f"{{{ordered[0]}..{ordered[-1]}}}"
    return f"{{{','.join(map(str, ordered[:6]))}{',...' if len(ordered) > 6 else ''}}}"


def _kinds(names: Sequence[str]) -> list[str]:
    """``norm.weight`` and ``norm.bias`` as one ``norm.{weight,bias}``."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        base, dot, kind = name.rpartition(".")
        kinds.setdefault(base + dot, []).append(kind)
    return [base + (kind[0] if len(kind) == 1 else f"{{{','.join(kind)}}}") for base, kind in kinds.items()]


def counted(names: Sequence[str], what: str) -> str:
    """``12 tensors are missing (blocks.2.*)``."""
    groups = grouped(names)
    more = f", and {len(groups) - _SHOWN} more such" if len(groups) > _SHOWN else ""
    verb = " is" if len(names) == 1 else "s are"
    return f"{len(names)} tensor{verb} {what} ({', '.join(groups[:_SHOWN])}{more})"


def explained(missing: Sequence[str], unexpected: Sequence[str], depths: tuple[int, int]) -> str:
    """What these names say: one or two sentences, or none.

    Args:
        missing: names that the model has and the file has not.
        unexpected: names that the file has and the model has not.
        depths: blocks in the file, and in the model.
    """
    there, here = depths
    sentences = []
    if there and there != here:
        return f"The file has {there} blocks, the model {here}."
    signs: Mapping[str, tuple[str, str]] = {
        r".*\.ls[12]\.gamma|.*\.gamma_[12]": ("layer scale, as DINOv2, DeiT III and BEiT have", ""),
        r"(.*\.)?dist_token|head_dist\..*": ("a distillation token, as deit_*_distilled_* have", ""),
        r"reg_token": ("register tokens, as models with reg4 in their name have", ""),
        r"fc_norm\..*": ("a head on the mean of the patches", " (global_pool = 'avg')"),
        r"norm_pre\..*": ("a norm before its blocks, as CLIP's image towers have", ""),
        r".*\.attn\.qkv\.bias": ("biases of queries, keys and values", " (qkv_bias)"),
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


def mismatches(message: str) -> str | None:
    """torch's list of sizes that do not match, grouped; None where the message is another one."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, there, here in _MISMATCH.findall(message):
        shapes = (there.replace(", ", " x ") or "a number", here.replace(", ", " x ") or "a number")
        # The same tensor of every block has one line.
        found.setdefault(shapes, []).append(name)
    if not found:
        return None
    parts = []
    for (there, here), names in found.items():
        parts += [f"{group} is {there} in the file and {here} in the model" for group in grouped(names)]
    more = f", and {len(parts) - _SHOWN} more such" if len(parts) > _SHOWN else ""
    return f"size mismatch: {', '.join(parts[:_SHOWN])}{more}"
