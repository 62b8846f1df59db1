"""CATR, the published captioner: its releases, their download, and its names of weights."""

from __future__ import annotations

import errno
import math
import zipfile
import zlib
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from vitrine.errors import ModelError, WeightsUnavailableError, error_summary
from vitrine.io.file_names import temporary_path
from vitrine.io.files import remove_unfinished
from vitrine.io.hub_cache import NETWORK_OFF, is_offline, note_use
from vitrine.io.network import diagnose, download
from vitrine.models.cache import RELEASES, release_path
from vitrine.models.captioner.config import catr_config
from vitrine.models.captioner.inference import prepare_for_prediction
from vitrine.models.captioner.model import CaptionModel
from vitrine.models.checkpoints.pickle_file import UnsafePickleError, load_pickle, scan_pickle
from vitrine.models.checkpoints.state_dict import read_safetensors
from vitrine.results import Progress

# Prefix of a published name, and ours. Every published name begins with exactly one of them.
_PREFIXES = (
    ("backbone.0.body.", "backbone.body."),
    ("input_proj.", "projection."),
    ("transformer.encoder.", "encoder."),
    ("transformer.decoder.", "decoder."),
    ("transformer.embeddings.word_embeddings.", "embeddings.words."),
    ("transformer.embeddings.position_embeddings.", "embeddings.positions."),
    ("transformer.embeddings.LayerNorm.", "embeddings.norm."),
    ("mlp.", "head."),
)


def our_name(theirs: str) -> str | None:
    """Our name of a published weight; None where there is no such weight."""
    for prefix, ours in _PREFIXES:
        if theirs.startswith(prefix):
            return ours + theirs.removeprefix(prefix)
    return None


def published_name(ours: str) -> str:
    """The published name of one of our weights.

    Raises:
        ValueError: it is not a weight of a captioner.
    """
    for theirs, prefix in _PREFIXES:
        if ours.startswith(prefix):
            return theirs + ours.removeprefix(prefix)
    raise ValueError(f"{ours} is not a weight of a captioner.")


def published_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A captioner's state dict under the published names, as the published code reads it (under the key ``model``)."""
    return {published_name(name): value for name, value in weights.items()}


_EXPECTED = "Expected a released CATR file, such as catr-v3.pth, or its weights as .safetensors."
_SHOWN = 3  # names in a message
_MAPPED_BYTES = 32 << 20  # of a file that are read before it is mapped anew, which takes some hundredths of a second


def load_catr(
    path: str | Path, *, padding: str = "pixels", ready: bool = False, vocabulary: Any = None
) -> CaptionModel:
    """The published captioner (CATR v1 to v3) with the weights of a file, float32 on the CPU, in eval mode.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote: the weights, or a dictionary that has them under
            ``model`` beside anything that is plain data.
        padding: "pixels" or "features", see :class:`~vitrine.models.captioner.config.CaptionModelConfig`.
        ready: prepared by :func:`~vitrine.models.captioner.inference.prepare_for_prediction`, which is not for training
            or saving.
        vocabulary: that of bert-base-uncased; the model's attribute.

    Raises:
        ModelError: there is no such file; it is damaged, carries Python objects, or holds other weights.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelError(f"The weights file {path} does not exist.\n{_EXPECTED}")
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
        model = CaptionModel(catr_config(padding), vocabulary=vocabulary)
    # Only the model holds the weights from here on: what preparing replaces is freed one by one.
    model.load_state_dict(_rename_and_check(model.state_dict(), _read_tensors(path), path), assign=True)
    return prepare_for_prediction(model) if ready else model.eval()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, under the names that it gives them."""
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        what = (
            f"a dictionary with {', '.join(map(str, list(content)[:_SHOWN]))}" if isinstance(content, Mapping) else ""
        )
        raise ModelError(f"{path} holds {what or type(content).__name__}, not the weights of a captioner.\n{_EXPECTED}")
    return {str(name): value for name, value in content.items()}


