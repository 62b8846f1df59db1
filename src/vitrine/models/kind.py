"""Whether a model reference names a classifier or a captioner."""

from __future__ import annotations

from pathlib import Path

from vitrine.models.captioner.catr import RELEASES
from vitrine.models.captioner.checkpoint import is_captioner_folder
from vitrine.models.hf_captioners.load import is_transformers_captioner
from vitrine.models.hub import fetch


def is_captioner(reference: str, architecture: str | None = None) -> bool:
    """Whether a model reference names a captioner, as far as can be seen without opening it."""
    folder = Path(reference).expanduser()
    known = architecture == "catr" or reference in RELEASES or is_captioner_folder(folder)
    return known or is_transformers_captioner(folder) or _is_hub_captioner(reference)


def _is_hub(reference: str) -> bool:
    return reference.startswith(("hf-hub:", "hf_hub:"))


def _is_hub_captioner(reference: str) -> bool:
    """Whether a hub's repository holds a captioner: its config.json is fetched, or found in the cache folder."""
    if not _is_hub(reference):
        return False
    hub_id = reference.removeprefix("hf-hub:").removeprefix("hf_hub:")
    remedy = "with its other files, into one folder, and give that folder as the model."
    return is_transformers_captioner(fetch(hub_id, ("config.json",), remedy).parent)
