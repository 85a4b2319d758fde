"""Decoding at fixed shapes, so that one CUDA graph replays every step.

A step of a small model launches hundreds of kernels, and the host needs longer to launch them than
a GPU to run them. A CUDA graph records the launches once and replays them as one. What it replays
are addresses and shapes, so everything a step reads or writes lies in buffers that stay: tokens,
positions, the column that is written, the mask, keys and values. The draw stays outside: its
counters (seed, step, row number) are numbers of the host, and it gives the same tokens either way.

Rows that have ended go on until half of them have; then the others move to the front and a
recording of half as many rows takes over. So a decoder of R rows makes recordings of R, R/2, R/4
rows and so on, at the first use of each. They last as long as the weights stay where they are:
optimiser steps change them in place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from alignzoo.errors import ConfigError

if TYPE_CHECKING:
    from alignzoo.policy.decoder import Decoder
    from alignzoo.policy.language_model import LanguageModel

logger = logging.getLogger("alignzoo")

Decoding = Literal["auto", "eager", "static", "graph"]
Step = Callable[[], tuple[Tensor, Tensor]]

MIN_TOKENS = 32  # below, recording a step costs more than replaying it saves
CHECK_EVERY = 16  # steps between looks at which rows have ended; each look waits for the device
CAPACITY_STEP = 128  # columns
MIN_ROWS = 8  # of the smallest recording
WARM_UPS = 3  # what torch's documentation asks for before a capture


class Recording(Protocol):
    """A step that was recorded; its outputs are overwritten by each replay."""

    def replay(self) -> tuple[Tensor, Tensor]:
        """Runs the step and returns logits [r, V] and hidden states [r, D]."""


Record = Callable[[Step], Recording]


class PlainRecording:
    """Runs the step itself, kernel by kernel: fixed shapes without a graph."""

    def __init__(self, step: Step) -> None:
        self.replay = step


class GraphRecording:
    """A CUDA graph of the step, recorded on a stream of its own after it ran there warm."""

    def __init__(self, step: Step, device: torch.device, pool: Any) -> None:
        with torch.cuda.device(device):
            stream = torch.cuda.Stream(device)
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    step()
            torch.cuda.current_stream(device).wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=pool, stream=stream):
                self.outputs = step()

    def replay(self) -> tuple[Tensor, Tensor]:
        self.graph.replay()
        return self.outputs


class StaticDecoder:
    """Up to `num_rows` rows of up to `capacity` tokens, and the recordings of their step."""

    check_every = CHECK_EVERY

    def __init__(
        self, model: LanguageModel, like: Decoder, num_rows: int, capacity: int, record: Record
    ) -> None:
        """Sets memory aside for keys and values such as those of `like`, which has prefilled."""
        self.model, self.record = model, record
        self.num_rows, self.capacity = num_rows, capacity
        device = model.device
        self.tokens = torch.zeros((num_rows, 1), dtype=torch.int64, device=device)
        self.positions = torch.zeros_like(self.tokens)
        self.column = torch.zeros(1, dtype=torch.int64, device=device)
        # Eager attention adds the mask to its scores; scaled_dot_product_attention takes a choice.
        is_added = model.model.config._attn_implementation == "eager"
        self.unseen: float = torch.finfo(model.dtype).min if is_added else False
        self.seen: float = 0.0 if is_added else True
        self.mask = torch.full(
            (num_rows, 1, 1, capacity),
            self.unseen,
            dtype=model.dtype if is_added else torch.bool,
            device=device,
        )
        self.storage = [
            tuple(
                x.new_zeros((num_rows, x.shape[1], capacity, x.shape[3]))
                for x in (layer.keys, layer.values)
            )
            for layer in like.cache.layers
        ]
        self.sizes = row_counts(num_rows)
        self.recordings: dict[int, Recording] = {}
        self.size = num_rows

    def fits(self, num_rows: int, width: int, max_new_tokens: int) -> bool:
        """Whether a batch has room here, and leaves less than three quarters unused."""
        capacity = width + max_new_tokens + WARM_UPS
        if num_rows > self.num_rows or capacity > self.capacity:
            return False
        used = self._size_of(num_rows) * _rounded(capacity, CAPACITY_STEP)
        return 4 * used >= self.num_rows * self.capacity

    def _size_of(self, count: int) -> int:
        return next(size for size in reversed(self.sizes) if size >= count)

    def start(self, prefilled: Decoder, rows: Tensor) -> None:
        """Takes the rows at these positions of a decoder that holds its prompts."""
        self.size = self._size_of(len(rows))
        source = self._filled_up(rows)
        width = prefilled.width
        for layer, stores in zip(prefilled.cache.layers, self.storage, strict=True):
            for states, store in zip((layer.keys, layer.values), stores, strict=True):
                store[: self.size, :, :width] = states.index_select(0, source)
                store[: self.size, :, width:] = 0  # masked, but 0 times NaN is NaN
        lengths = prefilled.lengths.index_select(0, source)[:, None]
        self.positions[: self.size] = lengths
        columns = torch.arange(self.capacity, device=lengths.device)
        is_seen = (columns >= width - lengths) & (columns < width)
        mask = self.mask[: self.size, 0, 0]
        mask.fill_(self.unseen).masked_fill_(is_seen, self.seen)
        self.column.fill_(width)

    def _filled_up(self, rows: Tensor) -> Tensor:
        """Returns `rows`, the first repeated until a recording is full; any row would do."""
        return torch.cat([rows, rows[:1].expand(self.size - len(rows))])

    def step(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Appends one token [n] to each of the first n rows.

        Returns logits [n, V] and hidden states [n, D], which the next step overwrites.
        """
        self.tokens[: len(tokens), 0] = tokens
        if self.size not in self.recordings:
            self.recordings[self.size] = self._record()
        logits, hidden = self.recordings[self.size].replay()
        return logits[: len(tokens)], hidden[: len(tokens)]

    def can_drop(self, count: int, going: int) -> bool:
        """Whether it pays to go on with `going` of `count` rows: a smaller recording has room."""
        return self._size_of(going) < self.size

    def select(self, rows: Tensor) -> None:
        """Moves the rows at these positions to the front; a smaller recording goes on with them."""
        self.size = self._size_of(len(rows))
        source = self._filled_up(rows)
        for state in (self.positions, self.mask, *(x for pair in self.storage for x in pair)):
            state[: self.size] = state.index_select(0, source)

    def _record(self) -> Recording:
        """Records a step of `size` rows, which may run it, and leaves its state as it was.

        Keys and values are written where the next steps write theirs before they are seen; the
        capacity has room for them. Positions are 0 meanwhile, so that none exceeds the model's.
        """
        changed = (self.column, self.positions, self.mask)
        before = [state.clone() for state in changed]
        self.positions.zero_()
        recording = self.record(self._step_of(self.size))
        for state, saved in zip(changed, before, strict=True):
            state.copy_(saved)
        return recording

    def _step_of(self, size: int) -> Step:
        cache = DynamicCache(config=self.model.model.config)
        cache.layers = [
            _FixedLayer(keys[:size], values[:size], self.column) for keys, values in self.storage
        ]
        tokens, positions, mask = self.tokens[:size], self.positions[:size], self.mask[:size]

        def step() -> tuple[Tensor, Tensor]:
            mask.index_fill_(3, self.column, self.seen)
            found = self.model.last_logits(
                {
                    "input_ids": tokens,
                    "position_ids": positions,
                    "attention_mask": mask,
                    "past_key_values": cache,
                    "use_cache": True,
                },
                keep_casts=False,  # a replay would read casts that are gone
            )
            self.column.add_(1)
            positions.add_(1)
            return found

        return step


