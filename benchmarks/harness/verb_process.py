"""One verb of the command line with what its time goes to: ``python -m harness.verb_process RESULT VERB ...``

A thread looks at the main thread's stack every few milliseconds, and counts the time since it last looked, the clock's
and all processors', towards the part of vitrine that the stack is in. The parts add up to the whole, which cumulative
times of a tracing profiler do not, and the work is hardly slower for it. RESULT is a JSON file, written at the end.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from harness.peak_memory import own_peak_mib

_PACKAGE = "/src/vitrine/"
_EVERY = 0.004  # seconds between looks
_IMPORT = "<frozen importlib._bootstrap>"
_OPENING = ("open_model", "open_classifier", "load_model")
_PARTS = (
    ("drawing", ("plotting.", "explain.figures", "caption.figures", "features.figures", "compare.figures")),
    ("drawing", ("train.figures", "serve.figures", "display")),
    ("writing", ("io.files", "io.resumable_csv", "io.figure_folder", "report.html", "report.markdown")),
    ("reading", ("data.", "runs.", "io.untrusted_files", "config.")),
)
"""Parts by the modules that the innermost frame of vitrine's is in; all else is computing."""


class Sampler(threading.Thread):
    """Counts seconds by part and by function; ``parts`` and ``places`` are (clock, processors) by name."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.clock: Counter[str] = Counter()
        self.processor: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self._of = threading.main_thread().ident
        self._ended = threading.Event()

    def run(self) -> None:
        """Look until :meth:`end`."""
        clock, processor = time.perf_counter(), time.process_time()
        while not self._ended.wait(_EVERY):
            frame = sys._current_frames().get(self._of or 0)
            now, used = time.perf_counter(), time.process_time()
            part, place = part_of(stack_of(frame))
            self.clock[part] += now - clock  # type: ignore[assignment]
            self.processor[part] += used - processor  # type: ignore[assignment]
            self.places[place] += used - processor  # type: ignore[assignment]
            clock, processor = now, used

    def end(self) -> dict[str, dict[str, float]]:
        """Stop, and what was counted."""
        self._ended.set()
        self.join()
        return {"clock": dict(self.clock), "processor": dict(self.processor), "places": dict(self.places)}


def stack_of(frame: FrameType | None) -> list[tuple[str, str, str]]:
    """(file, function, module that is being imported, if any) from the innermost frame outwards."""
    stack = []
    while frame is not None:
        code = frame.f_code
        imported = ""
        if code.co_filename == _IMPORT and code.co_name == "_find_and_load":
            imported = str(frame.f_locals.get("name", ""))
        stack.append((code.co_filename, code.co_name, imported))
        frame = frame.f_back
    return stack


def part_of(stack: list[tuple[str, str, str]]) -> tuple[str, str]:
    """The part of vitrine that a stack is in, and its place: a function, or the package that is being imported."""
    imported = [name for _, _, name in reversed(stack) if name]  # the outermost first
    if imported:
        others = [name.partition(".")[0] for name in imported if not name.startswith("vitrine")]
        return "imports", f"import {others[0] if others else 'vitrine'}"
    ours = [(_module(file), function) for file, function, _ in stack if _PACKAGE in file]
    if not ours:
        return "computing", "elsewhere"
    module, function = ours[0]
    if any(name in _OPENING for _, name in ours):
        return "opening", f"{module}.{function}"
    for part, prefixes in _PARTS:
        if f"{module}.".startswith(prefixes):
            return part, f"{module}.{function}"
    return "computing", f"{module}.{function}"


def _module(file: str) -> str:
    return file.rpartition(_PACKAGE)[2].removesuffix(".py").replace("/", ".")


def main() -> None:
    """Run the verb; the exit status is its own."""
    result, sys.argv = Path(sys.argv[1]), ["vitrine", *sys.argv[2:]]
    sys.path.pop(0)  # benchmarks/, whose scripts have names of others' modules
    os.chdir(result.parent)
    sampler = Sampler()
    sampler.start()
    try:
        from vitrine.cli import main as vitrine

        vitrine()
    finally:
        result.write_text(json.dumps(sampler.end() | {"peak_mib": own_peak_mib()}))


if __name__ == "__main__":
    main()
