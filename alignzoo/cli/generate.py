"""`alignzoo generate`: samples completions of a file of prompts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from alignzoo.cli.arguments import Parser
from alignzoo.cli.options import OptionSet
from alignzoo.cli.output import replace_lines
from alignzoo.cli.train import quiet_transformers, set_threads
from alignzoo.config import Config


class GenerateOptions(Config):
    """What `alignzoo generate` can be told."""

    policy: str = Field(..., description="model folder, hub id, or 'tiny'")
    prompts: str = Field(..., description="file or hub id with a 'prompt' column")
    out: str = Field(..., description="JSON-lines file to write")
    num_samples: int = Field(1, gt=0, description="completions per prompt")
    max_new_tokens: int = Field(64, gt=0, description="longest completion, in tokens")
    temperature: float = Field(1.0, ge=0, description="0 takes the likeliest token each time")
    top_k: int = Field(0, ge=0, description="sample from this many tokens; 0 from all")
    top_p: float = Field(1.0, gt=0, le=1, description="sample from this much probability")
    seed: int = Field(0, ge=0, description="of the draws")
    batch_size: int = Field(64, gt=0, description="completions sampled at a time")
    steering: bool = Field(True, description="apply the critic that lies beside the policy, if any")
    threads: int | None = Field(None, gt=0, description="CPU threads; default torch's own choice")
    device: str = Field("cpu", description="where the policy lives: cpu, cuda or cuda:N")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the policy's weights"
    )
    decoding: Literal["auto", "eager", "static", "graph"] = Field(
        "auto",
        description="how a token is sampled: kernel by kernel, the same at fixed shapes, or by "
        "CUDA graphs; auto is graph on a CUDA device for 32 tokens or more, else eager",
    )


def run(arguments: list[str]) -> int:
    """Writes one line per completion, in the order of the prompts."""
    parser = Parser("generate", "Samples completions of a file of prompts.")
    options = OptionSet({"generate": GenerateOptions})
    options.add_to(parser)
    given = options.read(parser.parse(arguments)).build(GenerateOptions, "generate")
    set_threads(given.threads)
    quiet_transformers()
    replace_lines(given.out, _generate(given))
    print(given.out)
    return 0


def _generate(options: GenerateOptions) -> list[dict[str, Any]]:
    import numpy as np

    from alignzoo.data import check_prompt_lengths, encode_prompts, read_prompts
    from alignzoo.policy import Policy, find_device

    device = find_device(options.device, option="--device")
    rows = read_prompts(options.prompts)
    policy = Policy.from_pretrained(
        options.policy,
        dtype=options.dtype,
        device=device,
        decoding=options.decoding,
        seed=options.seed,
        steering=options.steering,
    )
    prompts = encode_prompts(policy.tokenizer, rows)
    check_prompt_lengths(
        prompts, context_length=policy.context_length, max_new_tokens=options.max_new_tokens
    )
    samples = options.num_samples
    at_a_time = max(1, options.batch_size // samples)
    lines: list[dict[str, Any]] = []
    for start in range(0, len(prompts), at_a_time):
        part = prompts[start : start + at_a_time]
        generation = policy.generate(
            [prompt.token_ids for prompt in part],
            num_samples=samples,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            row_ids=start * samples + np.arange(len(part) * samples),
        )
        for i, text in enumerate(policy.decode(generation.token_ids)):
            lines.append(
                {
                    "prompt": part[i // samples].row.prompt,
                    "completion": text,
                    "sample": i % samples,
                    "log_prob": float(generation.log_probs[i].astype(np.float64).sum()),
                    "stop_reason": generation.stop_reasons[i],
                }
            )
    return lines
