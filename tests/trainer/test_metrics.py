"""What a run writes: metrics, samples, the model; what it is told and what it tells."""

from __future__ import annotations

import math

import pytest
import torch
from trainer.runs import (
    DEMONSTRATIONS,
    TEXTS,
    count_vowels,
    make_trainer,
    metrics_of,
    outcome,
    read_lines,
    saved_config,
    write_lines,
)

import alignzoo as az

STEPS = 5
ALWAYS = {"step", "grad_norm", "entropy", "tokens", "seconds", "skipped_updates"}
SAMPLED = ALWAYS | {"score_mean", "kl", "policy_loss", "unscorable"}
PROMISED = {
    "ppo": SAMPLED | {"approx_kl", "clip_frac"},
    "reinforce": SAMPLED,
    "sft": ALWAYS | {"loss"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, policy):
    """For each algorithm a run of STEPS updates, evaluated every second one."""
    made = {}

    def get(id):
        if id not in made:
            out = tmp_path_factory.mktemp(id) / "run"
            trainer = make_trainer(
                policy, out, az.make(id, learning_rate=1e-3), eval_every=2, checkpoint_every=2
            )
            made[id] = trainer, trainer.run(STEPS), out
        return made[id]

    return get


@pytest.mark.parametrize("id", PROMISED)
def test_every_line_has_what_is_promised(id, runs):
    _, lines, out = runs(id)
    assert lines == metrics_of(out)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    for line in lines:
        assert line.keys() >= PROMISED[id]
        for name in PROMISED[id]:
            assert isinstance(line[name], int | float)
            assert math.isfinite(line[name])


@pytest.mark.parametrize("id", PROMISED)
def test_held_out_figures_come_at_the_first_the_regular_and_the_last_update(id, runs):
    _, lines, _ = runs(id)
    promised = {"eval_loss"} if id == "sft" else {"eval_score_mean", "eval_kl"}
    for line in lines:
        expected = promised if line["step"] in (1, 2, 4, 5) else set()
        assert {name for name in line if name in promised} == expected


def test_tokens_count_the_responses_so_far(policy, tmp_path):
    lengths = []

    def reward(prompts, completions):
        lengths.append(sum(len(text.encode()) for text in completions))
        return [0.0] * len(completions)

    algorithm = az.make("reinforce", learning_rate=1e-3)
    lines = make_trainer(
        policy, tmp_path / "run", algorithm, reward=reward, eval_fraction=0, max_new_tokens=3
    ).run(3)
    tokens = [line["tokens"] for line in lines]
    assert all(tokens[i] <= 3 * 8 * (i + 1) for i in range(3))
    assert tokens == sorted(tokens)
    for line, before in zip(lines, [0, *tokens], strict=False):
        assert line["tokens"] - before == line["response_length_mean"] * 8


def test_kl_is_zero_before_anything_was_learned_and_positive_after(policy, tmp_path):
    algorithm = az.make("reinforce", learning_rate=1e-2, kl_coef=0.0, baseline="batch")
    lines = make_trainer(policy, tmp_path / "run", algorithm, batch_size=32).run(8)
    assert abs(lines[0]["kl"]) < 1e-4
    assert lines[-1]["eval_kl"] > 0.05


def test_kl_is_the_mean_over_sequences_of_the_summed_log_ratio(policy, tmp_path):
    trainer = make_trainer(policy, tmp_path / "run", az.make("ppo", learning_rate=1e-2))
    found = {}

    def watch(step, metrics):
        buffer = trainer.buffer
        rows = buffer.rows(step)
        gap = buffer.padded("old_log_probs", rows) - buffer.padded("ref_log_probs", rows)
        mask = buffer.padded("response_mask", rows)
        found[step] = (gap.astype("float64") * mask).sum(1).mean()

    trainer.observers.append(watch)
    for line in trainer.run(4):
        assert line["kl"] == pytest.approx(found[line["step"]], abs=1e-6)


def test_score_mean_is_raw_whatever_the_penalty(policy, tmp_path):
    seen = []

    def reward(prompts, completions):
        seen.append(count_vowels(prompts, completions))
        return seen[-1]

    algorithm = az.make("ppo", learning_rate=1e-3, kl_coef=5.0, whiten_advantages="full")
    lines = make_trainer(policy, tmp_path / "run", algorithm, reward=reward, eval_fraction=0).run(3)
    means = [sum(scores) / len(scores) for scores in seen]
    assert [line["score_mean"] for line in lines] == pytest.approx(means)


def test_several_rewards_are_summed_by_weight_and_each_is_logged(policy, tmp_path):
    def longer(completions, **columns):
        return [len(text) for text in completions]

    rewards = [(longer, -0.5), az.make_reward("length", target=4), (count_vowels, 3)]
    trainer = make_trainer(
        policy, tmp_path / "run", az.make("ppo", learning_rate=1e-3), reward=rewards
    )
    for line in trainer.run(2):
        for prefix in ("", "eval_"):
            parts = {
                name: line[f"{prefix}score/{name}"] for name in ("longer", "length", "count_vowels")
            }
            total = -0.5 * parts["longer"] + parts["length"] + 3 * parts["count_vowels"]
            assert line[f"{prefix}score_mean"] == pytest.approx(total)


def test_one_reward_is_logged_once(runs):
    assert not [name for name in runs("ppo")[1][0] if name.startswith("score/")]


def test_a_trl_reward_function_works_unchanged(policy, tmp_path):
    """Called by keyword with what it declares; columns arrive by name, repeated for each sample."""
    calls = []

    def correct(completions, solution, difficulty, **kwargs):
        calls.append((completions, solution, difficulty, set(kwargs)))
        pairs = zip(completions, solution, strict=True)
        return [1.0 if text.startswith(start) else 0.0 for text, start in pairs]

    rows = [
        {"prompt": text, "solution": text[::-1], "difficulty": i} for i, text in enumerate(TEXTS)
    ]
    algorithm = az.make("ppo", learning_rate=1e-3, group_size=4)
    make_trainer(
        policy, tmp_path / "run", algorithm, reward=correct, prompts=rows, eval_fraction=0
    ).run(1)
    completions, solution, difficulty, others = calls[0]
    assert len(completions) == len(solution) == len(difficulty) == 8
    assert "prompts" in others
    assert difficulty == [difficulty[0]] * 4 + [difficulty[4]] * 4
    assert solution == [TEXTS[number][::-1] for number in difficulty]


def test_chat_prompts_reach_the_reward_as_messages(policy, tmp_path):
    calls = []

    def judge(prompts, completions):
        calls.append((prompts, completions))
        return [0.0] * len(prompts)

    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    algorithm = az.make("reinforce", learning_rate=1e-3)
    make_trainer(
        policy, tmp_path / "run", algorithm, reward=judge, prompts=chats, eval_fraction=0
    ).run(1)
    prompts, completions = calls[0]
    assert prompts[0] in chats
    assert [message["role"] for message in completions[0]] == ["assistant"]


def test_held_out_prompts_are_never_trained_on(policy, tmp_path):
    seen = []

    def reward(prompts, completions):
        seen.append(set(prompts))
        return [0.0] * len(prompts)

    repeated = [*TEXTS, *TEXTS]  # a prompt that stands twice is on one side
    trainer = make_trainer(
        policy,
        tmp_path / "run",
        az.make("reinforce", learning_rate=1e-3),
        reward=reward,
        prompts=repeated,
        eval_every=100,
    )
    trainer.run(12)
    held_out = {prompt.row.prompt for prompt in trainer.dataset.held_out}
    trained = {prompt.row.prompt for prompt in trainer.dataset.train}
    assert held_out
    assert trained | held_out == set(TEXTS)
    assert not trained & held_out
    assert seen[0] == seen[2] == seen[-1] == held_out  # before, at the first and the last update
    for batch in [seen[1], *seen[3:-1]]:
        assert batch <= trained
    assert set().union(*seen[3:-1]) == trained
    assert trainer.config["data"]["held_out_rows"] == 2 * len(held_out)


def test_held_out_demonstrations_are_never_trained_on(runs):
    trainer, _, _ = runs("sft")
    places = [
        {row.where for row in part} for part in (trainer.dataset.train, trainer.dataset.held_out)
    ]
    assert places[1]
    assert not places[0] & places[1]
    assert len(places[0]) + len(places[1]) == len(DEMONSTRATIONS)


def test_few_prompts_are_not_split(policy, tmp_path):
    algorithm = az.make("reinforce", learning_rate=1e-3)
    trainer = make_trainer(policy, tmp_path / "run", algorithm, prompts=TEXTS[:19] * 3)
    assert not trainer.dataset.held_out
    line = trainer.run(1)[0]
    assert not [name for name in line if name.startswith("eval_")]
    assert read_lines(tmp_path / "run" / "samples.jsonl")  # then it shows what it trained on


def test_given_held_out_prompts_are_used_alone(policy, tmp_path):
    given = write_lines(tmp_path / "held_out.jsonl", ["Alone", "Also"])
    algorithm = az.make("reinforce", learning_rate=1e-3)
    trainer = make_trainer(policy, tmp_path / "run", algorithm, eval_prompts=str(given))
    assert [prompt.row.prompt for prompt in trainer.dataset.held_out] == ["Alone", "Also"]
    assert len(trainer.dataset.train) == len(TEXTS)
    assert "eval_score_mean" in trainer.run(1)[0]


def test_given_held_out_demonstrations_are_used_alone(policy, tmp_path):
    trainer = make_trainer(policy, tmp_path / "run", az.make("sft"), eval_data=[DEMONSTRATIONS[0]])
    assert len(trainer.dataset.held_out) == 1
    assert len(trainer.dataset.train) == len(DEMONSTRATIONS)
    assert trainer.run(1)[0]["eval_loss"] > 0


def test_an_evaluation_looks_at_no_more_rows_than_it_may(policy, tmp_path):
    algorithm = az.make("reinforce", learning_rate=1e-3)
    trainer = make_trainer(policy, tmp_path / "run", algorithm, eval_prompts=TEXTS, max_eval_rows=5)
    assert len({prompt.row.prompt for prompt in trainer.dataset.held_out}) == 5


def test_every_prompt_is_taken_once_before_one_is_taken_twice(policy, tmp_path):
    taken = []

    def reward(prompts, completions):
        taken.extend(prompts)
        return [0.0] * len(prompts)

    algorithm = az.make("reinforce", learning_rate=1e-3)
    make_trainer(
        policy, tmp_path / "run", algorithm, reward=reward, eval_fraction=0, batch_size=10
    ).run(5)
    for start in (0, 24):
        assert sorted(taken[start : start + 24]) == sorted(TEXTS)
    assert taken[:24] != taken[24:48]


def test_fewer_prompts_than_a_batch_cycle(policy, tmp_path):
    algorithm = az.make("ppo", learning_rate=1e-3, group_size=2)
    lines = make_trainer(policy, tmp_path / "run", algorithm, prompts=["One"]).run(2)
    assert len(lines) == 2


def test_observers_see_every_line_and_may_end_the_run(policy, tmp_path):
    seen = []

    def watch(step, metrics):
        seen.append((step, metrics["score_mean"]))
        return step == 3

    trainer = make_trainer(
        policy,
        tmp_path / "run",
        az.make("reinforce", learning_rate=1e-3),
        observers=[watch, lambda step, metrics: None],
        checkpoint_every=100,
    )
    lines = trainer.run(9)
    assert seen == [(line["step"], line["score_mean"]) for line in lines]
    assert len(lines) == 3
    assert (tmp_path / "run" / "checkpoints" / "step_3").is_dir()
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()


def test_truth_that_is_not_true_ends_nothing(policy, tmp_path):
    algorithm = az.make("reinforce", learning_rate=1e-3)
    trainer = make_trainer(
        policy, tmp_path / "run", algorithm, observers=[lambda step, metrics: 1.0]
    )
    assert len(trainer.run(2)) == 2


@pytest.mark.parametrize("id", PROMISED)
def test_the_final_model_loads_in_transformers(id, runs):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer, _, out = runs(id)
    model = AutoModelForCausalLM.from_pretrained(out / "final")
    tokenizer = AutoTokenizer.from_pretrained(out / "final")
    trained = dict(trainer.policy.model.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, trained[name]), name
    given = tokenizer(TEXTS[0], return_tensors="pt")
    written = model.generate(**given, max_new_tokens=4, do_sample=False)
    assert written.shape[1] <= given["input_ids"].shape[1] + 4
    assert tokenizer.eos_token == trainer.policy.tokenizer.eos_token


@pytest.mark.parametrize("id", PROMISED)
def test_the_final_model_is_a_policy_again(id, runs):
    trainer, _, out = runs(id)
    again = az.Policy.from_pretrained(out / "final")
    assert again.fingerprint() == trainer.policy.fingerprint()


@pytest.mark.parametrize("id", PROMISED)
def test_a_run_folder_has_all_its_parts(id, runs):
    _, _, out = runs(id)
    names = {path.name for path in out.iterdir()}
    assert names >= {"config.yaml", "metrics.jsonl", "report.html", "checkpoints", "final"}
    assert id in (out / "final" / "README.md").read_text().lower()
    assert not [name for name in names if name.startswith(".")]
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"step_4", "step_5"}
    if id != "sft":
        assert "samples.jsonl" in names


