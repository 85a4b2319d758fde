"""What holds of the scores of every reward, rules and trained ones alike."""

from __future__ import annotations

import copy
import difflib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignzoo.testing.checks import NotApplicable, fail, require
from alignzoo.testing.rewards.subject import (
    EXAMPLE_KEYS,
    TEXTS,
    Case,
    RewardSubject,
    require_same,
    shown,
)

EMPTY = ("", " ", "\n\n")
ODD_TEXTS = (
    "😀 👩‍👩‍👧‍👦 🇨🇭 naïve café",
    "今天天气很好，我们去公园散步吧。",
    "\x01\x02\x1b[31mred\x1b[0m\ttab\r\nline\u2028separator\u200b",
    "a\ufffdb",
    "word " * 2000,
    "x" * 10_000,
    "<|endoftext|></s><pad>",
    "\\boxed{ $ ``` { [ ( <",
)
HALF = "half a pair: \ud83d"  # no text; data files cannot hold it, a file to score can
CHATS = (
    [{"role": "user", "content": "Say 1."}],
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "说五。"}],
    [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": ""},
    ],
)
TOLERANCE = 1e-6  # of an example's score, unless it says another
LARGE_BATCH = 100  # more than what is scored at once by who goes in chunks
OTHER_HASHES = "4711"  # PYTHONHASHSEED of the other process


def one_number_per_response(subject: RewardSubject) -> None:
    """A score is one number per response, or None where there can be none."""
    cases = subject.cases * LARGE_BATCH
    for size in (1, 2, len(subject.cases), LARGE_BATCH):
        subject.score(subject.reward, cases[:size])


def scores_are_finite(subject: RewardSubject) -> None:
    """No score is infinite, and ordinary responses have one."""
    cases = subject.cases
    scores = subject.score(subject.reward, cases)
    for case, score in zip(cases, scores, strict=True):
        require(
            not math.isinf(score),
            f"{shown(case.response)} scored {score}, which ends a run; bound the score, or return "
            "None where a response cannot be scored.",
        )
    require(
        not all(map(math.isnan, scores)),
        f"none of {len(cases)} responses has a score, all are None or NaN. If it needs columns of "
        "the data, give the class examples that have them.",
    )


def an_empty_response_is_scored(subject: RewardSubject) -> None:
    """A response without any text gets a finite score, or None."""
    for text in EMPTY:
        case = Case("Say nothing.", text)
        raw = next(iter(subject.call(subject.reward, [case])), None)
        (score,) = subject.score(subject.reward, [case])
        require(
            raw is None or math.isfinite(score),
            f"{text!r} scored {score}. Responses can be empty: mind what is divided by a length "
            "of 0; return a number, or None.",
        )


def any_text_is_accepted(subject: RewardSubject) -> None:
    """Every text can be scored: other scripts, control characters, very long ones."""
    for text in ODD_TEXTS:
        (score,) = _scores_of(subject, Case("说五。", text))
        require(
            not math.isinf(score),
            f"{shown(text)} scored {score}; policies write anything: bound the score.",
        )
    try:
        (score,) = subject.score(subject.reward, [Case("Say 1.", HALF)])
    except (ValueError, TypeError):  # it says that this is no text
        return
    require(not math.isinf(score), f"{HALF!r} scored {score}; bound the score.")


def _scores_of(subject: RewardSubject, case: Case) -> list[float]:
    """Returns the score of one response; says which one it was where that raises."""
    try:
        return subject.score(subject.reward, [case])
    except Exception as error:
        error.args = (f"{error} (the response is {shown(case.response)})",)
        raise


def chat_prompts_are_accepted(subject: RewardSubject) -> None:
    """A prompt may be text or a list of messages, in one batch too."""
    cases = [Case(chat, TEXTS[i][1]) for i, chat in enumerate(CHATS)]
    alone = [subject.score(subject.reward, [case])[0] for case in cases]
    mixed = [*cases, Case(*TEXTS[0])]
    together = subject.score(subject.reward, mixed)[: len(cases)]
    require_same(
        alone,
        together,
        cases,
        "a chat prompt beside one that is text changed it. `alignzoo.data.plain_text(prompt)` "
        "makes text of either.",
    )


