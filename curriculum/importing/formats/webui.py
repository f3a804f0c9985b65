"""A chat of Open WebUI's export, with the user's ratings: a disliked answer is not learned, a liked one counts double.

Two answers to one message, one liked and one not, are a preference pair as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from curriculum.importing.formats.tree import branch, note_others
from curriculum.importing.formats.turns import turns_of
from curriculum.importing.formats.values import text_of, time_of_export
from curriculum.importing.found import Found, Note, Pair, Talk, Turn

NAME = "Open WebUI export"
LIKED_WEIGHT = 2.0


def matches(record: Mapping[str, Any]) -> bool:
    chat = record.get("chat")
    return isinstance(chat, Mapping) and ("history" in chat or "messages" in chat)


def read(record: Mapping[str, Any], note: Note) -> list[Found]:
    """The talk last shown, and the pairs that ratings make."""
    chat = record["chat"]
    history = chat.get("history")
    nodes = history.get("messages") if isinstance(history, Mapping) else None
    tree = nodes if isinstance(nodes, Mapping) and nodes else None
    shown = branch(tree, history.get("currentId"), "parentId") if tree else chat.get("messages")
    name = text_of(record, "id") or text_of(chat, "id")
    talk = Talk(
        _rated(shown, note),
        group=f"conversation/{name}" if name else "",
        created_at=time_of_export(record.get("created_at") or chat.get("timestamp"), note),
    )
    pairs = _pairs(tree, note) if tree else []
    if tree:
        compared = {text for pair in pairs for text in (pair.chosen, pair.rejected)}
        note_others(tree, [*shown, *(node for node in tree.values() if _said(node) in compared)], note)
    return [talk, *pairs]


def _rated(messages: object, note: Note) -> tuple[Turn, ...]:
    """The turns, with the weight of each rating."""
    turns: list[Turn] = []
    for message in messages if isinstance(messages, list) else [messages]:
        for turn in turns_of([message], note):
            rating = _rating(message)
            if turn.speaker != "luna" or not rating:
                turns.append(turn)
            elif rating > 0:
                turns.append(Turn("luna", turn.text, LIKED_WEIGHT))
            else:
                note("answers that the user disliked")
                turns.append(Turn("luna", turn.text, 0.0))
    return tuple(turns)


def _rating(message: object) -> int:
    """1 for liked, -1 for disliked, 0 for neither."""
    about = message.get("annotation") if isinstance(message, Mapping) else None
    rating = about.get("rating") if isinstance(about, Mapping) else None
    try:
        number = int(rating) if isinstance(rating, int | str) else 0
    except ValueError:
        return 0
    return (number > 0) - (number < 0)


def _pairs(nodes: Mapping[str, Any], note: Note) -> list[Pair]:
    answers: dict[str, list[Mapping[str, Any]]] = {}
    for node in nodes.values():
        if isinstance(node, Mapping) and _rating(node) and isinstance(node.get("parentId"), str):
            answers.setdefault(node["parentId"], []).append(node)
    return [
        Pair(_rated(branch(nodes, parent, "parentId"), _silent), text, other)
        for parent, rated in answers.items()
        for text in _texts(rated, 1)
        for other in _texts(rated, -1)
    ]


def _texts(nodes: Sequence[Mapping[str, Any]], rating: int) -> list[str]:
    of_rating = [node for node in nodes if _rating(node) == rating]
    return [turn.text for turn in turns_of(of_rating, _silent) if turn.speaker == "luna"]


def _said(node: object) -> str | None:
    text = node.get("content") if isinstance(node, Mapping) else None
    return text.strip() if isinstance(text, str) else None


def _silent(reason: str) -> None:
    """The talk has told it already."""
