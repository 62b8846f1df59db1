"""Errors that a request is answered with: a status, a sentence for a person, and a code for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response


class ApiError(Exception):
    """A request that cannot be served.

    Attributes:
        status: HTTP status, 4xx or 5xx.
        message: what was expected, what was found, what to do.
        code: one word for programs.
        retry_after: seconds after which to try again; None leaves the header out.
    """

    def __init__(self, status: int, message: str, code: str = "refused", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.retry_after = status, message, code, retry_after

    def response(self) -> Response:
        """The error as JSON, ``{"error": message, "code": code}``."""
        headers: Mapping[str, str] = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        body = json.dumps({"error": self.message, "code": self.code}, ensure_ascii=False)
        return Response(body.encode("utf-8", "backslashreplace"), self.status, headers, "application/json")


def queue_full_error() -> ApiError:
    """No more jobs fit into the model's queue."""
    return ApiError(503, "The model is busy and its queue is full: ask again in a second.", "busy", retry_after=1)


def gone_error() -> ApiError:
    """A picture that a request names by its sha256 is not kept any more."""
    return ApiError(404, "This picture is not held any more: send its bytes again.", "gone")


def memory_full_error() -> ApiError:
    """Pictures that are arriving take all the memory that there is for them."""
    return ApiError(503, "Too many pictures are arriving at once: send it again in a second.", "busy", retry_after=1)


def timeout_error(seconds: float) -> ApiError:
    """The answer was not ready within its time."""
    return ApiError(503, f"The answer took longer than {seconds:g} s and was given up.", "timeout", retry_after=5)
