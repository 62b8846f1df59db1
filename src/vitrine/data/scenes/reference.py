"""``scenes:`` references: generated pictures in place of a data folder."""

from __future__ import annotations

from vitrine.data.samples import LabelledData, Split
from vitrine.data.scenes.shapes import FAMILIES
from vitrine.data.scenes.stream import SceneSource, SceneStream, SceneWindow
from vitrine.errors import DataError

PREFIX = "scenes:"
SIZES = (32, 512)  # smallest and largest side in pixels
_LIMITS = {
    "train": (1, 10_000_000),
    "validation": (1, 1_000_000),
    "test": (1, 1_000_000),
    "size": SIZES,
    "seed": (0, 2**32 - 1),
}
_EXAMPLE = "scenes:new?train=3000&validation=1000&test=1000&size=64&seed=3"


def open_scenes(reference: str, *, seed: int = 0) -> LabelledData:
    """Opens generated pictures: ``scenes:base`` or ``scenes:new``, with options such as ``?train=3000&size=64``.

    Options: ``train``, ``validation`` and ``test`` are numbers of pictures (without ``train`` the train split is
    an endless stream; validation and test have 2,000 each); ``size`` is pixels a side (64); ``seed`` picks other
    pictures (0). Splits of a given length are a fixed data set: they depend on the reference alone. The endless
    stream is drawn by the option ``seed`` where it is given, else by the argument.

    Args:
        reference: what the person wrote, with the prefix ``scenes:``.
        seed: of the endless stream, 0 or more.

    Raises:
        DataError: an unknown family or option, or a value that is no whole number within its limits.
    """
    family, options = _parse(reference)
    size, fixed_seed = options.get("size", 64), options.get("seed", 0)
    stream_seed = options.get("seed", seed)

    def finite(split: str, count: int) -> SceneWindow:
        return SceneWindow(SceneSource(family, fixed_seed, split, size), count)

    splits: dict[str, Split] = {}
    if "train" in options:
        splits["train"] = finite("train", options["train"])
        note = f"train: {options['train']:,} generated scenes of seed {fixed_seed}."
    else:
        splits["train"] = SceneStream(SceneSource(family, stream_seed, "train", size))
        note = f"train: an endless stream of generated scenes of seed {stream_seed}."
    for split in ("validation", "test"):
        splits[split] = finite(split, options.get(split, 2000))
    return LabelledData(
        reference=reference,
        layout=f"generated scenes, family {family}, {size} x {size} px",
        labels=FAMILIES[family].labels,
        splits=splits,
        notes=(note, f"validation and test: fixed scenes of seed {fixed_seed}."),
    )


def _parse(reference: str) -> tuple[str, dict[str, int]]:
    family, _, query = reference.removeprefix(PREFIX).partition("?")
    if not reference.startswith(PREFIX) or family not in FAMILIES:
        raise DataError(
            f"generated scenes are scenes:{' or scenes:'.join(FAMILIES)}, not {reference!r}.\n"
            f"With options, for example: {_EXAMPLE}"
        )
    options: dict[str, int] = {}
    for part in query.split("&") if query else []:
        name, _, value = part.partition("=")
        if name not in _LIMITS:
            raise DataError(
                f"{reference!r}: unknown option {name!r}; there are {', '.join(_LIMITS)}.\nFor example: {_EXAMPLE}"
            )
        if name in options:
            raise DataError(f"{reference!r}: option {name!r} is given twice; give it once.")
        low, high = _LIMITS[name]
        if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
            raise DataError(
                f"{reference!r}: {name} must be a whole number from {low} to {high}, not {value!r}.\n"
                f"For example: {_EXAMPLE}"
            )
        options[name] = int(value)
    return family, options