def _read_safetensors(path: Path) -> Any:
    try:
        return read_safetensors(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damage_error(path, error) from error


def _read_pickle(path: Path) -> Any:
    """What ``torch.save`` wrote, after it was looked through: plain data, and no more of it than the file has."""
    try:
        scan_pickle(path, may_repeat=True)
        return load_pickle(path)
    except UnsafePickleError as error:
        raise ModelError(
            f"{path} carries Python objects beside its weights ({error}), which could run code; none was run.\n"
            "If you trust it, take the weights out where it was made: torch.save({'model': checkpoint['model']}, FILE)."
        ) from error
    except Exception as error:  # a damaged file makes the reader raise anything from EOFError to RuntimeError
        raise _damage_error(path, error) from error


def _damage_error(path: Path, reason: object) -> ModelError:
    text = str(reason).split("WeightsUnpickler error:")[-1].split("Check the documentation")[0]  # not torch's advice
    cause = " ".join(text.split())[:160].rstrip(".") or type(reason).__name__
    return ModelError(f"{path} is damaged or is not a weights file ({cause}).\nDownload it again. {_EXPECTED}")


def _rename_and_check(
    model_state: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """A file's tensors under our names, float32 and in memory of their own.

    Raises:
        ModelError: names or shapes differ; it says which and how many.
    """
    names = {name: our_name(name) or "" for name in tensors if not name.endswith("num_batches_tracked")}
    matches = {ours: tensors[theirs] for theirs, ours in names.items() if ours in model_state}
    faults = [
        _list_names("missing", [published_name(name) for name in model_state if name not in matches]),
        _list_names("unknown", [theirs for theirs, ours in names.items() if ours not in model_state]),
        _list_names(
            "of another shape",
            [
                f"{published_name(name)} ({_shape(value)} in place of {_shape(model_state[name])})"
                for name, value in matches.items()
                if value.shape != model_state[name].shape
            ],
        ),
    ]
    if any(faults):
        differences = "; ".join(fault for fault in faults if fault)
        count = len(model_state)
        raise ModelError(f"{path} does not fit the published captioner's {count} weights: {differences}.\n{_EXPECTED}")
    own_names = {ours: theirs for theirs, ours in names.items() if ours in matches}
    if path.suffix == ".safetensors":  # read into memory of their own
        return {name: matches[name].to(torch.float32).contiguous() for name in model_state}
    return _copy_mapped(path, {name: own_names[name] for name in model_state})


def _copy_mapped(path: Path, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors of a file that torch.load maps, float32 and copied, since it may be replaced while the model lives.

    The file is mapped anew for every part: pages that were read stay in memory for as long as a map of them does.

    Args:
        path: of the file.
        names: what each tensor is to be called, and its name in the file.
    """
    copies: dict[str, Tensor] = {}
    most = _MAPPED_BYTES if zipfile.is_zipfile(path) else math.inf  # older files are read as a whole
    while len(copies) < len(names):
        tensors, size = _read_tensors(path), 0
        for name in list(names)[len(copies) :]:
            copies[name] = tensors[names[name]].detach().to(torch.float32, copy=True).contiguous()
            size += copies[name].nbytes
            if size >= most:
                break
    return copies


def _list_names(fault: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {fault}: {', '.join(names[:_SHOWN])}{more}"


def _shape(value: Tensor) -> str:
    return " x ".join(map(str, value.shape)) or "a scalar"


__all__ = ["RELEASES", "fetch_release", "release_path"]

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EPERM}


def fetch_release(name: str, progress: Progress | None = None) -> Path:
    """A released file, from the cache folder or downloaded into it; there only once it was found to be the captioner's.

    Args:
        name: ``catr/v1``, ``catr/v2`` or ``catr/v3``.
        progress: called with the bytes so far and those in all (0 where the server does not say) while it downloads.

    Returns:
        where it lies, as :func:`release_path` says.

    Raises:
        ModelError: there is no such release, or what came is something else.
        WeightsUnavailableError: it is not in the cache folder and cannot be downloaded now.
    """
    path = release_path(name)
    if path.is_file():
        note_use(path, RELEASES[name])
        return path
    partial = temporary_path(path)  # another process may be downloading it, too
    try:
        if is_offline():
            raise OSError(NETWORK_OFF)
        partial.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(partial.parent)
        download(RELEASES[name], partial, progress)
        _check_stated_sums(partial)
        load_catr(partial)  # an answer that is not the file is not kept
        partial.replace(path)
    except (OSError, HTTPException) as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise WeightsUnavailableError(
                f"{name} cannot be saved in {path.parent}: {error.strerror}.\n"
                "Make room, or choose another folder: --cache DIR, or the environment's VITRINE_CACHE."
            ) from error
        raise WeightsUnavailableError(
            f"{name} is needed and is not in {path.parent}: {diagnose(error).reason}.\n"
            f"Download {RELEASES[name]} on another machine and save it as {path}, or name the file with --arch catr."
        ) from error
    finally:
        if partial.parent.is_dir():
            partial.unlink(missing_ok=True)
    note_use(path, RELEASES[name])
    return path


def _check_stated_sums(path: Path) -> None:
    """Compare the bytes of a released file with the sums in it, which torch does not look at.

    The releases state no hash; but what ``torch.save`` wrote is a zip file, with a CRC-32 of each of its members.

    Raises:
        OSError: a member's bytes are not those that were written.
    """
    if not zipfile.is_zipfile(path):  # that of an older torch; its shapes and length are checked all the same
        return
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise OSError(f"what came is damaged ({error_summary(error)}); it was not kept: try again") from error
    if member is not None:
        raise OSError("what came is damaged (the CRC-32 of a member differs); it was not kept: try again")
