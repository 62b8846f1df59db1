"""Whether a model reference names a classifier or a captioner, as far as can be seen without opening it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vitrine.models.captioner.catr import RELEASES
from vitrine.models.captioner_folder import is_captioner_folder
from vitrine.models.hf_captioners.load import is_transformers_captioner
from vitrine.models.hub import fetch
from vitrine.models.vlm.load import is_vision_language_folder

CaptionerKind = Literal["published", "run", "transformers", "vision-language"]
"""The published CATR captioner, the folder of a run of ``vitrine train``, a captioner of transformers, or a
vision-language model of it."""


def captioner_kind(reference: str, architecture: str | None = None) -> CaptionerKind | None:
    """Which kind of captioner a model reference names; None where it names none.

    Of ``hf-hub:owner/name`` the config.json is fetched, or found in the cache folder.

    Raises:
        WeightsUnavailableError: the hub's config.json is not here and cannot be fetched.
    """
    folder = Path(reference).expanduser()
    if architecture == "catr" or reference in RELEASES:
        return "published"
    if is_captioner_folder(folder):
        return "run"
    if is_hub_reference(reference):
        folder = _hub_folder(reference)
    if is_transformers_captioner(folder):
        return "transformers"
    return "vision-language" if is_vision_language_folder(folder) else None


def is_captioner(reference: str, architecture: str | None = None) -> bool:
    """Whether a model reference names a captioner; arguments and errors are those of :func:`captioner_kind`."""
    return captioner_kind(reference, architecture) is not None


def is_hub_reference(reference: str) -> bool:
    """Whether a model reference names a repository of the hub."""
    return reference.startswith(("hf-hub:", "hf_hub:"))


def _hub_folder(reference: str) -> Path:
    """The folder in the cache with a repository's config.json."""
    hub_id = reference.removeprefix("hf-hub:").removeprefix("hf_hub:")
    remedy = "with its other files, into one folder, and give that folder as the model."
    return fetch(hub_id, ("config.json",), remedy).parent
