"""How much of a model's speed is left when 32 clients ask a server for it, and does its memory stay flat?

    python benchmarks/serve.py                        ViT-Ti at 224 px, 32 clients, beside the model in a tight loop
    python benchmarks/serve.py --requests 10000       how memory grows over so many requests
    python benchmarks/serve.py --half-open 500        with and without connections that never end their header
    python benchmarks/serve.py --model vit_base_patch16_224 --rounds 3

What is measured, and how, is in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vitrine.classify.model import open_classifier
from vitrine.models.load import load_model
from vitrine.runs.folder import RunFolder
from vitrine.serve.classifier import ServedClassifier

SIZES = (1, 2, 4, 8, 16, 32, 64)  # batch sizes of the tight loop
WANTED = 0.85  # of the tight loop's pictures/s


@dataclass
class Load:
    """What came of some seconds of load: latencies in seconds, and answers that were not 200."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Pictures answered a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, share: float) -> float:
        """Of the latencies, in milliseconds."""
        return 1000 * float(np.quantile(self.latencies, share)) if self.latencies else float("nan")


def make_model(folder: Path, name: str, image: int) -> None:
    """A run folder of this model with random weights: speed does not depend on them."""
    torch.manual_seed(0)
    built = load_model(name, pretrained=False, num_classes=37, image_size=image)
    RunFolder(folder).save_model(built.module, [f"class {i}" for i in range(37)], built.input)


def make_pictures(count: int, width: int, height: int) -> list[bytes]:
    """JPEG files of blurred noise with some grain, each another one."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
        grain = rng.integers(-12, 12, smooth.shape, dtype=np.int16)
        written = io.BytesIO()
        Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(written, "JPEG", quality=90)
        pictures.append(written.getvalue())
    return pictures


@contextmanager
def server(folder: Path, threads: int) -> Iterator[tuple[str, int, int]]:
    """``vitrine serve`` in a process of its own: host, port and process id."""
    command = [sys.executable, "-m", "vitrine", "serve", str(folder), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        host, _, port = address.removeprefix("http://").rstrip("/").partition(":")
        yield host, int(port), process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "the server did not end by itself"
    finally:
        process.kill()


class Client:
    """One connection that is kept, and asks for one picture after the other."""

    def __init__(self, host: str, port: int, path: str) -> None:
        self._host, self._port, self._path = host, port, path

    async def connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)

    async def ask(self, picture: bytes) -> int:
        """The status of the answer; its body is read."""
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: image/jpeg\r\n"
            f"Content-Length: {len(picture)}\r\n\r\n"
        )
        self._writer.write(head.encode("ascii") + picture)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        lines = answer.decode("latin-1").lower().split("\r\n")
        length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
        await self._reader.readexactly(length)
        return int(lines[0].split()[1])


async def _load(place: tuple[str, int], path: str, pictures: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Every client asks again as soon as it has its answer, for this long."""
    load, crowd = Load(), [Client(*place, path) for _ in range(clients)]
    for client in crowd:
        await client.connect()
    began = time.perf_counter()

    async def keep_asking(number: int, client: Client) -> None:
        turn = number
        while time.perf_counter() - began < seconds:
            asked = time.perf_counter()
            status = await client.ask(pictures[turn % len(pictures)])
            turn += clients
            if status == 200:
                load.latencies.append(time.perf_counter() - asked)
            else:
                load.errors.append(str(status))

    await asyncio.gather(*(keep_asking(number, client) for number, client in enumerate(crowd)))
    load.seconds = time.perf_counter() - began
    return load


