"""Small files of every kind of human judgement, easily learned."""

from __future__ import annotations


def judgements(count: int = 40) -> dict[str, list[dict[str, object]]]:
    """Returns `count` rows of each kind, by the name that the documentation gives its file.

    What is thankful is good, and what ends with an exclamation mark is bad.
    """
    files: dict[str, list[dict[str, object]]] = {}
    for i in range(count):
        prompt, good, bad = f"Say {i}.", f"Thank you, {i}.", f"Go away, {i}!"
        polite, text = i % 2 == 0, (good, bad)[i % 2]
        both = {"prompt": prompt, "completion": text}
        rows: dict[str, dict[str, object]] = {
            "prompts": {"prompt": prompt, "answer": str(i)},
            "completions": {**both, "answer": str(i)},
            "ratings": {**both, "rating": 4 + polite, "rater": f"rater {i % 3}"},
            "classes": {**both, "label": "good" if polite else "bad"},
            "pairs": {"prompt": prompt, "chosen": good, "rejected": bad},
            "rankings": {"prompt": prompt, "completions": [good, f"{i}.", bad]},
            "feedback": {
                **both,
                "feedback": "This is kind." if polite else "This is rude.",
                "rating": int(polite),
            },
            "steps": {"prompt": prompt, "steps": [good, bad], "ratings": [1, 0]},
        }
        for name, row in rows.items():
            files.setdefault(name, []).append(row)
    return files
