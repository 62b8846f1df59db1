"""``tools/install_side_by_side.py``: two piles of what pip reports, and nothing where it cannot."""

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


def reported(name: str, url: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "download_info": {"url": url, **more}}


def test_piles_are_of_one_size_and_families_stay_together(tmp_path: Path) -> None:
    sizes = {"torch": 5, "nvidia-cublas": 3, "nvidia_cudnn": 3, "ray": 2, "big one": 2}
    for name, megabytes in sizes.items():
        with (tmp_path / f"{name}.whl").open("wb") as stream:
            stream.truncate(megabytes << 20)
    distributions = [reported(name, (tmp_path / f"{name}.whl").as_uri()) for name in sizes]
    distributions += [
        reported("small", "https://localhost/small.whl"),
        reported("vitrine", "file:///here", dir_info={}),
    ]
    piles = [{address.rpartition("/")[2] for address in pile} for pile in load_tool().two_piles(distributions)]
    assert piles == [{"nvidia-cublas.whl", "nvidia_cudnn.whl", "ray.whl"}, {"torch.whl", "big%20one.whl", "small.whl"}]


def test_without_a_report_there_is_nothing_to_install(monkeypatch: Any) -> None:
    tool = load_tool()
    monkeypatch.setattr(tool, "PIP", ("false",))
    assert tool.resolve(".[dev]") == []