def test_no_pickle_is_written(runs):
    out = runs("ppo")[2]
    endings = {path.suffix for path in out.rglob("*") if path.is_file()}
    assert endings <= {".yaml", ".json", ".jsonl", ".safetensors", ".html", ".md", ".jinja", ".txt"}


def test_samples_can_be_read_beside_their_scores(runs):
    rows = read_lines(runs("ppo")[2] / "samples.jsonl")
    assert {row["step"] for row in rows} == {0, 1, 2, 4, 5}
    for row in rows:
        assert row["prompt"] in TEXTS
        assert row["split"] == "held-out"
        assert row["score"] == count_vowels([row["prompt"]], [row["response"]])[0]
        assert row["stop_reason"] in ("end", "length")


def test_config_says_all_that_the_run_was_made_of(runs):
    trainer, _, out = runs("ppo")
    config = saved_config(out)
    assert config["steps"] == STEPS
    assert config["algorithm"]["options"] == trainer.algorithm.config.model_dump(mode="json")
    assert config["options"] == trainer.options.model_dump(mode="json")
    assert config["environment"]["threads"] == torch.get_num_threads()
    assert config["policy"]["fingerprint"] != trainer.policy.fingerprint()  # as it was at first
    for library in ("alignzoo", "torch", "transformers"):
        assert config["environment"]["versions"][library]


