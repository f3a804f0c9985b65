"""How far the offline teacher's rules agree with the labels of a real one.

    python -m bench.teacher labels.jsonl

Prints, for each value, Spearman's rank correlation over all answers with a 95 % bootstrap interval (prompts drawn with
replacement), and the share of pairs within a prompt (at least 0.25 apart for the real teacher) that the rules order the
same way. `--half 0` and `--half 1` take one half of the prompts: the rules were written while looking at half 0 only.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from curriculum.preferences.pairs import scalar_of
from curriculum.reward import VALUES, TeacherLabel, prompt_groups, read_labels
from curriculum.teacher.rules import NAME, label

DRAWS = 500


def main() -> None:
    """Read the labels, judge the same answers by the rules, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("labels", type=Path, help="JSONL of labels of a real teacher")
    parser.add_argument("--half", type=int, choices=(0, 1), help="only this half of the prompts")
    chosen = parser.parse_args()
    labels = read_labels(chosen.labels, out_of_range="clamp").labels
    groups = prompt_groups([(one.prompt_id, one.prompt) for one in labels])
    kept = [(one, group) for one, group in zip(labels, groups, strict=True) if chosen.half in (None, half_of(group))]
    print(f"{NAME} against {len(kept)} labels of {len({group for _, group in kept})} prompts")
    for line in table([one for one, _ in kept], [group for _, group in kept]):
        print(line)


def half_of(group: str) -> int:
    """0 or 1, by the prompt's hash."""
    return sha256(group.encode()).digest()[0] % 2


def table(labels: Sequence[TeacherLabel], groups: Sequence[str]) -> list[str]:
    """One line a value, the mean of them, and the agreement on pairs."""
    real = np.array([one.reward.values() for one in labels])  # (N, 9)
    rules = [label(one.prompt, one.response) for one in labels]
    found = np.array([one.values() for one in rules])  # (N, 9)
    rows_of = defaultdict(list)
    for row, group in enumerate(groups):
        rows_of[group].append(row)
    by_prompt = [np.array(rows) for rows in rows_of.values()]
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(DRAWS):
        rows = np.concatenate([by_prompt[i] for i in rng.integers(0, len(by_prompt), len(by_prompt))])
        draws.append(correlations(real[rows], found[rows]))
    low, high = np.nanquantile(np.array(draws), [0.025, 0.975], axis=0)
    point = correlations(real, found)
    lines = [
        f"{name:<20} {value:6.3f}  [{a:6.3f}, {b:6.3f}]"
        for name, value, a, b in zip((*VALUES, "mean of the nine"), point, low, high, strict=True)
    ]
    agree = [
        (scalar_of(labels[a].reward) > scalar_of(labels[b].reward)) == (scalar_of(rules[a]) > scalar_of(rules[b]))
        for rows in rows_of.values()
        for a, b in itertools.combinations(rows, 2)
        if abs(scalar_of(labels[a].reward) - scalar_of(labels[b].reward)) >= 0.25
    ]
    return [*lines, f"pairs within a prompt that the rules order the same way: {np.mean(agree):.3f} of {len(agree)}"]


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman of each column of two (N, V) arrays, and their mean at the end: (V + 1,)."""
    ranks_a, ranks_b = rankdata(a, axis=0), rankdata(b, axis=0)
    each = np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(ranks_a.T, ranks_b.T, strict=True)])
    return np.append(each, each.mean())


if __name__ == "__main__":
    main()
