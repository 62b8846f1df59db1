"""``tools/install_side_by_side.py``: what is needed, two piles of it, and nothing where pip cannot say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from support.paths import CHECKOUT


def load_tool() -> Any:
    spec = importlib.util.spec_from_file_location(
        "install_side_by_side", CHECKOUT / "tools" / "install_side_by_side.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reported(name: str, url: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "download_info": {"url": url}}


def test_extras_that_name_extras_are_followed() -> None:
    extras = {"one": ["a>=1"], "two": ["own[one, three]", "b"], "three": ["c[x]"], "four": ["d"]}
    project = {"name": "own", "dependencies": ["z>=2"], "optional-dependencies": extras}
    assert load_tool().requirements(project, []) == {"z>=2"}
    assert load_tool().requirements(project, ["two"]) == {"z>=2", "a>=1", "b", "c[x]"}


def test_piles_are_of_one_size_and_families_stay_together(tmp_path: Path) -> None:
    sizes = {"torch": 5, "nvidia-cublas": 3, "nvidia_cudnn": 3, "ray": 2, "big one": 2}
    for name, megabytes in sizes.items():
        with (tmp_path / f"{name}.whl").open("wb") as stream:
            stream.truncate(megabytes << 20)
    distributions = [reported(name, (tmp_path / f"{name}.whl").as_uri()) for name in sizes]
    distributions.append(reported("small", "https://localhost/small.whl"))
    piles = [{address.rpartition("/")[2] for address in pile} for pile in load_tool().two_piles(distributions)]
    assert piles == [{"nvidia-cublas.whl", "nvidia_cudnn.whl", "ray.whl"}, {"torch.whl", "big%20one.whl", "small.whl"}]


def test_without_a_report_there_is_nothing_to_install(monkeypatch: Any) -> None:
    tool = load_tool()
    monkeypatch.setattr(tool, "PIP", ("false",))
    assert tool.resolve(["torch"]) == []
