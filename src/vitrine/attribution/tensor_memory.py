"""The memory of tensors that some work takes, on any device: how much is alive at a time, at most."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMemory(TorchDispatchMode):
    """Within the ``with`` block, counts the bytes of tensors that are made and still alive.

    What a kernel takes for itself while it runs is not seen, and neither are tensors that were there before.

    Attributes:
        peak: bytes alive at a time, at most, so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive = 0
        self._storages: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, and note the memory of what it gives."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages or not size:
            return
        self._alive += size
        self.peak = max(self.peak, self._alive)

        def forget(_: Any) -> None:
            self._storages.pop(key, None)
            self._alive -= size

        self._storages[key] = weakref.ref(storage, forget)
