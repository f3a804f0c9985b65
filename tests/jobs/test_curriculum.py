"""`luna curriculum build`: how much it builds."""

from __future__ import annotations

from collections import Counter

import pytest

from curriculum.recipes.build import TOTALS
from jobs.curriculum import build_examples
from ledger.errors import LunaError
from ledger.roles import ROLES


def test_a_recipe_has_its_own_size_for_each_role_unless_a_total_is_asked_for():
    assert Counter(e.role for e in build_examples("recipe", None, 1)) == TOTALS
    assert TOTALS["logical"] > TOTALS["creative"]
    assert Counter(e.role for e in build_examples("recipe", 40, 1)) == dict.fromkeys(ROLES, 40)
    assert Counter(e.role for e in build_examples("agl", None, 1)) == dict.fromkeys(ROLES, 1200)


def test_an_unknown_set_is_refused_with_those_that_there_are():
    with pytest.raises(LunaError, match="use one of recipe, agl"):
        build_examples("poems", None, 1)
