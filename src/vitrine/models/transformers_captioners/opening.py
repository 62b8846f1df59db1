"""A captioner of transformers from a folder or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from vitrine.errors import ModelError
from vitrine.models.transformers_captioners.blip import blip_captioner
from vitrine.models.transformers_captioners.encoder_decoder import encoder_decoder_captioner
from vitrine.models.transformers_captioners.face import LibraryCaptioner
from vitrine.models.transformers_captioners.files import CaptionerFiles, locate_captioner
from vitrine.models.transformers_captioners.git import git_captioner
from vitrine.models.transformers_captioners.image_settings import ImageSettings, read_image_settings
from vitrine.models.transformers_captioners.library import transformers_library
from vitrine.models.transformers_captioners.loading import load_library_model
from vitrine.models.weights import WeightsFile

_ROLES = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class WordPieces:
    """What a vocabulary is made from: ``read_vocabulary(path, start=start, end=end, pad=pad)``.

    Attributes:
        path: a tokenizer.json or vocab.txt.
        start: the piece that starts a caption; None where the file does not have it, as BLIP's ``[DEC]``, which is
            never part of a caption.
        end, pad: likewise; the file has them.
    """

    path: Path
    start: str | None
    end: str
    pad: str


@dataclass(frozen=True)
class TransformersCaptioner:
    """An opened captioner.

    Attributes:
        module: float32 on the CPU, in eval mode; its ``vocabulary`` is None until someone gives it one.
        image: how pictures are prepared for it.
        words: what its vocabulary is made from.
        weights: the file its weights came from.
    """

    module: LibraryCaptioner
    image: ImageSettings
    words: WordPieces
    weights: WeightsFile


def open_transformers_captioner(reference: str) -> TransformersCaptioner:
    """Open BLIP, GIT, or a vision encoder with a text decoder, as transformers saves them.

    Args:
        reference: ``hf-hub:owner/name``, with ``@revision`` where wanted, or a folder.

    Raises:
        ModelError: transformers is not installed; a file is missing, damaged, of another kind, or does not fit the
            others; or a weights file carries code, which is not run.
        WeightsUnavailableError: a file of the hub is not here and cannot be fetched.
    """
    library = transformers_library()
    files = locate_captioner(reference)
    module = _captioner(library, files).eval()
    words = _word_pieces(files.vocabulary, module)
    image = read_image_settings(library, files.image, module.frame.size)
    return TransformersCaptioner(module, image, words, files.weights)


def _captioner(library: Any, files: CaptionerFiles) -> LibraryCaptioner:
    model = load_library_model(library, files)
    said = {role: _one_id(files, role, getattr(model.generation_config, role, None)) for role in _ROLES}
    said |= {role: _one_id(files, role, files.generation[role]) for role in _ROLES if role in files.generation}
    if files.config["model_type"] == "blip":
        return blip_captioner(library, model)
    if files.config["model_type"] == "git":
        return git_captioner(library, model, said)
    return encoder_decoder_captioner(library, model, said)


def _one_id(files: CaptionerFiles, role: str, number: Any) -> int | None:
    if isinstance(number, list) and len(number) == 1:
        number = number[0]
    if number is not None and not isinstance(number, int):
        raise ModelError(f"{files.config_path} gives {role} as {number!r}.\nExpected the number of one word piece.")
    return number


def _word_pieces(path: Path, module: LibraryCaptioner) -> WordPieces:
    pieces, size = _pieces(path), module.frame.words
    if pieces and max(pieces) >= size:
        raise ModelError(
            f"{path} has word pieces up to number {max(pieces):,}; the captioner has {size:,}.\n"
            "Give the tokenizer.json or vocab.txt that belongs to these weights."
        )
    missing = [number for number in (module.end, module.pad) if number not in pieces]
    if missing:
        raise ModelError(
            f"{path} has no word piece {missing[0]:,}, with which this captioner ends or fills up a caption.\n"
            "Give the tokenizer.json or vocab.txt that belongs to these weights."
        )
    return WordPieces(path, pieces.get(module.start), pieces[module.end], pieces[module.pad])


def _pieces(path: Path) -> dict[int, str]:
    """Word pieces by number."""
    try:
        if path.suffix == ".json":
            by_name = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
            return {number: piece for piece, number in by_name.items()}
        return dict(enumerate(path.read_text("utf-8").splitlines()))
    except Exception as error:  # the tokenizers library raises nothing more particular
        raise ModelError(f"{path} cannot be read as a vocabulary: {error}") from None
