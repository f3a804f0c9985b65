"""The output layer in slices gives what all logits at once give."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trainers.lean.logprobs import token_log_probs


@pytest.mark.parametrize("vocabulary", [7, 2048, 5000])
def test_log_probabilities_and_gradients_equal_those_of_all_logits_at_once(vocabulary):
    torch.manual_seed(vocabulary)
    hidden, output = torch.randn(9, 16, requires_grad=True), torch.randn(vocabulary, 16)
    targets = torch.tensor([0, 1, 2, 3, 4, 5, 6, vocabulary - 1, vocabulary // 2])
    scale = torch.rand(9)
    found, wanted = (
        token_log_probs(hidden, output, targets),
        -F.cross_entropy(F.linear(hidden, output), targets, reduction="none"),
    )
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad((scale * log_probs).sum(), hidden)[0] for log_probs in (found, wanted)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_large_logits_do_not_overflow_and_bfloat16_stays_a_log_probability():
    hidden, output = torch.full((2, 4), 300.0), torch.eye(4).repeat(1000, 1)
    assert token_log_probs(hidden, output, torch.tensor([0, 3999])).isfinite().all()
    torch.manual_seed(0)
    hidden, output = (torch.randn(n, 64).bfloat16() * 2 for n in (32, 3000))
    assert (token_log_probs(hidden, output, F.linear(hidden, output).argmax(-1)) <= 0).all()


def test_a_state_that_is_not_finite_gives_a_loss_that_is_not_finite():
    hidden = torch.tensor([[float("nan"), 1.0], [1.0, 1.0]])
    found = token_log_probs(hidden, torch.randn(3000, 2), torch.tensor([5, 5]))
    assert found.isfinite().tolist() == [False, True]
