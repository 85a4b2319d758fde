"""Decoding at fixed shapes: equal to eager steps, and recorded as a CUDA graph records.

Graphs need a GPU (tests/gpu). Here a traced program stands in for one: it knows nothing but the
operations of one step and the tensors they read and write.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from policy.cases import byte_prompts, small_policy
from pretend_cuda import pretend_cuda
from torch.fx.experimental.proxy_tensor import make_fx

import alignzoo as az
from alignzoo.policy import static

PROMPTS = byte_prompts([5, 9, 3, 9, 7])


class TracedRecording:
    """Runs a step warm and traces it; a replay runs the trace and writes the same outputs."""

    made = 0

    def __init__(self, step):
        TracedRecording.made += 1
        for _ in range(static.WARM_UPS):
            step()
        self.program = make_fx(step)()
        self.outputs = None

    def replay(self):
        found = self.program()
        if self.outputs is None:
            self.outputs = tuple(x.clone() for x in found)
        for fixed, new in zip(self.outputs, found, strict=True):
            fixed.copy_(new)
        return self.outputs


@pytest.fixture
def traced(monkeypatch):
    """Static decoding through traces."""
    monkeypatch.setattr(static, "PlainRecording", TracedRecording)
    monkeypatch.setattr(TracedRecording, "made", 0)


def ending_policy(seed=0, *, num_ends=30, **options):
    """A policy that ends a response with one of many tokens, so that rows end at every step."""
    policy = small_policy(seed, **options)
    policy.model.generation_config.eos_token_id = list(range(6, 6 + num_ends))
    return policy


def sample(policy, decoding, prompts=PROMPTS, *, max_new_tokens=40, **options):
    policy.decoding = decoding
    options = {"num_samples": 4, "seed": 11} | options
    return policy.generate(prompts, max_new_tokens=max_new_tokens, **options)


def assert_same(found, expected, *, exact=True):
    assert found.stop_reasons == expected.stop_reasons
    for a, b in zip(found.token_ids, expected.token_ids, strict=True):
        assert a.tolist() == b.tolist()
    for name in ("log_probs", "values"):
        if getattr(expected, name) is None:
            continue
        for a, b in zip(getattr(found, name), getattr(expected, name), strict=True):
            if exact:
                assert np.array_equal(a, b)
            else:
                assert np.allclose(a, b, rtol=1e-4, atol=1e-5)


# -- the same responses --------------------------------------------------------------------------


@pytest.mark.parametrize("num_ends", [0, 2, 30])
def test_fixed_shapes_give_the_responses_of_eager_steps(num_ends):
    policy = ending_policy(num_ends=num_ends)
    policy.add_value_head().weight.data.normal_(generator=torch.Generator().manual_seed(0))
    expected = sample(policy, "eager", values=True)
    lengths = {len(row) for row in expected.token_ids}
    assert len(lengths) > 5 or num_ends < 30
    assert_same(sample(policy, "static", values=True), expected, exact=False)


def test_one_row_and_one_token_are_a_batch_too():
    policy = ending_policy()
    for prompts, limit in ((PROMPTS[:1], 20), (PROMPTS, 1), (PROMPTS[:1] * 3, 2)):
        options = {"max_new_tokens": limit, "num_samples": 1}
        expected = sample(policy, "eager", prompts, **options)
        assert_same(sample(policy, "static", prompts, **options), expected, exact=False)


def test_eager_attention_and_masks_that_are_added_agree():
    policy = ending_policy()
    policy.model.set_attn_implementation("eager")
    expected = sample(policy, "eager")
    assert_same(sample(policy, "static"), expected, exact=False)


def test_a_critic_shapes_the_logits_outside_the_recording():
    policy = ending_policy()

    def forbid(logits, hidden):
        logits = logits.clone()
        logits[:, 40:] = -torch.inf
        return logits

    policy.shape_logits = forbid
    found = sample(policy, "static")
    assert max(int(row.max()) for row in found.token_ids) < 40
    assert_same(found, sample(policy, "eager"), exact=False)


@pytest.mark.parametrize("autocast", [False, True])
def test_a_recorded_step_replays_bit_for_bit(autocast, traced, monkeypatch):
    policy = ending_policy()
    policy.language_model.autocast = autocast
    found = sample(policy, "static")
    assert TracedRecording.made >= 2  # 24 rows, 12, 8
    monkeypatch.undo()
    policy.language_model.static.release()
    assert_same(found, sample(policy, "static"))


def test_a_recording_reads_what_is_there_when_it_is_replayed(traced, monkeypatch):
    # Other prompts, other weights in the same place, another seed: the same recordings serve.
    policy, batches = ending_policy(), [PROMPTS, byte_prompts([4, 4, 8, 2, 6], seed=1)]
    sample(policy, "static")
    first = dict(policy.language_model.static.decoder.recordings)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.02)
    found = [sample(policy, "static", batch, seed=5) for batch in batches]
    now = policy.language_model.static.decoder.recordings
    assert all(now[size] is recording for size, recording in first.items())
    assert TracedRecording.made == 1 + len(now)  # the probe, and each size once
    monkeypatch.undo()
    policy.language_model.static.release()
    for batch, rows in zip(batches, found, strict=True):
        assert_same(rows, sample(policy, "static", batch, seed=5))


def test_what_an_earlier_batch_left_is_not_read(traced):
    policy = ending_policy()
    expected = sample(policy, "static")
    decoder = policy.language_model.static.decoder
    with torch.inference_mode():
        for state in (x for pair in decoder.storage for x in pair):
            state.fill_(torch.nan)
    assert_same(sample(policy, "static"), expected)


# -- shapes --------------------------------------------------------------------------------------


def test_recordings_halve_down_to_eight_rows():
    assert static.row_counts(64) == [64, 32, 16, 8]
    assert static.row_counts(24) == [24, 12, 8]
    assert static.row_counts(8) == [8]
    assert static.row_counts(2) == [2]


def test_a_batch_of_the_same_shape_uses_the_same_decoder():
    policy = ending_policy()
    decoders = policy.language_model.static
    sample(policy, "static")
    first = decoders.decoder
    sample(policy, "static", PROMPTS[:4], max_new_tokens=30)  # smaller
    assert decoders.decoder is first
    sample(policy, "static", max_new_tokens=50, num_samples=14)  # more rows
    second = decoders.decoder
    assert second is not first
    assert second.num_rows == 72
    sample(policy, "static", PROMPTS[:2], num_samples=8)  # 18 rows are a quarter
    assert decoders.decoder is second
    sample(policy, "static", PROMPTS[:1], num_samples=1)
    assert decoders.decoder is not second


def test_weights_that_moved_are_recorded_again(traced):
    policy = ending_policy()
    sample(policy, "static")
    made = TracedRecording.made
    policy.model.lm_head.weight.data = policy.model.lm_head.weight.data.clone()
    sample(policy, "static")
    assert TracedRecording.made > made


def test_no_position_exceeds_the_context(monkeypatch):
    # A recording runs the step as it is made, and ended rows go on: neither may leave the table.
    policy = ending_policy()
    seen = []
    watch = policy.model.model.rotary_emb.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(int(kwargs["position_ids"].max())),
        with_kwargs=True,
    )
    sample(policy, "static", max_new_tokens=policy.context_length - 9)
    watch.remove()
    assert max(seen) < policy.context_length


# -- when it is used -----------------------------------------------------------------------------


def test_a_step_of_fixed_shape_never_waits_for_the_device(monkeypatch):
    waits = []

    def counting(step):
        recording = static.PlainRecording(step)
        plain = recording.replay

        def replay():
            before = counts.waits + counts["upload"]
            found = plain()
            waits.append(counts.waits + counts["upload"] - before)
            return found

        recording.replay = replay
        return recording

    with pretend_cuda() as counts:
        policy = small_policy()
        policy.model.to("cuda")
        policy.model.generation_config.eos_token_id = []
        policy.tokenizer.eos_token = None
        policy.language_model.static.graphs = counting
        counts.clear()
        found = sample(policy, "auto", PROMPTS[:2], num_samples=1)
        total = counts.waits
    assert [len(row) for row in found.token_ids] == [40, 40]
    assert waits == [0] * 39
    assert total <= 20  # of 40 tokens: the probe, the prefill, two looks, and the results


@pytest.mark.parametrize(
    ("decoding", "device", "num_tokens", "expected"),
    [
        ("auto", "cuda", static.MIN_TOKENS, "graphs"),
        ("auto", "cuda", static.MIN_TOKENS - 1, None),
        ("auto", "cpu", 1000, None),
        ("eager", "cuda", 1000, None),
        ("graph", "cuda", 1, "graphs"),
        ("static", "cpu", 1, static.PlainRecording),
    ],
)
def test_graphs_are_used_where_they_pay(decoding, device, num_tokens, expected):
    with pretend_cuda():
        policy = small_policy()
        policy.model.to(device)
        policy.language_model.static.graphs = "graphs"
        assert static.choose(policy.language_model, decoding, num_tokens) == expected


def test_graphs_are_refused_on_the_cpu():
    policy = small_policy()
    with pytest.raises(az.ConfigError, match="decoding is 'graph', which needs a CUDA device"):
        sample(policy, "graph")
    with pytest.raises(az.ConfigError, match="decoding is 'fast'; expected one of auto"):
        sample(policy, "fast")


def model_of(kind, **options):
    import transformers

    sizes = {
        "vocab_size": 262,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**sizes, **options)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    return az.Policy(model, small_policy().tokenizer)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Qwen2", {"num_key_value_heads": 2}),
        ("GPTNeoX", {}),
        ("Phi", {}),
        ("Cohere", {}),  # scales its logits: they are the model's own
    ],
)
def test_other_models_decode_at_fixed_shapes(kind, options):
    policy = model_of(kind, **options)
    assert policy.language_model.static.find_reason() is None
    expected = sample(policy, "eager", max_new_tokens=20)
    assert_same(sample(policy, "static", max_new_tokens=20), expected, exact=False)


def test_a_model_that_forgets_is_decoded_eagerly_and_refused_at_fixed_shapes():
    policy = model_of("Mistral", sliding_window=8, num_key_value_heads=2)
    reason = policy.language_model.static.find_reason()
    assert "does not keep all keys and values" in reason
    with pytest.raises(az.ConfigError, match="decoding is 'static', but a model of type 'mistral'"):
        sample(policy, "static")
    assert len(sample(policy, "auto", max_new_tokens=5).token_ids) == 20


def test_a_model_that_answers_otherwise_there_is_found_out(monkeypatch):
    policy = small_policy()
    forward = policy.model.model.forward

    def odd(*args, **kwargs):
        out = forward(*args, **kwargs)
        if kwargs.get("attention_mask") is not None and kwargs["attention_mask"].ndim == 4:
            out.last_hidden_state = out.last_hidden_state + 1
        return out

    monkeypatch.setattr(policy.model.model, "forward", odd)
    assert "gives other logits there" in policy.language_model.static.find_reason()
