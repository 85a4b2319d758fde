"""Where a batch comes from for algorithms that do not sample: the rows of a file.

A demonstration is a row. A preference is two rows of one group side by side, the chosen one first
(`pair_labels` 1 and 0). A rating is a row whose score it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from alignzoo.algorithm import Metrics
from alignzoo.collection import Collected, prepare_batch
from alignzoo.data import EncodedPreference, EncodedRating, Example
from alignzoo.learner import restrict
from alignzoo.rollout import RolloutBuffer
from alignzoo.training_data import Cursor, Dataset

if TYPE_CHECKING:
    from alignzoo.learner import Learner
    from alignzoo.rollout import RolloutBatch
    from alignzoo.run_options import TrainerOptions


class OfflineSource:
    """Takes the next demonstrations, preferences or ratings, in a new order for each pass.

    `batch_size` counts responses: a preference is two, the chosen one first.
    """

    def __init__(
        self, learner: Learner, examples: Dataset[Example], options: TrainerOptions
    ) -> None:
        self.learner = learner
        self.examples = examples.train
        self.held_out = examples.held_out
        self.num_examples = options.batch_size
        if learner.algorithm.needs.source == "preferences":
            self.num_examples //= 2
        self.cursor = Cursor(len(self.examples), options.seed)
        self.places: dict[int, str] = {}

    def collect(self, step: int) -> Collected:
        """Stores the next `batch_size` responses and returns them as a batch."""
        buffer = self.learner.buffer
        taken = [self.examples[i] for i in self.cursor.take(self.num_examples)]
        rows = append_examples(buffer, taken, version=step)
        places = [response.where for example in taken for response in example.responses]
        self.places = dict(zip(rows.tolist(), places, strict=True))
        batch = fill_examples(self.learner, buffer, rows)
        return Collected(batch, Metrics(), num_samples=len(batch), num_tokens=batch.num_tokens)

    def evaluate(self, step: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Returns the algorithm's own metrics on held-out rows."""
        if not self.held_out:
            return {}, []
        return evaluate_examples(self.learner, self.held_out), []

    def describe(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Returns the places of buffer rows of the last batch."""
        return [{"row": self.places[row]} for row in rows if row in self.places]

    def state_dict(self) -> dict[str, Any]:
        """Returns how many examples were taken."""
        return {"position": self.cursor.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to where `state_dict` stood."""
        self.cursor.position = state["position"]


def append_examples(
    buffer: RolloutBuffer, examples: Sequence[Example], *, version: int
) -> NDArray[np.int64]:
    """Stores examples and returns their row numbers."""
    rows = [response for example in examples for response in example.responses]
    groups = [number for number, example in enumerate(examples) for _ in example.responses]
    ratings = [example.rating for example in examples if isinstance(example, EncodedRating)]
    are_pairs = isinstance(examples[0], EncodedPreference)
    numbers = buffer.append(
        [row.prompt_ids for row in rows],
        [row.response_ids for row in rows],
        response_masks=[row.response_mask for row in rows],
        policy_version=version,
        group_ids=groups,
        pair_labels=[1, 0] * len(examples) if are_pairs else None,
        scores=ratings or None,
    )
    return np.asarray(numbers, dtype=np.int64)


def fill_examples(learner: Learner, buffer: RolloutBuffer, rows: NDArray[np.int64]) -> RolloutBatch:
    """Returns rows as a batch, after the columns that were asked for were filled and prepared."""
    needs = learner.algorithm.needs
    batch = buffer.batch(rows, device=learner.policy.device)
    if needs.ref_log_probs:
        buffer.set("ref_log_probs", learner.reference_log_probs(batch), rows)
    if needs.values:
        buffer.set("values", learner.evaluate(batch).values, rows)
    return prepare_batch(learner, buffer, rows)


def evaluate_examples(learner: Learner, examples: Sequence[Example]) -> dict[str, float]:
    """Returns the metrics of the algorithm's loss on held-out examples, each as `eval_NAME`.

    Nothing is learned from them: the algorithm's state is what it was.
    """
    algorithm = learner.algorithm
    buffer, metrics = RolloutBuffer(algorithm.needs.columns), Metrics()
    state = algorithm.state_dict()
    batch = fill_examples(learner, buffer, append_examples(buffer, examples, version=0))
    with torch.no_grad():
        for micro in learner.micro_batches(batch):
            loss = algorithm.loss(restrict(micro, algorithm), learner.forward(micro))
            metrics.merge(Metrics(loss.metrics))
    algorithm.load_state_dict(state)
    return {f"eval_{name}": value for name, value in metrics.result().items()}
