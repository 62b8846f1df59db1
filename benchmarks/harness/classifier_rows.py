"""Rows of a classifier: pictures a second, beside a plain loop, and as a share of the machine's matrix rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from harness.arithmetic import DTYPES, TRAINING, forward_operations, matrix_work
from harness.classifier import ClassifierWork
from harness.profile import slowest
from harness.rounds import Spread, alternate, ratios
from harness.rows import Row

MATRIX_RATE = "matrix rate"
PLAIN = "timm's own loop, fp32"
AIMS = {"inference": 0.7, "training": 0.6}
"""Shares of the matrix rate below which a row says what takes its time."""


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
