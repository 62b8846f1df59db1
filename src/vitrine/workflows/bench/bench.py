"""``vitrine bench``: what this machine does a second, and how near that is to what it can."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from vitrine.models.precision import bf16_in_hardware, default_device
from vitrine.models.run_folder import to_json, write_atomically
from vitrine.workflows.bench.arithmetic import DTYPES, TRAINING, forward_operations, matrix_work
from vitrine.workflows.bench.captioner import CaptionerWork
from vitrine.workflows.bench.classifier import ClassifierWork
from vitrine.workflows.bench.profile import slowest
from vitrine.workflows.bench.rounds import Spread, alternate, ratios
from vitrine.workflows.bench.rows import Results, Row
from vitrine.workflows.environment import describe_environment

MATRIX_RATE = "matrix rate"
PLAIN = "timm's own loop, fp32"
HOW = """What `vitrine bench` measured here: vitrine's own work on pictures in memory, beside the plain float32 loop
over the same module, and beside one large matrix product in the same rounds. Medians over rounds with the lowest and
the highest; ratios and shares are taken round by round; one round before them does not count."""
AIMS = {"inference": 0.7, "training": 0.6}
"""Shares of the matrix rate below which a row says what takes its time."""


@dataclass(frozen=True)
class BenchSettings:
    """What is measured.

    Attributes:
        model: timm name of a plain vision transformer with a class token.
        images: sides in pixels.
        batches: pictures of a batch.
        rounds: that count.
        words: of a caption; 0 leaves captions out.
        caption_image: side of a captioned picture.
        beams: of beam search.
        caption_batch: captions of a batch.
    """

    model: str = "vit_base_patch16_224"
    images: tuple[int, ...] = (224, 384)
    batches: tuple[int, ...] = (8, 16)
    rounds: int = 3
    words: int = 20
    caption_image: int = 299
    beams: int = 5
    caption_batch: int = 8


QUICK = BenchSettings("vit_tiny_patch16_224", (64,), (4,), 1, 4, 96, 2, 2)
"""A minute on two cores; its figures say only that everything runs."""


def bench(
    settings: BenchSettings, out: Path | None = None, report: Callable[[str], None] = lambda _line: None
) -> Results:
    """Measure.

    Args:
        settings: sizes and rounds.
        out: a folder for RESULTS.md and results.json; None writes nothing.
        report: called with a line about what is measured next.

    Raises:
        ModelError: there is no such model.
        ValueError: two ways to one result differ; nothing of it was timed.
    """
    began = time.perf_counter()
    rows: list[Row] = []
    for image in settings.images:
        for batch in settings.batches:
            report(f"{settings.model}, {image} px, batch {batch}")
            rows += list(classifier_rows(settings.model, image, batch, settings.rounds))
    if settings.words:
        report(f"captions of {settings.words} words")
        rows += list(_caption_rows(settings))
    machine = describe_environment(default_device())
    packages = machine.pop("packages")
    machine |= {"bf16 in hardware": bf16_in_hardware(default_device())} | packages
    results = Results(machine, asdict(settings), tuple(rows), (time.perf_counter() - began) / 60)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "results.json", to_json(results.to_dict()))
        write_atomically(out / "RESULTS.md", results.page("Measured on this machine", HOW))
    return results


def classifier_rows(
    model: str, image: int, batch: int, rounds: int, *, plain: bool = True, device: torch.device | None = None
) -> Iterator[Row]:
    """Inference, maps and training steps, beside one matrix product and, with ``plain``, beside timm's own loop.

    On a device; None chooses. Shares are of the whole model's arithmetic, though of the last block not all is done.
    Beside the rate in bf16 stands that in float32: no program in bf16 is more times as fast than one in float32 that
    reaches its own rate.
    """
    work = ClassifierWork(model, image, batch, device=device)
    loop, batches = (work.plain() if plain else None), work.plain_batches()
    operations = forward_operations(work.module, image, image)
    matrix, in_fp32 = f"matrix product, {work.precision}", "matrix product, fp32"
    products = {name: matrix_work(work.device, name.rpartition(" ")[2]) for name in (matrix, in_fp32)}
    checks = {
        "inference": work.check_logits(),
        "inference with maps": work.check_maps(),
        "training": work.check_training(),
    }
    size = f"{model}, {image} px, batch {batch}, {work.precision}"
    for pieces in ({"inference": work.infer, "inference with maps": work.map_batch}, {"training": work.step}):
        ways: dict[str, Callable[[], float]] = {**products, **pieces}
        if loop is not None:
            plainly = loop.train if "training" in pieces else loop.infer
            ways[PLAIN] = lambda run=plainly: run(batches)  # type: ignore[misc]
        speeds = alternate(ways, rounds=rounds)
        for section in pieces:
            own = speeds[section]
            factor = operations * (TRAINING if section == "training" else 1)
            share = ratios([factor * rate for rate in own], speeds[matrix])
            beside = {PLAIN: ratios(own, speeds[PLAIN])} if loop is not None else {}
            if section == "inference with maps":
                beside["no map"] = ratios(own, speeds["inference"])
            run = work.step if section == "training" else work.infer
            note = slowest(run, work.device) if share.median < AIMS.get(section, 0.0) else ""
            check = checks[section]
            yield Row(section, size, "pictures/s", Spread.of(own), check, beside, share, note=note)
    giga = Spread.of([rate / 1e9 for rate in speeds[matrix]])
    beside = {} if matrix == in_fp32 else {in_fp32: ratios(speeds[matrix], speeds[in_fp32])}
    check = _check_product(work.device, work.precision)
    yield Row(MATRIX_RATE, f"{matrix}, beside {size}", "Gop/s", giga, check, beside)


def _check_product(device: torch.device, precision: str) -> str:
    """Compare a product of the same kind with one in float64."""
    first, second = (torch.randn(64, 512, dtype=torch.float64) for _ in range(2))
    dtype = DTYPES[precision]
    product = (first.to(device=device, dtype=dtype) @ second.to(device=device, dtype=dtype).T).double().cpu()
    far = float((product - first @ second.T).abs().max() / (first @ second.T).std())
    if not far <= (0.1 if precision == "bf16" else 1e-4):
        raise ValueError(f"Nothing was timed: a matrix product in {precision} differs by {far:.3g} from float64.")
    return f"a matrix product in {precision} with float64 within {far:.1g} standard deviations."


def _caption_rows(settings: BenchSettings) -> Iterator[Row]:
    work = CaptionerWork(settings.caption_image, settings.words, settings.beams, settings.caption_batch)
    check = work.check()
    precisions = ["fp32"] + ["bf16"] * bf16_in_hardware(work.device)
    ways: dict[str, Callable[[], float]] = {}
    for precision in precisions:
        ways |= {
            f"one picture, greedy, {precision}": lambda p=precision: len(work.one(p)),  # type: ignore[misc]
            f"one picture, {work.beams} beams, {precision}": lambda p=precision: len(work.searched(p)),  # type: ignore[misc]
            f"batch of {work.batch}, {precision}": lambda p=precision: len(work.many(p)),  # type: ignore[misc]
        }
    first = next(iter(ways))
    speeds = alternate(ways, rounds=settings.rounds)
    for name, own in speeds.items():
        beside = {} if name == first else {first: ratios(own, speeds[first])}
        title = f"{name}, {settings.words} words, {settings.caption_image} px"
        yield Row("captions", title, "captions/s", Spread.of(own), check, beside)