def test_the_same_seed_makes_the_same_run(runs, policy, tmp_path):
    algorithm = az.make("ppo", learning_rate=1e-3)
    make_trainer(policy, tmp_path / "run", algorithm, eval_every=2, checkpoint_every=2).run(STEPS)
    assert outcome(tmp_path / "run") == outcome(runs("ppo")[2])


@pytest.mark.parametrize("sampler", ["sampler", "recompute"])
def test_the_gap_between_sampler_and_training_forward_is_logged(sampler, policy, tmp_path):
    algorithm = az.make("ppo", learning_rate=1e-3)
    line = make_trainer(policy, tmp_path / "run", algorithm, old_log_probs=sampler).run(1)[0]
    assert 0 <= line["sampler_mismatch"] <= line["sampler_mismatch_max"] <= 1e-4


def test_a_sampling_algorithm_needs_prompts_and_a_reward(policy, tmp_path):
    for missing in ("prompts", "reward"):
        with pytest.raises(az.ConfigError, match=missing):
            make_trainer(policy, tmp_path / "run", az.make("ppo"), **{missing: None})
    with pytest.raises(az.ConfigError, match="data"):
        make_trainer(policy, tmp_path / "run", az.make("sft"), data=None)
    assert not (tmp_path / "run").exists()


def test_supervised_learning_lowers_the_held_out_loss(policy, tmp_path):
    trainer = make_trainer(policy, tmp_path / "run", az.make("sft", learning_rate=1e-2))
    lines = trainer.run(20)
    assert lines[-1]["eval_loss"] < trainer.baseline["eval_loss"] - 1.0
    assert lines[-1]["loss"] < lines[0]["loss"] - 1.0


def test_learning_from_a_reward_raises_it(policy, tmp_path):
    def reward(prompts, completions):
        return [sum(c == "e" for c in text) for text in completions]

    algorithm = az.make("ppo", learning_rate=1e-2, kl_coef=0.0)
    trainer = make_trainer(policy, tmp_path / "run", algorithm, reward=reward, batch_size=64)
    lines = trainer.run(25)
    assert lines[-1]["score_mean"] > lines[0]["score_mean"] + 1.0
