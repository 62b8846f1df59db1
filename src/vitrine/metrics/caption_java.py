"""METEOR and SPICE, which pycocoevalcap computes in Java. Where something is missing, a note says so: no error.

Each runs in a process group of its own with a time limit, and the group is ended when the answer is there, when the
limit has passed or when the caller is interrupted: no Java process is left behind. Nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vitrine.metrics.caption_text import Words, tokenise
from vitrine.results import count_of

JAVA_METRICS = ("meteor", "spice")

_LABELS = {"meteor": "METEOR", "spice": "SPICE"}
_SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
_PROCESS = "vitrine.metrics.java_process"
_START_SECONDS, _SECONDS_PER_CAPTION = 120.0, 0.2  # the time limit: to start, and for every caption and reference
_VERSION_SECONDS = 20.0
_CAUSE = re.compile(r"^.*(?:Error|Exception)\b.*$", re.MULTILINE)
_MAX_CAUSE_LENGTH = 160

CaptionSet = tuple[Sequence[Words], Sequence[Sequence[Words]]]
"""Captions, one a picture, and the references of each."""


@dataclass(frozen=True)
class JavaScores:
    """METEOR and SPICE of several sets of captions, in their order.

    Attributes:
        values: by key of :data:`JAVA_METRICS`, one corpus figure (0 to 1) a set; None where it could not be computed.
        notes: why not, and how vitrine's words compare with PTBTokenizer's.
    """

    values: dict[str, tuple[float, ...] | None]
    notes: tuple[str, ...]


class _JobError(Exception):
    """A job gave no answer; the message is the end of a sentence."""


def java_scores(sets: Sequence[CaptionSet], texts: Sequence[str]) -> JavaScores:
    """METEOR 1.5 (Denkowski, Lavie 2014) and SPICE (Anderson et al. 2016) over the words of :func:`tokenise`.

    The last note says of how many of ``texts`` pycocoevalcap's ``PTBTokenizer`` makes other words.

    SPICE reads models of Stanford CoreNLP that pycocoevalcap does not carry and would download (400 MB) without a time
    limit; here it runs only where they are there already.
    """
    missing = _missing_dependency()
    if missing:
        return JavaScores(dict.fromkeys(JAVA_METRICS), (f"METEOR and SPICE were not computed: {missing}",))
    job = [
        [
            {str(i): [" ".join(words)] for i, words in enumerate(captions)},
            {str(i): [" ".join(words) for words in others] for i, others in enumerate(references)},
        ]
        for captions, references in sets
    ]
    count = sum(1 + len(others) for _, references in sets for others in references)
    values: dict[str, tuple[float, ...] | None] = {}
    notes = []
    for key, label in _LABELS.items():
        try:
            if key == "spice":
                _require_spice_models()
            scores = tuple(float(value) for value in _run_job(label, job, count))
            if not all(map(isfinite, scores)):
                raise _JobError("its answer is no number.")
            values[key] = scores
        except _JobError as failure:
            values[key] = None
            notes.append(f"{label} was not computed: {failure}")
    return JavaScores(values, (*notes, _tokenisation_note(texts)))


def _tokenisation_note(captions: Sequence[str]) -> str:
    lines = [" ".join(caption.split()) for caption in captions]  # one caption a line
    try:
        theirs = _run_job("PTBTokenizer", lines, len(lines))
    except _JobError as failure:
        return f"The words were not compared with PTBTokenizer's: {failure}"
    # It ends a line with a blank where a mark was taken away.
    pairs = [(" ".join(tokenise(line)), " ".join(other.split())) for line, other in zip(lines, theirs, strict=True)]
    differ = [(ours, other) for ours, other in pairs if ours != other]
    if not differ:
        return f"PTBTokenizer makes the same words of all {count_of(len(lines), 'caption')}."
    ours, other = min(differ, key=lambda pair: (len(pair[1]), pair))
    return (
        f"PTBTokenizer makes other words of {len(differ):,} of {count_of(len(lines), 'caption')}, "
        f'for example "{other}" where these figures have "{ours}".'
    )


def _missing_dependency() -> str | None:
    """The first missing dependency and its remedy, as the end of a sentence; None where all are there."""
    if find_spec("pycocoevalcap") is None:
        return "pip install 'vitrine[caption-metrics]' brings their scorers."
    java = shutil.which("java")
    if java is None:
        return "it takes Java, and no java is on the PATH."
    try:
        subprocess.run([java, "-version"], capture_output=True, check=True, timeout=_VERSION_SECONDS)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return f"it takes Java, and {java} does not run."
    return None


def _require_spice_models() -> None:
    spec = find_spec("pycocoevalcap")
    folders = [] if spec is None or spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    if not any(all((Path(folder, "spice", "lib", name)).is_file() for name in _SPICE_MODELS) for folder in folders):
        raise _JobError(
            "it needs the models of Stanford CoreNLP 3.6.0, which are not there. "
            "With a network, 'python -m pycocoevalcap.spice.get_stanford_models' fetches them once (about 400 MB)."
        )


def _run_job(label: str, job: Any, captions: int) -> Any:
    """The answer of a job.

    Raises:
        _FailedError: it failed or took too long.
    """
    limit = _START_SECONDS + _SECONDS_PER_CAPTION * captions
    with TemporaryDirectory(prefix="vitrine-") as folder:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", "-m", _PROCESS, label],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            answer, errors = process.communicate(json.dumps(job).encode(), timeout=limit)
            return json.loads(answer)
        except subprocess.TimeoutExpired:
            raise _JobError(f"it took longer than {limit:,.0f} s.") from None
        except ValueError:
            raise _JobError(f"its process failed ({_cause(errors.decode(errors='replace'))}).") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # what macOS says of a group that is gone
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _cause(errors: str) -> str:
    """The line of an error output that says most."""
    match = _CAUSE.search(errors)
    lines = errors.strip().splitlines()
    line = match.group().strip() if match else lines[-1].strip() if lines else "without a word"
    return line if len(line) <= _MAX_CAUSE_LENGTH else line[: _MAX_CAUSE_LENGTH - 1] + "…"
