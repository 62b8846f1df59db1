"""The demo's captioner: trained on generated scenes, scored, and shown with a map for every word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vitrine.data.scenes import write_scenes
from vitrine.recipes import load_recipe, override
from vitrine.report.grounding import mean_text
from vitrine.workflows.caption_evaluation import CaptionEvaluation, evaluate_captioner
from vitrine.workflows.captioned import Captions, CaptionSettings
from vitrine.workflows.captioning import caption_pictures
from vitrine.workflows.training import train
from vitrine.workflows.training_events import Event, TrainResult

_RECIPE = "scenes-captioner"
_DATA = "scenes:base?validation=300&test=300&seed=7"
_SHOWN = 12


@dataclass(frozen=True)
class CaptionView:
    """What the demo made of captions.

    Attributes:
        result: of the training.
        test: of 300 scenes that it was neither trained nor chosen on.
        captions: figures of twelve of these.
    """

    result: TrainResult
    test: CaptionEvaluation
    captions: Captions

    def text(self) -> str:
        """The lines that the demo prints."""
        own, found = self.test.scores.predicted, self.test.human
        lines = [
            f"Do captions say what is there? {own.exact} of {own.pictures} are word for word one of the scene's own "
            f"({own.exact / own.pictures:.2f}, {own.exact_interval.low:.2f} to {own.exact_interval.high:.2f}).",
            f"  One caption for all pictures: {self.test.scores.constant.exact}.",
        ]
        for what, grounded in (("predicted", self.test.predicted), ("the scenes' own", found)):
            if grounded is not None:
                right = grounded.nouns / max(1, grounded.nouns + grounded.absent)
                named = f" {100 * right:.0f} % of the objects that they name are there." if grounded.absent else ""
                lines.append(
                    f"  Words of {what} captions: {grounded.sentence[0].lower()}{grounded.sentence[1:]}{named}"
                )
        if self.test.drop is not None:
            lines.append(f"  With the map of the next word the hit falls by {mean_text(self.test.drop)}.")
        return "\n".join(lines)


def caption_scenes(out: Path, *, seed: int, report: Callable[[Event], None]) -> CaptionView:
    """Write runs/captioner/, with its scores in test/, and captions/ below ``out``.

    Args:
        out: the demo's folder.
        seed: of the pictures and the training.
        report: called with the training's events.
    """
    recipe = override(load_recipe(_RECIPE), [f"seed={seed}"])
    result = train(_DATA, recipe, out / "runs" / "captioner", report=report)
    test = evaluate_captioner(str(result.run), _DATA, split="test", out=result.run / "test", batch_size=32)
    pictures = write_scenes(out / "captioned", "base", {"test": _SHOWN})
    captions = caption_pictures(str(result.run), pictures / "test", out / "captions", CaptionSettings())
    return CaptionView(result, test, captions)
