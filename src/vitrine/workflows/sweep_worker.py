"""One run of a sweep in a process of its own, so that its end, however it comes, is not the sweep's.

The job comes as JSON in the first argument. What the training tells goes to the standard output as pickles, which the
process that started this one reads. The standard input stays open as long as that process lives: its end ends this one.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from vitrine.errors import VitrineError


def main() -> None:
    """Train the run that the first argument describes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the sweep decides
    told = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints does not come between
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    job = json.loads(sys.argv[1])

    def tell(what: str, content: Any) -> None:
        told.write(pickle.dumps((what, content)))

    try:
        from vitrine.recipes import recipe_from_toml
        from vitrine.workflows.training import train

        recipe = recipe_from_toml(job["recipe"], job["name"])
        train(job["data"], recipe, Path(job["run"]), resume=True, report=lambda event: tell("event", event))
    except VitrineError as error:
        tell("failed", {"error": str(error), "kind": type(error).__name__})
    except Exception as error:  # the next run may work
        kind, trace = type(error).__name__, traceback.format_exc()
        tell("failed", {"error": f"{kind}: {error}", "kind": kind, "traceback": trace})
    else:
        tell("done", None)


def _end_with_the_sweep() -> None:
    os.read(0, 1)  # returns at the end of the input
    os._exit(1)


if __name__ == "__main__":
    main()
