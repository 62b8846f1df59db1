"""What /metrics says: requests, batches, the queue, and what is held. One registry a server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServerMetrics:
    """Numbers of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "vitrine_requests", "Requests by path and status.", ("path", "status"), registry=self._registry
        )
        self._latency = Histogram(
            "vitrine_request_seconds", "Time to answer.", ("path",), buckets=_SECONDS, registry=self._registry
        )
        self._batch = Histogram(
            "vitrine_batch_pictures", "Jobs that ran together.", buckets=(1, 2, 4, 8, 12, 16), registry=self._registry
        )
        self._busy = Counter("vitrine_model_seconds", "Time that the model ran.", registry=self._registry)

    def watch(self, queue_length: Callable[[], int], held: Callable[[], int]) -> None:
        """Also tell how many jobs wait, and how many bytes are held."""
        queue = Gauge("vitrine_queue_jobs", "Jobs that wait for the model.", registry=self._registry)
        queue.set_function(lambda: float(queue_length()))
        memory = Gauge("vitrine_held_bytes", "Encoded pictures held for further views.", registry=self._registry)
        memory.set_function(lambda: float(held()))

    def answered(self, path: str, status: int, seconds: float) -> None:
        """One request is done. ``path`` is a route's, never what was asked for: there are few of them."""
        self._requests.labels(path, str(status)).inc()
        self._latency.labels(path).observe(seconds)

    def ran(self, count: int, seconds: float) -> None:
        """The model ran once."""
        self._batch.observe(count)
        self._busy.inc(seconds)

    def response(self) -> Response:
        """In Prometheus' text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
