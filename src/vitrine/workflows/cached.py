"""What ``vitrine cache`` shows: what lies in the cache folder, and what was removed from it.

Sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrine.models.cache import CachedFile, CachedItem


@dataclass(frozen=True)
class CacheContents:
    """What lies in the cache folder.

    Attributes:
        folder: it; there may be none yet.
        items: what was downloaded, in the order of the table.
        unknown: what does not belong there; it is never removed.
        size: bytes on the disk, of everything.
    """

    folder: Path
    items: tuple[CachedItem, ...]
    unknown: tuple[CachedFile, ...]
    size: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "folder": str(self.folder),
            "size": self.size,
            "items": [_item_dict(item) for item in self.items],
            "unknown": [{"path": str(each.path), "size": each.size} for each in self.unknown],
        }

    def text(self) -> str:
        """The same for a person."""
        lines = [f"Cache folder: {self.folder} (--cache DIR or VITRINE_CACHE chooses another)", ""]
        for item in self.items:
            used = f"last used {item.last_used[:10]}" if item.last_used else "not used yet"
            commit = f", commit {item.revision[:12]}" if item.revision else ""
            lines += [f"{item.name}  {item.kind}, {in_bytes(item.size)}, {used}", f"  from {item.origin}{commit}"]
            lines += [f"  {in_bytes(each.size):>9}  {each.sha256 or '':64}  {each.name}" for each in item.files]
            lines.append("")
        if not self.items:
            lines += ["Nothing was downloaded.", ""]
        if self.unknown:
            lines.append("Not downloaded by vitrine, and never removed by it:")
            lines += [f"  {in_bytes(each.size):>9}  {each.path}" for each in self.unknown]
            lines.append("")
        return "\n".join([*lines, f"Total: {in_bytes(self.size)}."])


@dataclass(frozen=True)
class Pruned:
    """What was removed.

    Attributes:
        folder: the cache folder.
        items: what was removed from it.
        freed: bytes on the disk; less than the items' sizes where others share files with them.
        left: bytes that the folder still holds.
        failed: why it ended before all that was asked for was removed; None where it did not.
    """

    folder: Path
    items: tuple[CachedItem, ...]
    freed: int
    left: int
    failed: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        removed = [_item_dict(item) for item in self.items]
        content = {"folder": str(self.folder), "removed": removed, "freed": self.freed, "left": self.left}
        return content if self.failed is None else content | {"failed": self.failed}

    def text(self) -> str:
        """The same for a person."""
        lines = [f"Removed {described(item)}." for item in self.items]
        lines += [] if self.failed is None else [f"Not removed, nor anything after it: {self.failed}."]
        return "\n".join([*lines, f"Freed {in_bytes(self.freed)}; {in_bytes(self.left)} are left in {self.folder}."])


def described(item: CachedItem) -> str:
    """An item in a few words."""
    commit = f", commit {item.revision[:12]}" if item.revision else ""
    return f"{item.name} ({item.kind}{commit}, {in_bytes(item.size)})"


def in_bytes(size: int) -> str:
    """A size for a person, in decimal units."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size} B"


def _item_dict(item: CachedItem) -> dict[str, Any]:
    files = [
        {
            "name": each.name,
            "path": str(each.path),
            "size": each.size,
            "sha256": each.sha256,
            "last_used": each.last_used,
        }
        for each in item.files
    ]
    return {
        "name": item.name,
        "kind": item.kind,
        "from": item.origin,
        "revision": item.revision,
        "size": item.size,
        "last_used": item.last_used,
        "files": files,
    }
