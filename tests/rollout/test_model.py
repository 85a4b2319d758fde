"""The buffer against a model of it, a plain dict of rows, under any sequence of operations."""

from __future__ import annotations

import tempfile

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from rollout.strategies import draws, masked

from alignzoo.rollout import RolloutBuffer

KEEP = 2


class BufferMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.buffer = RolloutBuffer(keep_versions=KEEP)
        self.rows: dict[int, dict] = {}
        self.version = 0

    @rule(draw=draws(max_rows=4), newer=st.booleans())
    def append(self, draw, newer):
        self.version += newer
        numbers = self.buffer.append(**draw, policy_version=self.version)
        for i, number in enumerate(numbers):
            row = {name: values[i] for name, values in draw.items()}
            row["log_probs"] = masked(row["sampler_log_probs"], row["response_masks"]).tolist()
            self.rows[number] = {**row, "version": self.version}
        kept = sorted({row["version"] for row in self.rows.values()})[-KEEP:]
        self.rows = {n: row for n, row in self.rows.items() if row["version"] in kept}

    @rule(data=st.data())
    def fill(self, data):
        numbers = data.draw(st.permutations(sorted(self.rows)))
        numbers = numbers[: data.draw(st.integers(0, len(numbers)))]
        values = [np.full(len(self.rows[n]["responses"]), n + 0.5) for n in numbers]
        self.buffer.set("values", values, numbers)
        for number, value in zip(numbers, values, strict=True):
            mask = self.rows[number]["response_masks"]
            self.rows[number]["values"] = masked(value, mask).tolist()

    @rule(data=st.data())
    def drop(self, data):
        leaving = [n for n in sorted(self.rows) if data.draw(st.booleans())]
        self.buffer.drop(leaving)
        for number in leaving:
            del self.rows[number]

    @rule()
    def save_and_load(self):
        with tempfile.TemporaryDirectory() as folder:
            self.buffer.save(folder)
            self.buffer = RolloutBuffer.load(folder)

    @invariant()
    def rows_are_those_of_the_model(self):
        buffer, rows = self.buffer, self.rows
        assert list(buffer.rows()) == sorted(rows)
        assert buffer.versions == sorted({row["version"] for row in rows.values()})
        for number, row in rows.items():
            assert buffer.column("prompt_ids", [number]).tolist() == row["prompts"]
            assert buffer.column("response_ids", [number]).tolist() == row["responses"]
            assert buffer.column("sampler_log_probs", [number]).tolist() == row["log_probs"]
            assert buffer.is_filled("values", [number]) == ("values" in row)
            if "values" in row:
                assert buffer.column("values", [number]).tolist() == row["values"]

    @invariant()
    def a_batch_in_reverse_is_the_rows_in_reverse(self):
        batch = self.buffer.batch(sorted(self.rows, reverse=True))
        for i, number in enumerate(batch.row_numbers):
            row = self.rows[number]
            length = len(row["responses"])
            assert batch.response_ids[i, :length].tolist() == row["responses"]
            assert batch.sampler_log_probs[i, :length].tolist() == row["log_probs"]
        assert batch.num_tokens == self.buffer.num_tokens


TestBuffer = BufferMachine.TestCase
TestBuffer.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
