"""How alike patches are: the cosine of their tokens, and where its colours begin.

Axes: D channels, N patches; any axes may stand before D.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_LOWEST = 0.01  # quantile of similarities where their colours begin
_HIGHEST_START = 0.9  # of the colours: nearly equal patches stay of nearly one colour
_ASKED = 64  # patches that the common scale is taken from


def cosine_similarity(tokens_ND: Floats, query_D: Floats) -> Floats:
    """Cosine of each token with one token: float32 (...), -1 to 1; 0 with a token of nothing but zeros."""
    lengths = np.linalg.norm(tokens_ND, axis=-1).clip(min=1e-12)
    query_D = query_D / max(float(np.linalg.norm(query_D)), 1e-12)
    similarity: Floats = ((tokens_ND @ query_D) / lengths).astype(np.float32)
    return similarity


def lowest_colour(similarities: Floats) -> float:
    """Where the colours of these similarities begin: their lowest hundredth, 0.9 at most, to two digits."""
    return round(min(_HIGHEST_START, float(np.quantile(similarities, _LOWEST))), 2)


def common_lowest_colour(tokens_ND: Floats) -> float:
    """The same for whichever patch is asked for, so that one scale serves all: of the similarities with 64 patches,
    evenly spaced; never below 0, where nothing is alike.

    Args:
        tokens_ND: of all pictures.
    """
    step = max(1, len(tokens_ND) // _ASKED)
    return max(
        0.0, lowest_colour(np.stack([cosine_similarity(tokens_ND, query_D) for query_D in tokens_ND[::step][:_ASKED]]))
    )
