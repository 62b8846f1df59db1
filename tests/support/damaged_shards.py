"""Shards with something wrong in them."""

from __future__ import annotations

from pathlib import Path


def damage_first_picture(shard: Path) -> None:
    """Overwrite pixels of the first PNG that a shard holds; its header and all other members stay."""
    content = bytearray(shard.read_bytes())
    place = content.find(b"IDAT")
    content[place : place + 40] = b"?" * 40
    shard.write_bytes(content)
