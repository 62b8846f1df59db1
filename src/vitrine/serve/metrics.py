"""Prometheus metrics of one server, as /metrics sends them: requests, batches, the queue, and cached memory."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServerMetrics:
    """Counters and gauges of one server, in a registry of their own."""

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
        self._model_seconds = Counter("vitrine_model_seconds", "Time that the model ran.", registry=self._registry)

    def add_gauges(self, queue_length: Callable[[], int], cached_bytes: Callable[[], int]) -> None:
        """Also report the number of jobs in the queue and the bytes of cached encodings, read when they are asked for.

        Args:
            queue_length: gives the number of waiting jobs.
            cached_bytes: gives the bytes of cached encodings.
        """
        queue = Gauge("vitrine_queue_jobs", "Jobs that wait for the model.", registry=self._registry)
        queue.set_function(lambda: float(queue_length()))
        memory = Gauge("vitrine_held_bytes", "Encoded pictures held for further views.", registry=self._registry)
        memory.set_function(lambda: float(cached_bytes()))

    def record_request(self, path: str, status: int, seconds: float) -> None:
        """Count one answered request; ``path`` is the route's pattern, not the path that was asked for."""
        self._requests.labels(path, str(status)).inc()
        self._latency.labels(path).observe(seconds)

    def record_batch(self, count: int, seconds: float) -> None:
        """Count one run of the model: the number of jobs in it, and its seconds."""
        self._batch.observe(count)
        self._model_seconds.inc(seconds)

    def response(self) -> Response:
        """All metrics in Prometheus' text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
