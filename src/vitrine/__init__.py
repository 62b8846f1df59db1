"""vitrine: fine-tune vision transformers on your own pictures, see what they look at, and how far that can be believed.

Every verb of the command line is a function here, with the command line's words and defaults:

    load                a model in memory, or of a run, a name or a file, opened once: .predict, .explain, .caption
    check               what is in some data, and what is wrong with them
    train, sweep        fine-tune on labelled pictures, once or for every setting of a sweep
    evaluate, knn       measure a model on labelled pictures; its frozen features, in a minute
    predict             labels of pictures
    explain, score      maps of what a model looks at; methods ranked on one's own data
    features            what a model's patch features tell apart: components, regions, similarities
    positions           whether a model's position embeddings have learned where patches are
    caption, ask        captions and answers with a map for every word
    compare, verify     runs side by side; a run held against its own record
    report, export      a page on runs; a run for other tools
    shards              labelled pictures as webdataset shards
    set_verbosity       how much is said on stderr meanwhile

Pictures are paths, bytes, PIL images, NumPy arrays, torch tensors, or lists and generators of these. ``__all__`` is the
promise; other modules may change between versions.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vitrine.version import __version__

if TYPE_CHECKING:
    from vitrine.api.caption import ask, caption
    from vitrine.api.data import check, shards
    from vitrine.api.explain import explain, positions, score
    from vitrine.api.features import features
    from vitrine.api.load import load
    from vitrine.api.measure import evaluate, knn
    from vitrine.api.predict import predict
    from vitrine.api.runs import compare, export, report, verify
    from vitrine.api.train import sweep, train
    from vitrine.messages import set_verbosity


__all__ = [
    "__version__",
    "ask",
    "caption",
    "check",
    "compare",
    "evaluate",
    "explain",
    "export",
    "features",
    "knn",
    "load",
    "positions",
    "predict",
    "report",
    "score",
    "set_verbosity",
    "shards",
    "sweep",
    "train",
    "verify",
]

_MODULES = {
    "ask": "vitrine.api.caption",
    "caption": "vitrine.api.caption",
    "check": "vitrine.api.data",
    "compare": "vitrine.api.runs",
    "evaluate": "vitrine.api.measure",
    "explain": "vitrine.api.explain",
    "export": "vitrine.api.runs",
    "features": "vitrine.api.features",
    "knn": "vitrine.api.measure",
    "load": "vitrine.api.load",
    "positions": "vitrine.api.explain",
    "predict": "vitrine.api.predict",
    "report": "vitrine.api.runs",
    "score": "vitrine.api.explain",
    "set_verbosity": "vitrine.messages",
    "shards": "vitrine.api.data",
    "sweep": "vitrine.api.train",
    "train": "vitrine.api.train",
    "verify": "vitrine.api.runs",
}


class _Face(ModuleType):
    """The package as people use it: functions of the same names as the sub-packages that do their work.

    ``import vitrine.train.run`` would put the sub-package in the function's place. The function stays, and what is in
    the sub-package can be reached through it: ``vitrine.train.run`` is still that module.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)
        elif (function := vars(self).get(name)) is not None:
            function.__dict__ = vars(value)


def __getattr__(name: str) -> Any:
    """A public function, imported when it is first used, so that ``import vitrine`` needs no torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'vitrine' has no attribute {name!r}")
    from vitrine.errors import environment_mismatch

    try:
        function = getattr(import_module(_MODULES[name]), name)
    except (ImportError, RuntimeError) as error:
        raise environment_mismatch(error) or error from error
    if behind := sys.modules.get(f"{__name__}.{name}"):
        function.__dict__ = vars(behind)
    globals()[name] = function
    return function


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Face
