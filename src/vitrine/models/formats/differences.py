"""Names and shapes that do not fit a model, grouped by block and explained in a few lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

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
