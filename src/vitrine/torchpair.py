"""The installed torch and torchvision, checked as a pair before either is used.

timm and ``torchvision.transforms`` import all of torchvision, whose import fails with an unreadable message where its
compiled operators do not load. Two causes look alike: versions that do not belong together, and a torchvision built
for CUDA beside a torch built for the CPU (package indexes have no CPU build of torchvision for Linux). The first is an
error. In the second the Python parts work: vitrine uses none of the compiled operators, so their names are declared,
which is all that the import wants.
"""

from __future__ import annotations

from importlib import metadata

from packaging.specifiers import SpecifierSet

from vitrine.errors import EnvironmentMismatchError

_declared: list[object] = []  # a torch.library.Library undeclares its operators when it is garbage collected


def matching_torchvision(torch_version: str) -> str:
    """The torchvision that belongs to a torch version, as pip writes it: ``==0.28.*`` or ``>=0.29.1``.

    torchvision 0.N is released with torch 2.(N - 15), up to torch 2.14; from 0.29.1 on, one torchvision serves every
    torch from 2.14 on. Sources: the compatibility table in torchvision's README; the requirements in its wheels.
    """
    major, minor = (int(part) for part in torch_version.split("+")[0].split(".")[:2])
    if (major, minor) < (2, 11):
        raise EnvironmentMismatchError(f"torch {torch_version} is not supported: vitrine needs torch 2.11 or newer.")
    if (major, minor) < (2, 14):
        return f"==0.{minor + 15}.*"
    return ">=0.29" if (major, minor) == (2, 14) else ">=0.29.1"


def check_versions(torch_version: str, torchvision_version: str) -> None:
    """Raise :class:`EnvironmentMismatchError` unless the two versions belong together."""
    wanted = matching_torchvision(torch_version)
    if not SpecifierSet(wanted).contains(torchvision_version, prereleases=True):
        raise EnvironmentMismatchError(
            f"torch {torch_version} and torchvision {torchvision_version} do not belong together: "
            f"this torch needs torchvision {wanted}.\n"
            f"Install a matching pair, for example: pip install 'torchvision{wanted}'"
        )


def require_torchvision() -> None:
    """Make ``import torchvision`` (and with it timm) safe, or say why it cannot be.

    Raises:
        EnvironmentMismatchError: a package is missing, or the two versions do not belong together.
    """
    try:
        check_versions(metadata.version("torch"), metadata.version("torchvision"))
    except metadata.PackageNotFoundError as missing:
        raise EnvironmentMismatchError(
            f"The package {missing.name} is not installed. Install vitrine with its dependencies: pip install vitrine"
        ) from missing
    import torch

    if torch.version.cuda is not None or _declared:
        return
    if _compiled_operators_load():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)


def _compiled_operators_load() -> bool:
    from importlib.util import find_spec
    from pathlib import Path

    import torch

    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    compiled = sorted(Path(spec.origin).parent.glob("_C*.so"))
    if not compiled:
        return False
    try:
        torch.ops.load_library(str(compiled[0]))
    except OSError:
        return False
    return True
