"""A policy with a scalar head: training, scoring in batches of about equal length, files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alignzoo.errors import DataError
from alignzoo.model_files import read_model, write_model
from alignzoo.scalar_model.texts import EncodedText, Text, encode_text
from alignzoo.scalar_model.training import ScalarLoss, fill_buffer, train

if TYPE_CHECKING:
    from alignzoo.policy import Policy
    from alignzoo.scalar_model.config import ScalarConfig

logger = logging.getLogger("alignzoo")

BACKBONE, HEAD = "backbone", "head"  # of a saved model: a transformers folder, and head.json
MICRO_BATCH_TOKENS = 16_384
NO_COLUMNS: Mapping[str, Sequence[float]] = {}


class ScalarModel:
    """A policy with a scalar head. `create` makes one to train, `load` one that was trained."""

    def __init__(self, policy: Policy, config: ScalarConfig) -> None:
        self.policy = policy
        self.config = config
        self.offset = 0.0  # subtracted from every number

    @classmethod
    def create(cls, config: ScalarConfig, *, seed: int) -> ScalarModel:
        """Returns an untrained model, which says 0 of every text.

        Raises:
            ConfigError: there is no causal language model at `config.policy`.
        """
        from alignzoo.policy import Policy

        assert config.policy is not None
        policy = Policy.from_pretrained(
            config.policy,
            dtype=config.dtype,
            device=config.device,
            seed=seed,
            lora_rank=config.lora_rank,
            lora_alpha=config.lora_alpha,
            lora_targets=config.lora_targets,
            steering=False,  # it shapes what is written, not what is read
        )
        policy.add_value_head()
        return cls(policy, config)

    @property
    def max_length(self) -> int | None:
        """The most tokens a row has, the end token included; None where there is no limit."""
        limits = [self.config.max_length, self.policy.context_length]
        return min((limit for limit in limits if limit is not None), default=None)

    def encode(self, texts: Sequence[Text]) -> list[EncodedText]:
        """Returns the texts' token ids, cut to `max_length`; see `encode_text`."""
        return [encode_text(self.policy, text, self.max_length) for text in texts]

    # -- learning -------------------------------------------------------------------------------

    def fit(
        self,
        texts: Sequence[EncodedText],
        loss: ScalarLoss,
        *,
        seed: int,
        groups: Sequence[int] | None = None,
        columns: Mapping[str, Sequence[float]] = NO_COLUMNS,
        targets: Sequence[Sequence[float]] | None = None,
    ) -> dict[str, float]:
        """Learns and returns the means of the loss's metrics over the last pass.

        Args:
            loss: of rows and their numbers [B, T]. Rows of one `batch.group_ids` are side by side,
                in order and never parted; they sum to 0 where no segment ends.
            seed: of the order in which the data is seen.
            groups: [B] labels; default each text is a group of its own.
            columns: [B] numbers by name, which the loss reads as `batch.NAME`.
            targets: one number per segment, which the loss reads as `batch.segment_targets`
                [B, T], at the places of the numbers.
        Raises:
            DataError: there are no texts.
            RunError: gradients were not finite, again and again.
        """
        if not texts:
            raise DataError("there is nothing to learn from: no text is left.")
        self._say_what_was_cut(texts)
        buffer = fill_buffer(texts, groups, columns, targets)
        metrics = train(self.policy, self.config, buffer, loss, seed=seed)
        self._merge_adapter()
        return metrics

    def rescale(self, factor: float, shift: float) -> None:
        """Makes every number `factor` times what it was, plus `shift`."""
        import torch

        head = self.policy.value_head
        assert head is not None
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(factor)
        self.offset = factor * self.offset - shift

    def _merge_adapter(self) -> None:
        """Adds LoRA's product to the weights, so that what scores is what is saved."""
        from alignzoo.policy import Policy

        if self.policy.adapter is None:
            return
        merged = Policy(self.policy.adapter.merge_and_unload(), self.policy.tokenizer)
        merged.value_head = self.policy.value_head
        self.policy = merged

    def _say_what_was_cut(self, texts: Sequence[EncodedText]) -> None:
        cut = [text.where for text in texts if text.is_cut]
        if cut:
            logger.warning(
                "%d of %d texts are longer than %s tokens and were cut (first: %s)",
                len(cut),
                len(texts),
                self.max_length,
                cut[0],
            )

    # -- scoring --------------------------------------------------------------------------------

    def score(self, texts: Sequence[EncodedText]) -> list[list[float]]:
        """Returns a number for each segment of each text.

        Texts of about equal length go through the model together; alone, a text has the same
        numbers to 1e-5. Below float32 that would not hold, so each goes alone.
        """
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        found: list[list[float]] = [[] for _ in texts]
        for rows in self._batches(texts, order):
            for row, numbers in zip(rows, self._read([texts[row] for row in rows]), strict=True):
                found[row] = [number - self.offset for number in numbers]
        return found

    def _batches(self, texts: Sequence[EncodedText], order: Sequence[int]) -> Iterator[list[int]]:
        """Yields rows, shortest first, in parts whose padded size stays within bounds."""
        most = self.config.micro_batch_size or len(order)
        if self.config.dtype != "float32":
            most = 1
        part: list[int] = []
        for row in order:
            padded = (len(part) + 1) * len(texts[row])
            if part and (len(part) >= most or padded > MICRO_BATCH_TOKENS):
                yield part
                part = []
            part.append(row)
        if part:
            yield part

    def _read(self, texts: Sequence[EncodedText]) -> list[list[float]]:
        """Returns the head's numbers of texts that go through the model together."""
        import torch

        head, model = self.policy.value_head, self.policy.language_model
        assert head is not None
        width = max(map(len, texts)) - 1  # no state is read after the end token
        ids = np.zeros((len(texts), width), np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text) - 1] = [*text.prompt_ids, *text.response_ids[:-1]]
        places = [
            (row, len(text.prompt_ids) - 1 + place)
            for row, text in enumerate(texts)
            for place in text.reads
        ]
        with torch.inference_mode():
            states = model.states(torch.from_numpy(ids).to(model.device))
            rows, columns = torch.tensor(places, device=model.device).T
            numbers = iter(head(states[rows, columns].float()).squeeze(-1).tolist())
        return [[next(numbers) for _ in text.reads] for text in texts]

    # -- files ----------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Writes `backbone/`, which transformers loads, and the head as `head.safetensors`."""
        head = self.policy.value_head
        assert head is not None
        self.policy.save(Path(folder) / BACKBONE)
        arrays: dict[str, NDArray[Any]] = {
            name: tensor.detach().cpu().numpy() for name, tensor in head.state_dict().items()
        }
        write_model(folder, {"offset": self.offset}, arrays, name=HEAD)

    @classmethod
    def load(cls, folder: str | Path, config: ScalarConfig) -> ScalarModel:
        """Returns what `save` wrote; the policy it was made from is not looked at.

        Where `config.device` is a GPU and there is none, it lives on the CPU.

        Raises:
            ConfigError: there is no backbone.
            DataError: the head is missing or damaged, or does not fit.
        """
        import torch

        from alignzoo.policy import Policy

        settings, arrays = read_model(folder, name=HEAD)
        device = config.device
        if device.startswith("cuda") and not torch.cuda.is_available():
            logger.warning("a reward trained on %s finds no GPU here and uses the CPU", device)
            device = "cpu"
        policy = Policy.from_pretrained(
            Path(folder) / BACKBONE, dtype=config.dtype, device=device, steering=False
        )
        head = policy.add_value_head()
        if arrays.keys() != head.state_dict().keys() or arrays["weight"].shape != head.weight.shape:
            raise DataError(f"{folder}: {HEAD}.safetensors does not fit the model in {BACKBONE}/.")
        head.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        model = cls(policy, config)
        model.offset = float(settings["offset"])
        return model
