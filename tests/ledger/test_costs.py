"""No question to the ledger, and no judgement, costs more because the ledger is long: counted in SQLite's own steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ledger.conversations import Label
from ledger.records import Stop
from ledger.store import Ledger, Stores
from ledger.taken import Taken
from tests.ledger.builders import AT, add_generation, by_role, make_eval, make_ledger, make_move, make_trio, sha
from tests.ledger.test_conversations import a_turn
from tests.ledger.test_growth import a_score

SHORT, LONG = 30, 300


def taken_by(gen_id: int) -> list[Taken]:
    return [Taken(sha(f"{gen_id} {n}"), "train", (1000 * gen_id + n, -n)) for n in range(3)]


def grow(ledger: Ledger, upto: int) -> None:
    """Generations up to this number; now and then one is rejected, the head moves back, or the rule stops."""
    for gen_id in range(ledger.next_gen_id(), upto):
        head = ledger.head()
        assert head is not None
        if gen_id % 10 == 9:
            before, head = head, ledger.parent_chain(head)[1]
            ledger.move_head(make_move(before, head, "rollback"))
        parent = by_role(ledger.generation(head))
        verdict = "rejected" if gen_id % 10 == 5 else "accepted"
        rows = make_trio(gen_id, parent, verdict=verdict)
        move = make_move(head, gen_id) if verdict == "accepted" else None
        stop = Stop(reason="stop", data_delta_shas=(sha("d"),)) if gen_id % 10 == 5 else None
        ledger.record_judgement(
            rows, [make_eval("logical", "recall", 1.0, gen_id=gen_id)], move, stop, taken_by(gen_id)
        )


def steps(ledger: Ledger, ask: Callable[[], object]) -> int:
    """Instructions that SQLite took for this."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    ledger.db._connection.set_progress_handler(step, 1)
    try:
        ask()
    finally:
        ledger.db._connection.set_progress_handler(None, 1)
    return count


def costs(ledger: Ledger) -> dict[str, int]:
    head, newest = ledger.head(), ledger.next_gen_id() - 1
    assert head is not None
    turn = a_turn(newest)
    conversations = Stores.of(ledger).conversations
    conversations.add_turn(turn)
    conversations.add_scores([a_score(turn)])
    ask: dict[str, Callable[[], object]] = {
        "head": ledger.head,
        "age": ledger.age,
        "lineages": ledger.lineages,
        "current lineage": ledger.current_lineage,
        "next number": ledger.next_gen_id,
        "stop": ledger.stop_of,
        "last stop": ledger.last_stop_gen,
        "last judged": ledger.last_judged,
        "one generation": lambda: ledger.generation(newest),
        "is judged": lambda: ledger.is_judged(newest),
        "scores": lambda: ledger.evals(newest),
        "stop window": lambda: ledger.stop_window(newest + 1, head),
        "latest rows": lambda: ledger.latest_rows(5),
        "has taken": lambda: ledger.has_taken(newest),
        "taken": lambda: ledger.taken_among([item.example_id for item in taken_by(newest)]),
        "sides": lambda: ledger.sides_of([key for item in taken_by(newest) for key in item.keys]),
        "label": lambda: conversations.add_label(turn.id, Label(valence=1, at=AT)),
    }
    found = {name: steps(ledger, work) for name, work in ask.items()}
    rows = make_trio(newest + 1, by_role(ledger.generation(head)))
    move = make_move(head, newest + 1)
    taken = taken_by(newest + 1)
    found["judgement"] = steps(ledger, lambda: ledger.record_judgement(rows, [], move, taken=taken))
    back = make_move(newest + 1, head, "rollback")
    found["roll back"] = steps(ledger, lambda: ledger.move_head(back))
    return found


def test_no_question_and_no_judgement_costs_more_because_the_ledger_is_long(tmp_path: Path):
    with make_ledger(tmp_path) as ledger:
        add_generation(ledger, 0, None)
        grow(ledger, SHORT)
        short = costs(ledger)
        grow(ledger, LONG)
        long = costs(ledger)
    grown = {name: (short[name], long[name]) for name in short if long[name] > 1.2 * short[name] + 20}
    assert grown == {}
