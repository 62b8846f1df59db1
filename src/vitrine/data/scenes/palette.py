"""The eight named colours, and backgrounds that stand off from them."""

from __future__ import annotations

import math

import numpy as np

from vitrine.data.scenes.distances import Floats

# sRGB, 0 to 255. Far enough apart that JITTER does not bring two of them within a just-noticeable step, and light
# beside the dusk of the backgrounds.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (224, 91, 97),
    "orange": (250, 168, 80),
    "yellow": (248, 235, 103),
    "green": (96, 177, 108),
    "cyan": (114, 224, 230),
    "blue": (92, 116, 218),
    "purple": (170, 100, 193),
    "white": (248, 248, 248),
}
COLOUR_NAMES = tuple(COLOURS)
JITTER = 14.0  # largest change of a channel
STAND_OFF = 105.0  # wanted distance between an object's colour and the background's colours

_RGB = np.array(list(COLOURS.values()), dtype=np.float32)
# The eye's sensitivity by channel, roughly; squared weights sum to 3 as for the plain distance.
_WEIGHTS = np.array([math.sqrt(0.85), math.sqrt(1.5), math.sqrt(0.65)], dtype=np.float32)
_CANDIDATES = 14


def jittered(rng: np.random.Generator, count: int) -> tuple[list[str], Floats]:
    """Draws ``count`` different named colours; their RGB values (count, 3), 0 to 255, are jittered."""
    chosen = rng.permutation(len(COLOUR_NAMES))[:count]
    rgb = _RGB[chosen] + rng.uniform(-JITTER, JITTER, (count, 3)).astype(np.float32)
    return [COLOUR_NAMES[index] for index in chosen.tolist()], np.clip(rgb, 0, 255)


def background_pair(rng: np.random.Generator, objects_N3: Floats) -> tuple[Floats, Floats]:
    """Draws the two colours (3,) a background mixes, so that no mixture comes near an object's colour.

    The first of several random pairs that keeps STAND_OFF wins, else the pair that stands off farthest.
    """
    draws = rng.random((2, _CANDIDATES, 3), dtype=np.float32)
    first_C3 = 15 + 225 * draws[0]
    second_C3 = np.clip(first_C3 + 190 * (draws[1] - 0.5), 0, 255)
    start_C13 = (first_C3 * _WEIGHTS)[:, None]
    step_C13 = (second_C3 * _WEIGHTS)[:, None] - start_C13
    offset_CN3 = objects_N3 * _WEIGHTS - start_C13
    # Distance from every object's colour to the segment between the pair.
    along_CN = np.clip((offset_CN3 * step_C13).sum(2) / ((step_C13 * step_C13).sum(2) + 1e-6), 0, 1)
    nearest_C = np.square(offset_CN3 - along_CN[..., None] * step_C13).sum(2).min(1)
    good_C = nearest_C >= STAND_OFF * STAND_OFF
    index = int(good_C.argmax()) if good_C.any() else int(nearest_C.argmax())
    return first_C3[index], second_C3[index]
