"""Trees of messages, as OpenAssistant publishes them: a prompt, ranked replies to it, and so on.

One row is a tree: `{"prompt": {"role": "prompter", "text": ..., "replies": [{"role": "assistant",
"text": ..., "rank": 0, "replies": [...]}, ...]}}`, or the object of its first message alone.
Messages that were deleted or did not pass review are left out, with all that follows them.

A file may also hold one message a row, each with `message_id` and the `parent_id` it answers; such
rows are gathered into trees first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from alignzoo.data.messages import Messages, check_text, wrong
from alignzoo.data.row import Row
from alignzoo.errors import DataError

TREE_ROLES = {"prompter": "user", "assistant": "assistant"}
MESSAGE_COLUMNS = {"message_id", "parent_id", "text", "role"}
MAX_TURNS = 200  # from the root of a tree to a leaf


class Turn(NamedTuple):
    """A prompt of a tree, with all that was said before it, and the replies to it, best first.

    `num_ranked` of the replies, the first ones, were ranked by people; the others are in the
    order of the file.
    """

    prompt: Messages
    replies: list[dict[str, str]]
    num_ranked: int


def is_tree(row: Row) -> bool:
    """Whether a row is a tree of messages."""
    return _root(row) is not None


def is_message(row: Row) -> bool:
    """Whether a row is one message of a tree, which names the one it answers."""
    return set(row.values) >= MESSAGE_COLUMNS


def gather_trees(rows: Iterable[Row]) -> Iterator[Row]:
    """Yields the rows; those that are messages of trees as trees, at the end, by their root.

    Raises:
        DataError: a message has no id or one that is another's, or answers none that is there.
    """
    messages: dict[str, tuple[Row, dict[str, Any]]] = {}
    for row in rows:
        if not is_message(row):
            yield row
            continue
        name = row.values["message_id"]
        if not isinstance(name, str) or name in messages:
            what = "stands twice" if isinstance(name, str) else "is no text"
            raise DataError(f"{row.where}: the message_id {what}; give each message its own.")
        messages[name] = (row, {**row.values, "replies": []})
    for row, node in messages.values():
        parent = node["parent_id"]
        if parent is not None and (not isinstance(parent, str) or parent not in messages):
            raise DataError(
                f"{row.where}: the parent_id is that of no message; add the message that this one "
                "answers, or leave this one out."
            )
        if parent is not None:
            messages[parent][1]["replies"].append(node)
    yield from _roots(messages)


def _roots(messages: Mapping[str, tuple[Row, dict[str, Any]]]) -> Iterator[Row]:
    """Yields the trees of messages that were linked, if every message is in one."""
    level = [node for _, node in messages.values() if node["parent_id"] is None]
    reached, depth = len(level), 1
    while level := [reply for node in level for reply in node["replies"]]:
        reached, depth = reached + len(level), depth + 1
    if reached < len(messages) or depth > MAX_TURNS:
        row = next(iter(messages.values()))[0]
        raise DataError(
            f"{row.source}: messages answer each other in a circle, or over {MAX_TURNS} in a row; "
            "expected trees of messages that begin with one whose parent_id is null."
        )
    for row, node in messages.values():
        if node["parent_id"] is None:
            known = {"message_tree_id", "lang"} & set(row.values)
            yield replace(row, values={**{key: row.values[key] for key in known}, "prompt": node})


def ranking_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Yields the rows, each tree as one ranking per prompt with two or more ranked replies."""
    for row in gather_trees(rows):
        if not is_tree(row):
            yield row
            continue
        for turn in turns(row):
            if turn.num_ranked >= 2:
                replies = [[reply] for reply in turn.replies[: turn.num_ranked]]
                yield _derived(row, prompt=turn.prompt, completions=replies)


def demonstration_rows(rows: Iterable[Row]) -> Iterator[Row]:
    """Yields the rows, each tree as one demonstration per prompt: the best reply to it.

    So each such reply is learned once, after all that was said before it.
    """
    for row in gather_trees(rows):
        if not is_tree(row):
            yield row
            continue
        for turn in turns(row):
            yield _derived(row, prompt=turn.prompt, completion=turn.replies[:1])


def turns(row: Row) -> Iterator[Turn]:
    """Yields the prompts of a tree that were answered, from the root on, depth first.

    Raises:
        DataError: a message has no text, an unknown role, or one that its place cannot have.
    """
    root = _root(row)
    assert root is not None
    column = "prompt" if root is not row.values else ""
    if _is_kept(root):
        yield from _turns(row, column, root, [])


def _root(row: Row) -> Mapping[str, Any] | None:
    for node in (row.values.get("prompt"), row.values):
        if isinstance(node, Mapping) and "replies" in node and "text" in node:
            return node
    return None


def _turns(row: Row, column: str, node: Mapping[str, Any], before: Messages) -> Iterator[Turn]:
    prompt = [*before, _message(row, column, node, "prompter")]
    replies = [(place, reply) for place, reply in _replies(row, column, node) if _is_kept(reply)]
    ranks = [_rank(row, place, reply) for place, reply in replies]
    order = sorted(range(len(replies)), key=lambda i: (ranks[i] is None, ranks[i] or 0))
    said = {i: _message(row, *replies[i], "assistant") for i in order}
    if said:
        yield Turn(prompt, list(said.values()), sum(rank is not None for rank in ranks))
    for i in order:
        for place, further in _replies(row, *replies[i]):
            if _is_kept(further):
                yield from _turns(row, place, further, [*prompt, said[i]])


def _replies(row: Row, column: str, node: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    column = f"{column}.replies".lstrip(".")
    replies = node.get("replies") or []
    if not isinstance(replies, list):
        raise wrong(row, column, replies, "a list of messages")
    placed = [(f"{column}[{index}]", reply) for index, reply in enumerate(replies)]
    for place, reply in placed:
        if not isinstance(reply, Mapping):
            raise wrong(row, place, reply, "a message: an object with 'role' and 'text'")
    return placed


def _is_kept(node: Mapping[str, Any]) -> bool:
    return not node.get("deleted") and node.get("review_result") is not False


def _rank(row: Row, column: str, node: Mapping[str, Any]) -> int | None:
    rank = node.get("rank")
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int)):
        raise wrong(row, f"{column}.rank", rank, "a whole number, 0 the best, or null")
    return rank


def _message(row: Row, column: str, node: Mapping[str, Any], expected: str) -> dict[str, str]:
    text, role = node.get("text"), node.get("role")
    if not isinstance(text, str):
        raise wrong(row, f"{column}.text".lstrip("."), text, "text")
    if role != expected:
        raise DataError(
            f"{row.where}: '{column or 'the first message'}' has the role '{role}'; expected "
            f"'{expected}': prompters and assistants take turns."
        )
    return {"role": TREE_ROLES[role], "content": check_text(row, f"{column}.text", text)}


def _derived(row: Row, **values: Any) -> Row:
    """Returns a row made of a tree; it keeps the tree's place and what identifies it."""
    kept = {key: row.values[key] for key in ("message_tree_id", "lang") if key in row.values}
    return replace(row, values={**kept, **values})
