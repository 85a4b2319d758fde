"""Kinds of parameters: a good value of each, and what a wrong one looks like."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from kernel_cases import given_as
from kernel_device import ON_CUDA

NO_NUMBER = ("text", 1j, [1.0], {}, object(), np.ones(2))
NO_ARRAY = ("text", 3, 2.5, True, {}, object(), [1.0, 2.0])
NEVER = ("complex64", "U1", "O", "M8[s]")  # dtypes that no argument takes

Bad = tuple[Any, Any]  # a value, and what is raised for it


def wrong_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes next to a right one."""
    lead, last = shape[:-1], shape[-1]
    found = [(*shape, 1), (1, *shape), (2, 2, 2, 2), lead, (*lead, last + 1), (*lead, 1)]
    found += [(*lead, 0), shape[1:], (shape[0] + 1, *shape[1:])]
    return [other for other in dict.fromkeys(found) if other != shape]


@dataclass(frozen=True)
class Array:
    """An array: one good value, and what else is legal or out of range."""

    good: np.ndarray
    is_optional: bool = False
    is_alone: bool = False  # there is no other array whose dtype and library it must share
    takes_halves: bool = False
    takes_any_shape: bool = False
    other_shapes: tuple[tuple[int, ...], ...] = ()  # legal, or then another argument's fault
    out_of_range: tuple[float, ...] = ()

    @property
    def is_float(self) -> bool:
        return self.good.dtype.kind == "f"

    def bad(self, library: str) -> Iterator[Bad]:
        """Floats are float64, like those around them."""
        for value in NO_ARRAY:
            yield value, TypeError
        if not self.is_optional:
            yield None, TypeError
        for dtype in self._bad_dtypes():
            yield self.good.astype(dtype), TypeError
        yield from self._bad_tensors(library)
        if not self.is_alone:
            yield given_as("torch" if library == "numpy" else "numpy", self.good), TypeError
        for shape in () if self.takes_any_shape else wrong_shapes(self.good.shape):
            if shape not in self.other_shapes:
                yield given_as(library, np.resize(self.good, shape)), ValueError
        for number in () if ON_CUDA else self.out_of_range:  # see test_faults.py
            held = self.good.astype(np.float64 if self.is_float else np.int64)
            held.flat[1] = number
            yield given_as(library, held), ValueError

    def _bad_dtypes(self) -> Iterator[str]:
        yield from NEVER
        yield from ("int64", "bool", ">f4", "longdouble") if self.is_float else ("float32", ">i4")
        if self.is_float and not self.takes_halves:
            yield "float16"

    def _bad_tensors(self, library: str) -> Iterator[Bad]:
        good, any_error = torch.from_numpy(self.good.copy()), (RuntimeError, TypeError, ValueError)
        yield good.to(torch.complex64), TypeError
        yield good.to(torch.int64 if self.is_float else torch.float32), TypeError
        if self.is_float:
            yield good.to(torch.float8_e4m3fn), TypeError
        if self.is_float and not self.is_alone:
            yield good.float(), TypeError
        if library == "torch" or self.is_alone:
            yield good.to("meta"), any_error
            yield good.to_sparse(), any_error


@dataclass(frozen=True)
class Number:
    """An option between two limits, themselves legal where `closed` says so."""

    good: Any
    low: float = -math.inf
    high: float = math.inf
    closed: str = "[]"
    is_whole: bool = False
    is_optional: bool = False
    takes_any_size: bool = False

    def bad(self, library: str) -> Iterator[Bad]:
        for value in NO_NUMBER:
            yield value, (TypeError, ValueError)
        if not self.is_optional:
            yield None, TypeError
        if self.is_whole:
            yield 2.5, TypeError
            if not self.takes_any_size:
                yield 2**70, ValueError
            yield -(2**70), ValueError
        else:
            yield math.nan, ValueError
        step = 1 if self.is_whole else 0.1
        for edge, outwards, bracket in ((self.low, -step, "["), (self.high, step, "]")):
            if math.isfinite(edge):
                yield edge + outwards, ValueError
            if bracket not in self.closed and not self.is_whole:
                yield edge, ValueError


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    good: str

    def bad(self, library: str) -> Iterator[Bad]:
        for value in (None, 1, 1.5, b"bytes", [self.good], object()):
            yield value, TypeError
        for word in ("", "no such", self.good.upper(), self.good + " ", self.good + "\0"):
            yield word, ValueError


@dataclass(frozen=True)
class Switch:
    """True or False."""

    good: bool

    def bad(self, library: str) -> Iterator[Bad]:
        for value in (None, *NO_NUMBER):
            yield value, (TypeError, ValueError)


@dataclass(frozen=True)
class Moments:
    """The (n, mean, m2) of masked_whiten."""

    good: Any = None

    def bad(self, library: str) -> Iterator[Bad]:
        for value in ((1.0, 2.0), (1.0, 2.0, 3.0, 4.0), 3.0, "abc", ("a", "b", "c"), {}):
            yield value, (TypeError, ValueError)
        for value in ((math.nan, 0.0, 1.0), (-1.0, 0.0, 1.0), (3.0, 0.0, -1.0)):
            yield value, ValueError
        yield (np.ones(2), np.ones(2), np.ones(2)), (TypeError, ValueError)
