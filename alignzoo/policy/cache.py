"""A key-value cache with its memory set aside: a step writes one column and copies nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from alignzoo.errors import ConfigError


def make_cache(config: Any, capacity: int) -> DynamicCache:
    """Returns a cache for `capacity` tokens a row; sliding windows stay as they are."""
    cache = DynamicCache(config=config)
    for layer in cache.layers:
        if not hasattr(layer, "batch_select_indices"):
            raise ConfigError(
                f"a model of type '{config.model_type}' keeps a state that alignzoo's sampler "
                "cannot take rows from; expected one whose layers all have a key-value cache"
            )
    cache.layers = [
        _ReservedLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


class _ReservedLayer(DynamicLayer):
    """Keys and values [b, H, n, d], views of storage [b, H, capacity, d]."""

    keys: Tensor
    values: Tensor

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.key_storage = self._reserve(key_states)
        self.value_storage = self._reserve(value_states)
        self.is_initialized = True

    def _reserve(self, states: Tensor) -> Tensor:
        rows, heads, _, width = states.shape
        return states.new_empty((rows, heads, self.capacity, width))

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.length + key_states.shape[-2]
        self.key_storage[:, :, self.length : end] = key_states
        self.value_storage[:, :, self.length : end] = value_states
        self._show(end)
        return self.keys, self.values

    def _show(self, length: int) -> None:
        self.length = length
        self.keys = self.key_storage[:, :, :length]
        self.values = self.value_storage[:, :, :length]

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        return self.length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps or repeats rows; only what is filled is copied."""
        keys, values = self.keys, self.values
        rows = len(indices)
        self.key_storage = keys.new_empty((rows, *self.key_storage.shape[1:]))
        self.value_storage = values.new_empty((rows, *self.value_storage.shape[1:]))
        self._show(self.length)
        torch.index_select(keys, 0, indices, out=self.keys)
        torch.index_select(values, 0, indices, out=self.values)