def the_batch_changes_nothing(subject: RewardSubject) -> None:
    """A response scores the same alone and in any batch."""
    cases = subject.cases
    together = subject.score(subject.reward, cases)
    advice = (
        "score each response by itself; the trainer scales and centres scores where an algorithm "
        "asks for it."
    )
    alone = [subject.score(subject.reward, [case])[0] for case in cases]
    require_same(together, alone, cases, f"first among {len(cases)}, then alone; {advice}")
    twice = subject.score(subject.reward, [*cases, *cases])
    for half in (twice[: len(cases)], twice[len(cases) :]):
        require_same(together, half, cases, f"first among others, then twice in a batch; {advice}")


def the_order_changes_nothing(subject: RewardSubject) -> None:
    """Scores stand in the order of the responses, and no order changes them."""
    cases = subject.cases
    scores = subject.score(subject.reward, cases)
    for order in (cases[::-1], [*cases[2:], *cases[:2]]):
        found = dict(zip(map(id, order), subject.score(subject.reward, order), strict=True))
        require_same(
            scores,
            [found[id(case)] for case in cases],
            cases,
            "the responses came in another order. Score i belongs to response i, whatever came "
            "before it.",
        )


def the_same_call_scores_the_same(subject: RewardSubject) -> None:
    """The same responses score the same at every call."""
    reward, cases = subject.fresh(), subject.cases
    scores = subject.score(reward, cases)
    for _ in range(2):
        require_same(
            scores,
            subject.score(reward, cases),
            cases,
            "the same call was made again. Keep nothing between calls, and draw nothing at random "
            "while scoring; put a model into eval mode.",
        )


def another_process_scores_the_same(subject: RewardSubject) -> None:
    """The same responses score the same in another process; a trained one is saved and loaded."""
    cases = subject.cases
    request: dict[str, Any] = {
        "path": sys.path,
        "target": subject.entry.spec.target,
        "options": subject.options,
        "arguments": subject.arguments(cases),
    }
    with tempfile.TemporaryDirectory() as folder:
        if subject.kinds:
            subject.reward.save(Path(folder))
            request["folder"] = folder
        try:
            text = json.dumps(request)
        except (TypeError, ValueError):
            raise NotApplicable("its options or columns cannot be written as JSON") from None
        found = _score_afresh(text)
    require_same(
        subject.score(subject.reward, cases),
        found,
        cases,
        "another process scored it. `hash` of a text and the order of a set differ between "
        "processes: use hashlib, and sorted(...); and keep nothing in a module between calls.",
    )


def _score_afresh(request: str) -> list[float]:
    """Returns what `fresh_scores` scores in an interpreter of its own."""
    script = Path(__file__).with_name("fresh_scores.py")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        input=request,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONHASHSEED": OTHER_HASHES},
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        fail(f"another process could not score them: {last}")
    found = json.loads(done.stdout)
    return [math.nan if score is None else float(score) for score in found]


def no_gradient_is_kept(subject: RewardSubject) -> None:
    """Scores are numbers, not tensors that hold on to a graph."""
    result = subject.call(subject.reward, subject.cases)
    for value in (result, *(result if isinstance(result, Sequence) else ())):
        require(
            not getattr(value, "requires_grad", False),
            "it returned a tensor that requires grad, and with it the activations of every "
            "batch. Score within torch.no_grad(), and return tensor.tolist().",
        )


