"""What the types do not say of the API: bodies that are a picture's bytes."""

from __future__ import annotations

from typing import Any

_BYTES = {"schema": {"type": "string", "format": "binary"}}

PICTURE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": False,
        "description": "The picture's bytes; none with ?sample= or ?picture=.",
        "content": dict.fromkeys(("application/octet-stream", "image/jpeg", "image/png", "image/webp"), _BYTES),
    }
}
