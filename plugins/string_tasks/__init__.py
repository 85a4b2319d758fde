"""Tasks on language models: `reverse`, `sort`, `arithmetic`, `keywords`, `preference`, `gsm8k`.

All but `gsm8k` make their own small model, teach it until it is right now and then, and keep it in
the user's cache; nothing is downloaded. docs/tasks.md has the recipes and what was measured.
"""

from __future__ import annotations

import alignzoo as az


@az.hookimpl
def alignzoo_tasks() -> list[az.TaskSpec]:
    """Returns the records of the tasks."""
    return [
        az.TaskSpec(
            id="reverse",
            target="alignzoo.plugins.string_tasks.exact:Reverse",
            summary="letters in reverse, by a small model that begins partly right",
        ),
        az.TaskSpec(
            id="sort",
            target="alignzoo.plugins.string_tasks.exact:Sort",
            summary="letters in order, by a small model that begins partly right",
        ),
        az.TaskSpec(
            id="arithmetic",
            target="alignzoo.plugins.string_tasks.exact:Arithmetic",
            summary="sums of digits, by a small model that begins partly right",
        ),
        az.TaskSpec(
            id="keywords",
            target="alignzoo.plugins.string_tasks.keywords:Keywords",
            summary="sentences with some words and without others, English or Chinese; any policy",
        ),
        az.TaskSpec(
            id="preference",
            target="alignzoo.plugins.string_tasks.preference:Preference",
            summary="a reward fitted to noisy pairs, measured by the truth behind it",
        ),
        az.TaskSpec(
            id="gsm8k",
            target="alignzoo.plugins.string_tasks.gsm8k:GSM8K",
            summary="questions of mathematics with a final number, for a policy that is given",
            paper="arXiv:2110.14168",
        ),
    ]
