"""The process that METEOR, SPICE and PTBTokenizer run in: ``python -m vitrine.metrics.java_process JOB``.

A job is JSON on standard input, the answer JSON on standard output. pycocoevalcap starts Java from here, so that
:mod:`vitrine.metrics.caption_java` can end both together whatever happens. The working folder is for temporary files.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# [captions, references]: by number of the picture a list of one caption, and a list of its references.
_Set = list[dict[str, list[str]]]


def _meteor(sets: list[_Set]) -> list[float]:
    scorer = import_module("pycocoevalcap.meteor.meteor").Meteor()
    return [scorer.compute_score(references, captions)[0] for captions, references in sets]


def _spice(sets: list[_Set]) -> list[float]:
    scorer = import_module("pycocoevalcap.spice.spice").Spice()
    return [float(scorer.compute_score(references, captions)[0]) for captions, references in sets]


def _ptb(captions: list[str]) -> list[str]:
    module = import_module("pycocoevalcap.tokenizer.ptbtokenizer")
    # It writes its input beside itself. Seen from the working folder, which the caller removes, it writes there.
    jar = Path(str(module.__file__)).with_name(module.STANFORD_CORENLP_3_4_1_JAR)
    Path(jar.name).symlink_to(jar)
    module.__file__ = str(Path.cwd() / "ptbtokenizer.py")
    tokenizer = module.PTBTokenizer()
    lines = tokenizer.tokenize({i: [{"caption": caption}] for i, caption in enumerate(captions)})
    return [lines[i][0] for i in range(len(captions))]


JOBS: dict[str, Callable[[Any], Any]] = {"METEOR": _meteor, "SPICE": _spice, "PTBTokenizer": _ptb}


def main() -> None:
    """Run the job that the command line names: JSON from standard input to standard output."""
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)  # what pycocoevalcap and Java print goes with the errors
        try:
            json.dump(JOBS[sys.argv[1]](json.load(sys.stdin)), answer)
        except Exception:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)  # a Meteor that failed holds its own lock and would wait for it for ever when it is deleted


if __name__ == "__main__":
    main()
