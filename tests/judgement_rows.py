"""The kit's human judgements, as the files that the documentation names."""

from __future__ import annotations

from typing import Any

from alignzoo.testing.rewards.judgements import judgement_rows

FILES = {
    "ratings": "ratings",
    "classes": "classes",
    "pairs": "preferences",
    "rankings": "rankings",
    "feedback": "text_feedback",
    "steps": "steps",
}


def judgements(count: int = 40) -> dict[str, list[dict[str, Any]]]:
    """Returns `count` rows of each kind, prompts and completions to score too, by file name."""
    files = {name: judgement_rows(kind, count) for name, kind in FILES.items()}
    rated = files["ratings"]
    prompts = [{"prompt": row["prompt"], "answer": str(i)} for i, row in enumerate(rated)]
    completions = [{**row, "completion": rated[i]["completion"]} for i, row in enumerate(prompts)]
    return {"prompts": prompts, "completions": completions, **files}
