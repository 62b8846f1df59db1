"""Photograph every page of the explorer and the head of a report at 1440 and 390 pixels, for the README and docs/.

    python tools/make_screenshots.py --demo demo

``demo`` is what ``vitrine demo -o demo`` has written; its best classifier, its captioner and the bundled model are
served. Needs playwright and a Chromium on the PATH.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
BUNDLED = "vitrine/scenes-tiny"
WIDTHS = {1440: (900, 1), 390: (844, 2)}  # height, pixels of the file a pixel of the page
LARGEST = 360_000  # bytes of a file
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


def best_run(demo: Path) -> Path:
    """The run of a classifier with the highest validation accuracy."""
    found = {}
    for file in sorted((demo / "runs").glob("*/metrics.json")):
        accuracy = json.loads(file.read_text("utf-8")).get("accuracy")
        if accuracy is not None:
            found[file.parent] = accuracy
    if not found:
        raise SystemExit(f"{demo} has no run of a classifier: expected a folder that vitrine demo has finished.")
    return max(found, key=lambda run: float(found[run]))


@contextmanager
def serving(demo: Path) -> Iterator[str]:
    """The address of an explorer of the demo's models, started where the demo's own paths begin."""
    references = [best_run(demo), demo / "runs" / "captioner"]
    names = [str(each.relative_to(demo.parent)) for each in references]
    command = [sys.executable, "-m", "vitrine", "serve", names[0], BUNDLED, names[1], "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=demo.parent, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip().rstrip("/")
        if not address:
            raise SystemExit("The explorer did not start; what it said is above.")
        yield address
    finally:
        process.terminate()
        process.wait()


def ask(home: str, path: str, **parameters: object) -> Any:
    """What the server answers to a POST without a body, or to a GET where there are no parameters."""
    query = urllib.parse.urlencode(parameters)
    request = urllib.request.Request(f"{home}{path}?{query}" if query else f"{home}{path}")
    request.method = "POST" if parameters else "GET"
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def telling_picture(home: str, model: dict[str, Any]) -> str:
    """The first sample whose answer depends on what its map marks, so that the first screenshot shows what that is."""
    for sample in model["samples"]:
        if ask(home, "/api/verdict", model=model["id"], sample=sample["id"])["flag"] == "depends":
            return f"{model['id']}/{sample['id']}"
    return f"{model['id']}/{model['samples'][0]['id']}"


def surest_caption(home: str, model: dict[str, Any]) -> str:
    """The sample whose caption has the highest mean log-probability a word, of those of eight words or more."""
    best, chosen = float("-inf"), model["samples"][0]["id"]
    for sample in model["samples"]:
        caption = ask(home, "/api/caption", model=model["id"], sample=sample["id"])
        words = len(caption["words"])
        if words >= 8 and caption["log_probability"] / words > best:
            best, chosen = caption["log_probability"] / words, sample["id"]
    return f"{model['id']}/{chosen}"


def features_view(model: dict[str, Any]) -> str:
    """The address of an early layer's features, and of what is like a patch in the middle."""
    rows, columns = model["grid"]
    patch = f"{rows // 2},{columns // 2}"
    return f"#/features?model={model['id']}&picture={model['id']}/{model['samples'][0]['id']}&layer=0&like={patch}"


def views(home: str) -> dict[str, str]:
    """The address of what each screenshot shows, by its name."""
    classifier, bundled, captioner = ask(home, "/api/models")["models"]
    picture, captioned = telling_picture(home, classifier), surest_caption(home, captioner)
    return {
        "classify": f"#/classify?picture={picture}",
        "beside": f"#/classify?picture={picture}&beside=0&layer2=1",
        "features": features_view(bundled),
        "positions": "#/positions",
        "caption": f"#/caption?picture={captioned}",
        "data": "#/data",
        "api": "#/api",
    }


def settled(page: Any) -> None:
    """Until nothing is asked and nothing is being checked."""
    page.wait_for_load_state("networkidle")
    for _ in range(600):
        if page.evaluate("!document.querySelector('.busy, [aria-busy=true], .badge[data-flag=\"not checked\"]')"):
            break
        page.wait_for_timeout(100)
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(300)


def write(picture: bytes, file: Path) -> None:
    """A PNG in steps of three of 256 in each colour, which packs well and is not seen; in larger ones where that is
    still too large. A palette of 256 would leave colour bars grey."""
    for step in (3, 5, 8, 12):
        with Image.open(io.BytesIO(picture)) as image:
            stepped = image.convert("RGB").point(lambda value, n=step: value if value > 250 else n * round(value / n))
        stepped.save(file, optimize=True)
        if file.stat().st_size <= LARGEST:
            break
    if file.stat().st_size > LARGEST:
        raise SystemExit(f"{file} has {file.stat().st_size} bytes; expected {LARGEST} at most.")


def photograph(browser: Any, home: str, width: int, scheme: str, addresses: dict[str, str], out: Path) -> None:
    """Every address at one width; dark ones are called so."""
    height, zoom = WIDTHS[width]
    page = browser.new_page(
        viewport={"width": width, "height": height},
        device_scale_factor=zoom,
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    for name, address in addresses.items():
        page.goto("about:blank")
        page.goto(f"{home}/{address}")
        settled(page)
        end = f"{name}-dark" if scheme == "dark" else name
        file = out / f"explorer-{end}-{width}.png"
        write(page.screenshot(), file)
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")
    page.close()


def photograph_report(browser: Any, demo: Path, width: int, out: Path) -> None:
    """The head of the demo's report, from disk."""
    height, zoom = WIDTHS[width]
    page = browser.new_page(viewport={"width": width, "height": round(1.5 * height)}, device_scale_factor=zoom)
    page.goto((demo / "report.html").as_uri())
    page.wait_for_timeout(500)
    file = out / f"report-{width}.png"
    write(page.screenshot(), file)
    print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--demo", type=Path, required=True, help="the folder that vitrine demo wrote")
    parser.add_argument("-o", "--out", type=Path, default=IMAGES, help="default: docs/images")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("There is no Chromium on the PATH: install it from the distribution's packages.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with serving(arguments.demo.resolve()) as home, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        addresses = views(home)
        for width in WIDTHS:
            photograph(browser, home, width, "light", addresses, arguments.out)
            photograph_report(browser, arguments.demo.resolve(), width, arguments.out)
        photograph(browser, home, 1440, "dark", {"classify": addresses["classify"]}, arguments.out)
        browser.close()


if __name__ == "__main__":
    main()
