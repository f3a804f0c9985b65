"""Whatever a file or a reply may hold, its reader gives a result or a sentence. `python -m bench.fuzz` asks 20,000."""

from __future__ import annotations

import pytest

from bench.fuzz import fuzz, readers

INPUTS = 40
READERS = {reader.name: reader for reader in readers()}


@pytest.mark.parametrize("name", READERS)
def test_random_inputs_give_a_result_or_a_sentence(name):
    outcome = fuzz(READERS[name], INPUTS)
    assert outcome.inputs >= INPUTS // 2
    assert [trace for trace, _ in outcome.failed] == []
