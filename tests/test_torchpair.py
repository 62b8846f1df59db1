"""The torch and torchvision that are installed are checked as a pair, and made importable."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest
import torch

from vitrine import torchpair
from vitrine.errors import EnvironmentMismatchError


@pytest.mark.parametrize(
    ("torch_version", "torchvision_version"),
    # Every pair here was read from a torchvision wheel's own requirement on torch.
    [
        ("2.11.0", "0.26.0"),
        ("2.11.0+cu130", "0.26.0+cu130"),
        ("2.12.1", "0.27.1"),
        ("2.13.0", "0.28.0"),
        ("2.13.0+cpu", "0.28.0"),
        ("2.13.0.dev20260101", "0.28.0.dev20260101"),
        ("2.14.0", "0.29.0"),
        ("2.14.1", "0.29.1"),
        ("2.15.0", "0.29.1"),
        ("2.15.0+cpu", "0.29.2"),
    ],
)
def test_a_released_pair_is_accepted(torch_version: str, torchvision_version: str) -> None:
    torchpair.check_versions(torch_version, torchvision_version)


@pytest.mark.parametrize(
    ("torch_version", "torchvision_version", "wanted"),
    [
        ("2.13.0+cpu", "0.26.0", "==0.28.*"),
        ("2.13.0", "0.29.2", "==0.28.*"),
        ("2.11.0", "0.28.0", "==0.26.*"),
        ("2.14.0", "0.28.0", ">=0.29"),
        ("2.15.0", "0.29.0", ">=0.29.1"),
    ],
)
def test_a_mismatch_names_both_versions_and_the_remedy(
    torch_version: str, torchvision_version: str, wanted: str
) -> None:
    with pytest.raises(EnvironmentMismatchError) as caught:
        torchpair.check_versions(torch_version, torchvision_version)
    message = str(caught.value)
    assert torch_version in message
    assert torchvision_version in message
    assert f"pip install 'torchvision{wanted}'" in message
    assert len(message.splitlines()) <= 2
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("torch_version", ["1.13.1", "2.4.1", "2.10.0"])
def test_a_torch_that_is_too_old_is_refused(torch_version: str) -> None:
    with pytest.raises(EnvironmentMismatchError, match=r"needs torch 2\.11 or newer"):
        torchpair.matching_torchvision(torch_version)


def _versions(**known: str):
    def version(name: str) -> str:
        if name not in known:
            raise metadata.PackageNotFoundError(name)
        return known[name]

    return version


def test_what_is_installed_is_what_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", _versions(torch="2.13.0+cpu", torchvision="0.26.0"))
    with pytest.raises(EnvironmentMismatchError, match=r"torchvision 0\.26\.0 do not belong together"):
        torchpair.require_torchvision()


@pytest.mark.parametrize(("known", "missing"), [({"torch": "2.13.0"}, "torchvision"), ({}, "torch")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, known: dict[str, str], missing: str) -> None:
    monkeypatch.setattr(metadata, "version", _versions(**known))
    with pytest.raises(EnvironmentMismatchError, match=rf"The package {missing} is not installed.*pip install vitrine"):
        torchpair.require_torchvision()


class _RecordedLibrary:
    """Stands in for torch.library.Library and remembers what would have been declared."""

    made: list[_RecordedLibrary]

    def __init__(self, namespace: str, kind: str) -> None:
        self.namespace, self.kind, self.schemas = namespace, kind, []
        self.made.append(self)

    def define(self, schema: str) -> None:
        self.schemas.append(schema)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[_RecordedLibrary]:
    """The libraries that require_torchvision declares in a process where it has not run before."""
    monkeypatch.setattr(_RecordedLibrary, "made", [], raising=False)
    monkeypatch.setattr(torch.library, "Library", _RecordedLibrary)
    monkeypatch.setattr(torchpair, "_declared", [])
    monkeypatch.setattr(metadata, "version", _versions(torch="2.13.0", torchvision="0.28.0"))
    return _RecordedLibrary.made


def test_a_torchvision_that_works_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, recorded: list[_RecordedLibrary]
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torchpair, "_compiled_operators_load", lambda: True)
    torchpair.require_torchvision()
    assert recorded == []


def test_a_torch_for_cuda_is_left_alone(monkeypatch: pytest.MonkeyPatch, recorded: list[_RecordedLibrary]) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torchpair, "_compiled_operators_load", lambda: pytest.fail("nothing has to be tried"))
    torchpair.require_torchvision()
    assert recorded == []


def test_operators_that_do_not_load_are_declared_once(
    monkeypatch: pytest.MonkeyPatch, recorded: list[_RecordedLibrary]
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torchpair, "_compiled_operators_load", lambda: False)
    torchpair.require_torchvision()
    torchpair.require_torchvision()
    (library,) = recorded
    assert (library.namespace, library.kind) == ("torchvision", "FRAGMENT")
    assert [schema.split("(")[0] for schema in library.schemas] == ["nms", "qnms"]
    assert torchpair._declared == [library], "a library undeclares its operators when nothing refers to it"


def test_a_torchvision_without_compiled_operators_is_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("site") / "torchvision"
    folder.mkdir()
    (folder / "__init__.py").touch()

    class _Spec:
        origin = str(folder / "__init__.py")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: _Spec if name == "torchvision" else None)
    assert not torchpair._compiled_operators_load(), "there is no compiled file"
    (folder / "_C.so").write_bytes(b"not a library")
    assert not torchpair._compiled_operators_load(), "the compiled file does not load"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not torchpair._compiled_operators_load(), "there is no torchvision"


def test_the_installed_pair_can_be_used() -> None:
    """In a fresh process, with whatever build is installed here: transforms work on pixels, and timm builds a model."""
    program = """
from vitrine.torchpair import require_torchvision
require_torchvision()
require_torchvision()
import timm, torch
from torchvision.transforms import v2
pixels = torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4)
assert torch.equal(v2.functional.horizontal_flip(pixels), pixels.flip(-1))
model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=1, num_classes=5)
print(tuple(model(torch.zeros(2, 3, 16, 16)).shape))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 5)"