async def _load_beside_half_open(
    place: tuple[str, int], pictures: Sequence[bytes], clients: int, seconds: float, count: int
) -> Load:
    """The same beside connections that each begin a header and never end it, and come again when they are closed."""

    async def keep_half_open() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(*place)
                writer.write(b"POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
                await reader.read()
                writer.close()
            except OSError:
                await asyncio.sleep(0.1)

    crowd = [asyncio.create_task(keep_half_open()) for _ in range(count)]
    await asyncio.sleep(1)
    load = await _load(place, "/api/predict", pictures, clients, seconds)
    for each in crowd:
        each.cancel()
    await asyncio.gather(*crowd, return_exceptions=True)
    return load


def compare_half_open(options: argparse.Namespace, folder: Path, pictures: Sequence[bytes]) -> dict[str, object]:
    """Rounds with and without half-open connections, one after the other."""
    loads: dict[int, list[Load]] = {0: [], options.half_open: []}
    with server(folder, options.threads) as (host, port, _):
        asyncio.run(_load((host, port), "/api/predict", pictures, options.clients, 2))  # warm-up
        for number in range(options.rounds):
            for count in sorted(loads, reverse=bool(number % 2)):
                load = _load_beside_half_open((host, port), pictures, options.clients, options.seconds, count)
                loads[count].append(asyncio.run(load))
    alone, beside = loads[0], loads[options.half_open]
    ratios = [each.per_second / other.per_second for each, other in zip(beside, alone, strict=True)]
    return {
        "model": options.model,
        "threads": options.threads,
        "clients": options.clients,
        "half_open": options.half_open,
        "alone_per_second": statistics.median(load.per_second for load in alone),
        "beside_per_second": statistics.median(load.per_second for load in beside),
        "share_of_alone": statistics.median(ratios),
        "share_lowest": min(ratios),
        "share_highest": max(ratios),
        "errors": [error for load in alone + beside for error in load.errors],
    }


def tight_loop(served: ServedClassifier, squares: Sequence[torch.Tensor], size: int, seconds: float) -> float:
    """Pictures a second of the model on pictures that are decoded and in memory."""
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        served.predict([squares[i % len(squares)] for i in range(done, done + size)])
        done += size
    return done / (time.perf_counter() - began)


def resident_mib(process: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmRSS")


def compare(options: argparse.Namespace, folder: Path, pictures: Sequence[bytes]) -> dict[str, object]:
    """Rounds of server and tight loop, one after the other, on the same cores."""
    opened = open_classifier(str(folder))
    served = ServedClassifier("0", str(folder), opened)
    squares = [served.prepare(Image.open(io.BytesIO(each)).convert("RGB")) for each in pictures]
    decode = statistics.median(
        _seconds(lambda each=each: served.prepare(Image.open(io.BytesIO(each)).convert("RGB"))) for each in pictures
    )
    for size in SIZES:
        tight_loop(served, squares, size, 0.3)
    speeds = {size: tight_loop(served, squares, size, options.seconds / 4) for size in SIZES}
    best = max(speeds, key=lambda size: speeds[size])
    print(f"tight loop by batch size: {', '.join(f'{size}: {speed:.1f}/s' for size, speed in speeds.items())}")
    loads, loops = [], []
    with server(folder, options.threads) as (host, port, _):
        asyncio.run(_load((host, port), "/api/predict", pictures, options.clients, 2))  # warm-up
        for number in range(options.rounds):
            for what in ("server", "loop") if number % 2 == 0 else ("loop", "server"):
                if what == "loop":
                    loops.append(tight_loop(served, squares, best, options.seconds))
                else:
                    loads.append(
                        asyncio.run(_load((host, port), "/api/predict", pictures, options.clients, options.seconds))
                    )
    ratios = [load.per_second / loop for load, loop in zip(loads, loops, strict=True)]
    return {
        "model": options.model,
        "precision": opened.precision,
        "threads": options.threads,
        "clients": options.clients,
        "picture": options.picture,
        "best_batch": best,
        "tight_loop_per_second": statistics.median(loops),
        "server_per_second": statistics.median(load.per_second for load in loads),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "decode_ms": 1000 * decode,
        "answers": sum(len(load.latencies) for load in loads),
        "errors": [error for load in loads for error in load.errors],
        "p50_ms": statistics.median(load.quantile(0.5) for load in loads),
        "p99_ms": max(load.quantile(0.99) for load in loads),
    }


def _seconds(work) -> float:  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def grow(options: argparse.Namespace, folder: Path, pictures: Sequence[bytes]) -> dict[str, object]:
    """Resident memory of the server over many requests: predictions and maps, half and half."""
    with server(folder, options.threads) as (host, port, process):
        told, errors, done, part = [], 0, 0, max(1, options.requests // 10)
        while done < options.requests:
            load = asyncio.run(
                _count((host, port), pictures, options.clients, min(part, options.requests - done), done)
            )
            done, errors = done + len(load.latencies) + len(load.errors), errors + len(load.errors)
            told.append((done, resident_mib(process)))
            print(f"{done:>7,} requests: {told[-1][1]:.0f} MiB", flush=True)
    settled = told[len(told) // 2 :]
    slope = np.polyfit(*np.array(settled, dtype=float).T, 1)[0] if len(settled) > 1 else float("nan")
    return {
        "requests": done,
        "errors": errors,
        "resident_mib": [round(each, 1) for _, each in told],
        "growth_second_half_mib": settled[-1][1] - settled[0][1],
        "mib_a_thousand_requests": 1000 * float(slope),
    }


async def _count(place: tuple[str, int], pictures: Sequence[bytes], clients: int, count: int, first: int) -> Load:
    load, crowd = Load(), [(Client(*place, "/api/predict"), Client(*place, "/api/explain")) for _ in range(clients)]
    left = iter(range(first, first + count))

    async def keep_asking(both: tuple[Client, Client]) -> None:
        for client in both:
            await client.connect()
        for number in left:
            # Bytes behind the end of a JPEG change its hash and nothing else: every picture is another one.
            picture = pictures[number % len(pictures)] + number.to_bytes(8, "big")
            asked = time.perf_counter()
            status = await both[number % 2].ask(picture)
            if status == 200:
                load.latencies.append(time.perf_counter() - asked)
            else:
                load.errors.append(str(status))

    await asyncio.gather(*map(keep_asking, crowd))
    return load


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--image", type=int, default=224, help="side of the model's input, pixels")
    parser.add_argument("--picture", default="256x256", help="width x height of the JPEG files that are sent")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--requests", type=int, default=0, help="measure memory over so many requests instead")
    parser.add_argument("--half-open", type=int, default=0, help="measure beside so many half-open connections instead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    width, _, height = options.picture.partition("x")
    pictures = make_pictures(64, int(width), int(height))
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), options.model, options.image)
        measure = grow if options.requests else compare_half_open if options.half_open else compare
        found = measure(options, Path(folder), pictures)
    found |= {"torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count()}
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(
            f"{name.replace('_', ' '):26} {value:.3f}"
            if isinstance(value, float)
            else f"{name.replace('_', ' '):26} {value}"
        )
    if "ratio" in found:
        print(f"{100 * float(str(found['ratio'])):.1f} % of the tight loop (wanted: {100 * WANTED:.0f} %)")


if __name__ == "__main__":
    main()
