"""Everything that can go wrong through input, as one tree of exceptions.

A message is one or two lines: what was expected, what was found, what to do. The command line prints it
without a traceback and exits with ``exit_code``.
"""

from __future__ import annotations


class VitrineError(Exception):
    """Base of every error a person can cause. ``exit_code`` is the process's exit status."""

    exit_code = 2

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the sentence and the person's own line, and nothing from inside of the package.

        IPython asks an error for it; :mod:`traceback` has the whole way.
        """
        import os
        import traceback

        own = [each for each in traceback.extract_tb(self.__traceback__) if not is_own_code(each.filename)]
        own = [each for each in own if f"{os.sep}IPython{os.sep}" not in each.filename]
        line = f"  line {own[0].lineno}: {own[0].line}" if own else ""
        return [f"{type(self).__name__}: {self}", *([line] if line else [])]


def is_own_code(file: str) -> bool:
    """Whether a source file is one of this package."""
    from pathlib import Path

    return Path(file).is_relative_to(Path(__file__).parent)


class DataError(VitrineError):
    """The data are missing, empty, unreadable or laid out in no known way."""


class PictureError(DataError):
    """One picture cannot be used: corrupt, truncated, too large, or not a picture."""


class RecipeError(VitrineError, ValueError):
    """A recipe field is unknown or has a value that cannot be used."""


class ModelError(VitrineError):
    """A model reference, its weights or its architecture cannot be used."""


class WeightsUnavailableError(ModelError):
    """Weights were asked for that are neither on this machine nor can be fetched now."""


class RunError(VitrineError):
    """A run folder is incomplete, is in use, or does not fit what was asked of it."""


class OutputInUseError(RunError):
    """Another process is writing the same output."""


class EnvironmentMismatchError(VitrineError):
    """Installed libraries do not fit one another."""


def error_summary(error: object, limit: int = 200) -> str:
    """What another library says, for the middle of a sentence of ours: one line of at most ``limit`` characters.

    An error without a message is named by its type.
    """
    return " ".join(str(error).split())[:limit].rstrip(".") or type(error).__name__


def environment_mismatch(error: BaseException) -> EnvironmentMismatchError | None:
    """The remedy, where an error comes from importing a torchvision that does not fit the installed torch; else None.

    Such an import fails with messages of torch's dispatcher ("operator torchvision::nms does not exist"), of the
    dynamic linker, or of torchvision itself: what they have in common is where they are raised.
    """
    frame, importing = error.__traceback__, False
    while frame is not None:
        name = str(frame.tb_frame.f_globals.get("__name__", ""))
        importing |= name.split(".")[0] == "torchvision" and frame.tb_frame.f_code.co_name == "<module>"
        frame = frame.tb_next
    missing = isinstance(error, ModuleNotFoundError) and error.name in ("torch", "torchvision")
    if not (importing or missing):
        return None
    versions = " and ".join(f"{name} {_version_of(name)}" for name in ("torch", "torchvision"))
    return EnvironmentMismatchError(
        f"torchvision cannot be imported ({error_summary(error, 120)}). Installed: {versions}.\n"
        "Install two that were released together and built alike: pip install --upgrade torch torchvision"
    )


def _version_of(package: str) -> str:
    from importlib import metadata  # a tenth of what a help page costs, and only errors want it

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(missing)"


class TrainingError(VitrineError):
    """Training started and had to stop, for example at a loss that is not finite."""

    exit_code = 1


class LostProcessError(TrainingError):
    """One of the processes that trained together is gone."""


class UsageError(VitrineError):
    """Options that do not go together, or a value on the command line that cannot be read."""
