"""Joining and splitting tensors: vectors of parameters, and the outputs of micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alignzoo.policy import PolicyOutput


def split_like(vector: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Returns the pieces of a flat vector in the shapes of `tensors`.

    Raises:
        ValueError: it has not as many numbers as they have together.
    """
    sizes = [tensor.numel() for tensor in tensors]
    if vector.shape != (sum(sizes),):
        raise ValueError(
            f"`vector` has shape {tuple(vector.shape)}; these parameters have {sum(sizes)} numbers"
        )
    pieces = torch.split(vector, sizes)
    return [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]


def join_vector(values: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """Returns tensors as one float32 vector; None is 0, in the size of its place in `like`."""
    flat = [
        (torch.zeros_like(place) if value is None else value).reshape(-1).float()
        for value, place in zip(values, like, strict=True)
    ]
    return torch.cat(flat)


def total_norm(tensors: list[Tensor]) -> Tensor:
    """Returns the L2 norm of all tensors together, 0-d, taken in float32 or wider."""
    norms = [
        torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))
        for x in tensors
    ]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def join(pieces: list[Tensor], width: int) -> Tensor:
    """Joins [b, t, ...] pieces, each padded to its own length, to [B, width, ...]."""
    padded = []
    for piece in pieces:
        whole = piece.new_zeros((piece.shape[0], width, *piece.shape[2:]))
        whole[:, : piece.shape[1]] = piece
        padded.append(whole)
    return torch.cat(padded)


def join_outputs(pieces: list[PolicyOutput], width: int) -> PolicyOutput:
    """Joins the outputs of micro-batches."""

    def all_of(name: str) -> Any:
        parts = [getattr(piece, name) for piece in pieces]
        return None if parts[0] is None else join(parts, width)

    return PolicyOutput(*(all_of(name) for name in PolicyOutput.__dataclass_fields__))
