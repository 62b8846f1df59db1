"""Pictures of shards: at a place in a file, or known to be of no use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vitrine.data.decoding import decode
from vitrine.errors import PictureError


@dataclass(frozen=True)
class ShardPicture:
    """A picture in a shard on this machine, read when it is looked at."""

    path: str
    offset: int
    size: int

    def encoded(self) -> bytes:
        """The picture's bytes.

        Raises:
            PictureError: the shard cannot be read, or ends before the picture does.
        """
        try:
            with Path(self.path).open("rb") as shard:
                shard.seek(self.offset)
                data = shard.read(self.size)
        except OSError as error:
            raise PictureError(f"its shard cannot be read: {error.strerror}") from error
        if len(data) < self.size:
            raise PictureError("its shard ends before it does")
        return data

    def decoded(self) -> Image.Image:
        """Upright 8-bit RGB; see :func:`vitrine.data.decoding.decode`."""
        return decode(self.encoded())


@dataclass(frozen=True)
class BrokenPicture:
    """A picture of which nothing is left but why it cannot be used."""

    reason: str

    def encoded(self) -> bytes:
        """Raises PictureError."""
        raise PictureError(self.reason)

    def decoded(self) -> Image.Image:
        """Raises PictureError."""
        raise PictureError(self.reason)
