"""The simulation of verdicts, and what it says of the shipped sizes."""

import numpy as np
import pytest

from bench.verdict_simulation import (
    BOUNDS,
    GATES,
    MARGIN,
    MOST_ERRORS,
    Role,
    accepted_alphas,
    exactly,
    wrongly_accepted,
)
from ledger.rules.blends import ALPHAS


@pytest.mark.parametrize("gate", GATES)
def test_three_points_from_a_bound_the_shipped_sizes_err_at_most_once_in_twenty(gate):
    assert exactly(gate, BOUNDS[gate] - MARGIN)[0] <= MOST_ERRORS
    assert 1 - exactly(gate, BOUNDS[gate] + MARGIN)[0] <= MOST_ERRORS


def test_the_arithmetic_is_the_binomial_where_no_look_comes_before_the_end():
    # Of 20 items more than 17 pass with probability 190 p^18 q^2 + 20 p^19 q + p^20.
    p, q = 0.9, 0.1
    expected = 190 * p**18 * q**2 + 20 * p**19 * q + p**20
    assert exactly("generalization", p, most=20) == pytest.approx((expected, 20))


def test_simulated_roles_without_blends_err_as_often_as_the_arithmetic_says():
    alphas = accepted_alphas(Role((0.84, 0.99), (0.0, 0.0), paired=True), 4000, np.random.default_rng(1))
    assert (alphas == 1.0).mean() == pytest.approx(exactly("generalization", 0.84)[0], abs=0.03)


def test_blends_keep_false_accepts_within_the_bar_even_where_they_err_on_their_own():
    child = (BOUNDS["generalization"] - MARGIN, 0.97)
    role = Role(child, child)
    alphas = accepted_alphas(role, 4000, np.random.default_rng(2))
    assert set(np.unique(alphas)) <= {0.0, 1.0, *ALPHAS}
    assert wrongly_accepted(role, alphas).mean() <= MOST_ERRORS
