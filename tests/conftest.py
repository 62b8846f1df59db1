"""What every test runs under, and the small data and runs that several of them share."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import settings
from PIL import Image
from support.card_figures import without_card_figures
from support.paths import TESTS
from support.warm_python import WarmPython

# A busy machine is slow now and then: how long one example takes says nothing about the code.
settings.register_profile("vitrine", deadline=None, max_examples=25)
settings.load_profile("vitrine")

# Files that take longest: begun first, so that no worker is left alone with one at the end.
_LONG = (
    "test_demo.py",
    "bulk/test_ray.py",
    "cli/test_app_stopped.py",
    "serve/test_page.py",
    "serve/test_page_classify.py",
    "train/test_distributed.py",
    "train/test_captioner.py",
    "train/test_run.py",
    "train/test_loop.py",
    "explain/test_run.py",
    "caption/test_run.py",
    "benchmarks/test_suite.py",
    "test_examples.py",
    "train/test_multi_label.py",
    "compare/test_claims.py",
    "train/test_feature_cache.py",
    "test_reproduce.py",
    "test_readme.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; else the order stays."""
    ranks = {TESTS / name: rank for rank, name in enumerate(_LONG)}
    items.sort(key=lambda item: ranks.get(item.path, len(_LONG)))


_WARM = pytest.StashKey[WarmPython]()


def pytest_collection() -> None:
    """What is imported and collected stays: nobody looks for garbage meanwhile, nor in it afterwards."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Everything is imported, and no test has run: the moment for a warm Python, where one of the tests wants it."""
    gc.freeze()
    gc.enable()
    if any("warm_python" in getattr(item, "fixturenames", ()) for item in session.items):
        folder = Path(tempfile.mkdtemp(prefix="w-"))  # short: a socket's path may not be long
        with without_card_figures():
            session.config.stash[_WARM] = WarmPython(folder)
        session.config.add_cleanup(session.config.stash[_WARM].stop)
        session.config.add_cleanup(lambda: shutil.rmtree(folder))


@pytest.fixture(scope="session")
def warm_python(pytestconfig: pytest.Config) -> str:
    """What to start in place of ``sys.executable``; see ``support/warm_python.py``."""
    return pytestconfig.stash[_WARM].executable


# Their tests look at what training leaves in a run folder.
_WITH_CARD_FIGURES = ("runs/test_model_card.py", "train/test_preview.py")


@pytest.fixture(scope="module", autouse=True)
def _card_figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Elsewhere the figures of model cards, and the pictures of what is trained on, are not drawn."""
    if request.path in {TESTS / name for name in _WITH_CARD_FIGURES}:
        yield
    else:
        with without_card_figures():
            yield


@pytest.fixture(scope="session", autouse=True)
def _hashes_of_like_pictures() -> Iterator[None]:
    """Many tests index the same few pictures: the perceptual hashes of equal pixels are computed once."""
    from vitrine.data import sample_index

    plain = sample_index.signature
    hashes: dict[tuple[object, ...], bytes | None] = {}

    def signature(picture: Image.Image) -> bytes | None:
        key = picture.mode, picture.size, sha256(picture.tobytes()).digest(), str(picture.getpalette())
        if key not in hashes:
            hashes[key] = plain(picture)
        return hashes[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_index, "signature", signature)
        yield


@pytest.fixture(scope="session")
def small_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of generated pictures of 32 px: 48 to train on, 24 to validate, 200 to test."""
    from vitrine.data.scenes import write_scenes

    folder = tmp_path_factory.mktemp("data") / "scenes"
    return write_scenes(folder, "new", {"train": 48, "validation": 24, "test": 200}, size=32)


@pytest.fixture(scope="session")
def small_run(small_scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a micro model on ``small_scenes``."""
    from support.models import MICRO

    from vitrine.config import Recipe, named_transforms
    from vitrine.train.run import train

    recipe = Recipe(
        name="micro",
        model="vit_tiny_patch16_224",
        model_args=MICRO,
        pretrained=False,
        image_size=32,
        transforms=named_transforms("scenes"),
        batch_size=16,
        epochs=2,
        learning_rate=2e-3,
        workers=0,
        precision="fp32",
    )
    return train(str(small_scenes), recipe, tmp_path_factory.mktemp("runs") / "micro").run


@pytest.fixture(scope="session")
def multi_label_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of generated pictures of 32 px with the colours of all their objects: 64 to train on, 40 to validate."""
    from support.multi_label import write_multi_label_data

    return write_multi_label_data(tmp_path_factory.mktemp("colours"), 64, 40)


@pytest.fixture(scope="session")
def multi_label_run(multi_label_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a micro model on ``multi_label_data``."""
    from support.training import recipe

    from vitrine.train.run import train

    settings = recipe(class_weights="balanced", label_smoothing=0.1, epochs=3)
    return train(f"{multi_label_data}?label=colours", settings, tmp_path_factory.mktemp("runs") / "colours").run


@pytest.fixture
def vitrine_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The command line inside this process: arguments to (exit status, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from vitrine.cli import main

        monkeypatch.setattr("sys.argv", ["vitrine", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        return int(stopped.value.code or 0), shown.out, shown.err

    return run
