"""What a request is refused with: a status, one sentence, and a word that a program can act on."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response


class ApiError(Exception):
    """A request that is not served.

    Attributes:
        status: HTTP's, 4xx or 503.
        sentence: what was expected, what was found, what to do.
        code: one word for programs.
        retry_after: seconds after which to ask again; None says nothing of it.
    """

    def __init__(self, status: int, sentence: str, code: str = "refused", retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.code, self.retry_after = status, sentence, code, retry_after

    def response(self) -> Response:
        """As it is sent."""
        headers: Mapping[str, str] = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        body = json.dumps({"error": self.sentence, "code": self.code}, ensure_ascii=False)
        return Response(body.encode("utf-8", "backslashreplace"), self.status, headers, "application/json")


def queue_full_error() -> ApiError:
    """The queue is full."""
    return ApiError(503, "The model is busy and its queue is full: ask again in a second.", "busy", retry_after=1)


def timeout_error(seconds: float) -> ApiError:
    """The answer did not come in time."""
    return ApiError(503, f"The answer took longer than {seconds:g} s and was given up.", "timeout", retry_after=5)
