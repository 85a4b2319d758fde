"""What a run counts from its start, and when it has skipped too much to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from alignzoo.errors import RunError

if TYPE_CHECKING:
    from alignzoo.collection import Collected


@dataclass
class RunCounts:
    """Counts since the first update; checkpoints keep them.

    Args:
        num_samples: responses sampled or read, dropped ones included.
        num_tokens: their tokens.
        num_unscorable: responses whose score was None or NaN.
        num_skipped: updates that something not finite cut short.
        num_skipped_in_a_row: of these, the last ones without another between.
        last_fault: why the last of them was.
    """

    num_samples: int = 0
    num_tokens: int = 0
    num_unscorable: int = 0
    num_skipped: int = 0
    num_skipped_in_a_row: int = 0
    last_fault: str = ""

    def add(self, collected: Collected) -> None:
        """Counts one update, after learning: its fault is known by then."""
        self.num_samples += collected.num_samples
        self.num_tokens += collected.num_tokens
        self.num_unscorable += collected.num_unscorable
        if collected.fault is None:
            self.num_skipped_in_a_row = 0
        else:
            self.num_skipped += 1
            self.num_skipped_in_a_row += 1
            self.last_fault = collected.fault

    def check_progress(self, max_skipped: int, where: object) -> None:
        """Checks that not more than `max_skipped` updates in a row were skipped.

        Args:
            where: the file that has the rows.
        Raises:
            RunError: more were; the message says why and what to do.
        """
        if self.num_skipped_in_a_row > max_skipped:
            raise RunError(
                f"{self.num_skipped_in_a_row} updates in a row were skipped, the last because "
                f"{self.last_fault}; max_skipped is {max_skipped}. The rows are in {where}: check "
                "the reward, lower the learning rate, or raise max_skipped"
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns the counts as JSON-able state."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)