def inputs_are_not_changed(subject: RewardSubject) -> None:
    """Scoring changes no prompt, response or column."""
    cases = [*subject.cases, *(Case(copy.deepcopy(chat), "Hello.") for chat in CHATS)]
    given = subject.arguments(cases)
    before = copy.deepcopy(given)
    kept: Callable[..., Any] = subject.reward.score
    _call_with(kept, given)
    for name, values in before.items():
        require(
            given[name] == values,
            f"score changed `{name}`; others read it after you: make a copy first.",
        )


def _call_with(score: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Calls a reward with these very lists."""
    from alignzoo.reward import declared_arguments

    names, takes_all = declared_arguments(score)
    score(**{k: v for k, v in given.items() if takes_all or k in names})


def class_probabilities_are_probabilities(subject: RewardSubject) -> None:
    """The probabilities of the classes lie in [0, 1] and sum to 1 for each response."""
    from alignzoo.reward import RewardModel

    if subject.target.class_probabilities is RewardModel.class_probabilities:
        raise NotApplicable("it has no classes")
    texts = [text for _, text in TEXTS]
    found = subject.reward.class_probabilities([prompt for prompt, _ in TEXTS], texts)
    if found is None:
        raise NotApplicable("it has no classes")
    for name, values in found.items():
        require(
            len(values) == len(texts),
            f"class '{name}' has {len(values)} probabilities for {len(texts)} responses.",
        )
    for i, text in enumerate(texts):
        of_one = [float(values[i]) for values in found.values()]
        require(
            all(-1e-6 <= p <= 1 + 1e-6 for p in of_one) and abs(sum(of_one) - 1) < 1e-3,
            f"{shown(text)} has the probabilities {of_one}; expected a softmax over the classes.",
        )


def examples_hold(subject: RewardSubject) -> None:
    """Every example of the class scores what it says."""
    examples = subject.target.examples
    for number, example in enumerate(examples):
        _check_keys(number, example)
    scored = [(n, e) for n, e in enumerate(examples) if "score" in e]
    if not scored:
        raise NotApplicable("no example has a score; give the class one that you worked out")
    if subject.kinds:
        raise NotApplicable("it learns, so that no example has a score before training")
    for number, example in scored:
        _check_example(subject, number, example)


def _check_keys(number: int, example: Any) -> None:
    """Fails where an example is no mapping, lacks its response or has a misspelt key."""
    require(
        isinstance(example, Mapping),
        f"examples[{number}] is {type(example).__name__}; expected a dictionary with 'completion' "
        "and, if it is known, 'score'.",
    )
    for key in set(example) - set(EXAMPLE_KEYS):
        close = difflib.get_close_matches(str(key), EXAMPLE_KEYS, n=1, cutoff=0.75)
        if close:
            fail(
                f"examples[{number}] has the key {key!r}. Did you mean {close[0]!r}? Other keys "
                "are columns of the data."
            )
    known = sorted(set(map(str, example)))
    if "score" in example:
        require(
            isinstance(example.get("completion"), str),
            f"examples[{number}] has no 'completion', the text that is scored; it has {known}.",
        )
    options = example.get("options", {})
    require(
        isinstance(options, Mapping),
        f"examples[{number}]['options'] is {options!r}; expected options by name.",
    )


def _check_example(subject: RewardSubject, number: int, example: Mapping[str, Any]) -> None:
    """Fails where an example's response does not score what the example says."""
    reward = subject.make_alone(example.get("options", {}))
    columns = {k: v for k, v in example.items() if k not in EXAMPLE_KEYS}
    case = Case(example.get("prompt", ""), example["completion"], columns)
    (found,) = subject.score(reward, [case])
    wanted = math.nan if example["score"] is None else float(example["score"])
    tolerance = float(example.get("tolerance", TOLERANCE))
    is_right = (
        math.isnan(found)
        if math.isnan(wanted)
        else found == wanted or abs(found - wanted) <= tolerance
    )
    require(
        is_right,
        f"examples[{number}]: {shown(case.response)} scored {found:.8g}, and the example says "
        f"{example['score']!r} (tolerance {tolerance:g}). Correct the one that is wrong.",
    )
