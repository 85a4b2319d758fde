"""Seconds that may be spent, and what was left out for want of them."""

from __future__ import annotations

import time
from collections.abc import Callable


class Budget:
    """Counts from when it is made. What it does not allow it remembers by name."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.began = now()
        self.seconds = seconds
        self.left_out: list[str] = []

    @property
    def spent(self) -> float:
        return self.now() - self.began

    @property
    def left(self) -> float:
        return max(0.0, self.seconds - self.spent)

    def allows(self, name: str, needed: float, *, kept: float = 0.0) -> bool:
        """Whether `needed` seconds are left beside `kept`, which something later will need."""
        if self.left - kept >= needed:
            return True
        self.left_out.append(name)
        return False
