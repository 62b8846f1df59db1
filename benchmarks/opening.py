"""The memory that opening a weights file and a first result take, beside other tools that do the same.

    python benchmarks/opening.py                  half a minute of processor time

What is measured, and how, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from harness.peak_memory import field_kib, own_peak_mib

ARCHITECTURE = "vit_base_patch16_224"
PICTURES, WORDS, SIDE = 4, 5, 299
CLOSE = 1e-3  # between logits of two tools in float32
FILES = {"classifier": "vit.safetensors", "transformers": "hf/model.safetensors", "captioner": "catr.pth"}


@dataclass(frozen=True)
class Opened:
    """One tool's process.

    Attributes:
        opening, working: the peak of resident memory until the model was open, and until the result, in MiB above what
            the imports took.
        result: what is compared.
    """

    opening: float
    working: float
    result: list[float]


def make_files(folder: Path) -> None:
    """Weights that are random: a classifier for timm, one for transformers, and a captioner of the published shapes."""
    import timm
    from harness.captioner import CaptionerWork
    from PIL import Image
    from safetensors.torch import save_file
    from transformers import ViTConfig, ViTForImageClassification

    from vitrine.models.captioner import published_weights

    torch.manual_seed(0)
    save_file(timm.create_model(ARCHITECTURE).state_dict(), folder / FILES["classifier"])
    ViTForImageClassification(ViTConfig(num_labels=1000)).save_pretrained(folder / "hf")
    captioner = CaptionerWork.made(CaptionerWork.__new__(CaptionerWork))
    weights = {name: value.contiguous() for name, value in published_weights(captioner.state_dict()).items()}
    torch.save({"model": weights}, folder / "catr.pth")
    save_file(weights, folder / "catr.safetensors")
    for number in range(PICTURES):
        Image.effect_noise((320, 280), 20 * (number + 1)).convert("RGB").save(folder / f"{number}.png")


def _pixels(folder: Path) -> torch.Tensor:
    """The pictures as timm prepares them for this model."""
    import timm
    from PIL import Image
    from timm.data import create_transform, resolve_model_data_config

    with torch.device("meta"):
        how = resolve_model_data_config(timm.create_model(ARCHITECTURE))
    transform = create_transform(**how)
    return torch.stack([transform(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def _vitrine(folder: Path, precision: str) -> Callable[[], Callable[[], object]]:
    import vitrine.api.model
    from vitrine.classify.model import open_classifier

    def opened() -> Callable[[], object]:
        classifier = open_classifier(str(folder / FILES["classifier"]), precision, ARCHITECTURE)
        model = vitrine.api.model.Model(classifier)
        return lambda: [each.logits[:4].tolist() for each in model.predict(sorted(folder.glob("*.png")))]

    return opened


def _timm(folder: Path) -> Callable[[], Callable[[], object]]:
    import timm
    from safetensors.torch import load_file

    pixels_BCHW = _pixels(folder)

    def opened() -> Callable[[], object]:
        model = timm.create_model(ARCHITECTURE)
        model.load_state_dict(load_file(folder / FILES["classifier"]))
        return lambda: model.eval()(pixels_BCHW)[:, :4].tolist()

    return opened


def _transformers(folder: Path) -> Callable[[], Callable[[], object]]:
    from transformers import ViTForImageClassification

    pixels_BCHW = _pixels(folder)

    def opened() -> Callable[[], object]:
        model = ViTForImageClassification.from_pretrained(folder / "hf")
        return lambda: model.eval()(pixels_BCHW).logits[:, :4].tolist()

    return opened


def _vitrine_captioner(folder: Path, name: str) -> Callable[[], Callable[[], object]]:
    from vitrine.caption.decoding import final_captions, greedy
    from vitrine.models.captioner import load_catr

    def opened() -> Callable[[], object]:
        model = load_catr(folder / name, ready=True)
        return lambda: final_captions(greedy(model, model.encode([_waves()]), max_tokens=WORDS))[0].ids

    return opened


def _published(folder: Path) -> Callable[[], Callable[[], object]]:
    from side_by_side.captioners import Published

    def opened() -> Callable[[], object]:
        model = Published(torch.load(folder / FILES["captioner"], weights_only=True)["model"])
        return lambda: model.words(_waves()[None], WORDS)

    return opened


def _waves() -> torch.Tensor:
    return torch.linspace(-1, 1, 3 * SIDE * SIDE).view(3, SIDE, SIDE).mul(40).sin()


TOOLS: Mapping[str, tuple[str, Callable[[Path], Callable[[], Callable[[], object]]]]] = {
    "vitrine, fp32": ("classifier", lambda folder: _vitrine(folder, "fp32")),
    "vitrine, precision auto": ("classifier", lambda folder: _vitrine(folder, "auto")),
    "timm, load_file": ("classifier", _timm),
    "transformers, from_pretrained": ("transformers", _transformers),
    "vitrine, captioner, .safetensors": ("captioner", lambda folder: _vitrine_captioner(folder, "catr.safetensors")),
    "vitrine, captioner, .pth": ("captioner", lambda folder: _vitrine_captioner(folder, "catr.pth")),
    "published captioner's way (stand-in), .pth": ("captioner", _published),
}
"""By name: the file, and what imports, then opens it, then works."""


def child(name: str, folder: Path) -> None:
    """Import, open, work, in this process; prints JSON."""
    torch.set_num_threads(1)
    with torch.inference_mode():
        opens = TOOLS[name][1](folder)
        before = field_kib(Path("/proc/self/status"), "VmRSS:") / 1024
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
        work = opens()
        opening = own_peak_mib() - before
        result = work()
    flat = torch.tensor(result, dtype=torch.float64).flatten().tolist()
    print(json.dumps({"opening": opening, "working": own_peak_mib() - before, "result": flat}))


def measure(folder: Path) -> dict[str, Opened]:
    """All tools, each in a process of its own."""
    rows = {}
    for name in TOOLS:
        command = [sys.executable, __file__, "--child", name, str(folder)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows[name] = Opened(**json.loads(done.stdout.splitlines()[-1]))
    return rows


def check(rows: Mapping[str, Opened]) -> str:
    """Stop unless tools that read one file give one result: logits within :data:`CLOSE`, and the same words."""
    pairs = (("vitrine, fp32", "timm, load_file"), *((name, list(TOOLS)[-1]) for name in list(TOOLS)[-3:-1]))
    gaps = [max(abs(a - b) for a, b in zip(rows[one].result, rows[other].result, strict=True)) for one, other in pairs]
    if max(gaps) > CLOSE:
        sys.exit(f"The tools differ ({dict(zip(pairs, gaps, strict=True))}): their memory is not of the same work.")
    return f"Logits of {PICTURES} pictures within {gaps[0]:.1g}, {WORDS} words equal."


def main() -> None:
    """Make files, measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=2, metavar=("TOOL", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "hf").mkdir()
        make_files(folder)
        sizes = {kind: (folder / name).stat().st_size / (1 << 20) for kind, name in FILES.items()}
        rows = measure(folder)
    print(check(rows))
    header = ("tool", "file, MiB", "open: peak above the imports, times the file", "with the result")
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for name, row in rows.items():
        size = sizes[TOOLS[name][0]]
        print(f"| {name} | {size:.0f} | {row.opening / size:.2f} | {row.working / size:.2f} |")


if __name__ == "__main__":
    main()