class _FixedLayer(DynamicLayer):
    """Keys and values [b, H, capacity, d]; a step writes the column that a tensor names."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, column: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.column = keys, values, column
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.keys.index_copy_(2, self.column, key_states.to(self.keys.dtype))
        self.values.index_copy_(2, self.column, value_states.to(self.values.dtype))
        return self.keys, self.values

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        return 0  # positions and mask are given


def row_counts(num_rows: int) -> list[int]:
    """Returns the sizes of a decoder's recordings: half, and half again, down to `MIN_ROWS`."""
    sizes = [num_rows]
    while sizes[-1] > MIN_ROWS:
        sizes.append(max(MIN_ROWS, -(-sizes[-1] // 2)))
    return sizes


def _rounded(number: int, unit: int) -> int:
    return -(-number // unit) * unit


class StaticDecoders:
    """The static decoder of a model: one, which the next batch uses again if it fits."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.decoder: StaticDecoder | None = None
        self.made_for: Any = None
        self.graphs: Record | None = None
        self.probed = False
        self.reason: str | None = None

    def start(
        self, prefilled: Decoder, rows: Tensor, max_new_tokens: int, *, record: Record
    ) -> StaticDecoder:
        """Returns a decoder that holds these rows of `prefilled`, and makes one where it must."""
        made_for = self._weights(), record, self.model.autocast
        width = prefilled.width
        fits = self.decoder is not None and self.decoder.fits(len(rows), width, max_new_tokens)
        if not fits or made_for != self.made_for:
            self.release()
        if self.decoder is None:
            self.decoder = StaticDecoder(
                self.model,
                prefilled,
                _rounded(len(rows), MIN_ROWS),
                _rounded(width + max_new_tokens + WARM_UPS, CAPACITY_STEP),
                record,
            )
            self.made_for = made_for
        self.decoder.start(prefilled, rows)
        return self.decoder

    def _weights(self) -> tuple[int, ...]:
        """Returns where the weights lie; a graph reads them there."""
        return tuple(x.data_ptr() for x in self.model.model.parameters())

    def release(self) -> None:
        """Gives the memory of keys, values and graphs back."""
        self.decoder = None

    def record_graphs(self) -> Record:
        """Returns what records CUDA graphs where the model is."""
        device = self.model.device
        if self.graphs is None or getattr(self.graphs, "device", device) != device:
            self.graphs = _GraphRecorder(device)
        return self.graphs

    def find_reason(self) -> str | None:
        """Returns why the model cannot decode at fixed shapes, or None where it can."""
        if not self.probed:
            self.reason = _structural_reason(self.model) or _probe(self.model)
            self.probed = True
        return self.reason


class _GraphRecorder:
    """Records CUDA graphs on one device; they share a pool of memory, since one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> Recording:
        return GraphRecording(step, self.device, self.pool)


def choose(model: LanguageModel, decoding: Decoding, max_new_tokens: int) -> Record | None:
    """Returns what records a step, or None where steps are taken eagerly.

    "auto" replays graphs on a CUDA device for `MIN_TOKENS` tokens or more, where the model can
    decode at fixed shapes; its log says where it cannot.

    Raises:
        ConfigError: what was asked for cannot be had; the message says why.
    """
    if decoding not in ("auto", "eager", "static", "graph"):
        raise ConfigError(f"decoding is '{decoding}'; expected one of auto, eager, static or graph")
    is_cuda = model.device.type == "cuda"
    if decoding == "graph" and not is_cuda:
        raise ConfigError(
            f"decoding is 'graph', which needs a CUDA device, and the policy is on {model.device}; "
            "say auto"
        )
    if decoding == "eager" or (
        decoding == "auto" and not (is_cuda and max_new_tokens >= MIN_TOKENS)
    ):
        return None
    reason = model.static.find_reason()
    if reason is not None:
        if decoding != "auto":
            raise ConfigError(f"decoding is '{decoding}', but {reason}; say auto or eager")
        logger.info("no CUDA graphs in generation: %s", reason)
        return None
    return PlainRecording if decoding == "static" else model.static.record_graphs()


def _structural_reason(model: LanguageModel) -> str | None:
    config = model.model.config
    if not model.accepts_position_ids:
        return f"a model of type '{config.model_type}' takes no position_ids"
    layers = DynamicCache(config=config).layers
    if any(type(layer) is not DynamicLayer for layer in layers) or not layers:
        return f"a model of type '{config.model_type}' does not keep all keys and values"
    attention = config._attn_implementation
    if attention not in ("sdpa", "eager"):
        return f"attention '{attention}' takes no mask of fixed shape"
    return None


@contextmanager
def _refused_waiting(device: torch.device) -> Iterator[None]:
    """Makes whatever waits for the device an error: a graph cannot hold it."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@torch.inference_mode()
def _probe(model: LanguageModel) -> str | None:
    """Decodes two tokens of two prompts both ways and compares the logits."""
    from alignzoo.policy.decoder import Decoder

    name = type(model.model).__name__
    vocabulary = model.model.get_input_embeddings().weight.shape[0]
    prompts = [tuple(i % vocabulary for i in ids) for ids in ((1, 2, 3), (4, 5))]
    eager = Decoder(model, prompts, 2)
    eager.prefill()
    rows = torch.arange(2, device=model.device)
    fixed = StaticDecoder(model, eager, 2, 5 + WARM_UPS, PlainRecording)
    fixed.start(eager, rows)
    tokens = rows % vocabulary
    for _ in range(2):
        expected, _ = eager.step(tokens)
        try:
            with _refused_waiting(model.device):
                found, _ = fixed.step(tokens)
        except RuntimeError as error:
            return f"{name} cannot take a step at fixed shapes: {str(error).splitlines()[0]}"
        size = float(expected.float().abs().max())
        gap = float((found - expected).float().abs().max())
        eps = torch.finfo(torch.bfloat16 if model.autocast else model.dtype).eps
        if not gap <= 64 * eps * max(size, 1.0):
            return f"{name} gives other logits there (by {gap:.3g})"
    return None
