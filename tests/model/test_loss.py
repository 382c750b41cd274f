"""InfoNCE compared with torch's cross-entropy, with NumPy, and with properties that its definition implies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model import info_nce
from model.loss import cyclic_temperature, frequency_weights, nearest_rows, outranks

B, K, D = 6, 20, 16


def unit(rows, seed, dim=D):
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("temperature", [0.07, 0.7])
def test_equals_cross_entropy_over_the_concatenated_logits(temperature):
    query, positive, negatives = unit(B, 0), unit(B, 1), unit(K, 2)
    logits = torch.stack([torch.cat([q @ p[None].T, q @ negatives.T]) for q, p in zip(query, positive, strict=True)])
    expected = F.cross_entropy(logits / temperature, torch.zeros(B, dtype=torch.long))
    loss, accuracy = info_nce(query, positive, negatives, temperature=temperature)
    torch.testing.assert_close(loss, expected)
    assert accuracy == (logits.argmax(dim=1) == 0).float().mean()


def test_equals_the_definition_in_numpy_with_a_mask():
    query, positive, negatives = unit(B, 0), unit(B, 1), unit(K, 2)
    mask = torch.rand(B, K, generator=torch.Generator().manual_seed(3)) < 0.5
    losses = []
    for i in range(B):
        own = np.exp(float(query[i] @ positive[i]) / 0.2)
        others = [np.exp(float(query[i] @ negatives[k]) / 0.2) for k in range(K) if not mask[i, k]]
        losses.append(-np.log(own / (own + sum(others))))
    loss, _ = info_nce(query, positive, negatives, temperature=0.2, mask=mask)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_masked_entries_do_not_matter_to_loss_gradient_or_accuracy():
    query, positive, negatives = unit(B, 0).requires_grad_(), unit(B, 1), unit(K, 2)
    mask = torch.zeros(B, K, dtype=torch.bool)
    mask[:, K // 2 :] = True
    negatives[K // 2 :] = positive[0]  # would be a false negative
    masked = info_nce(query, positive, negatives, temperature=0.1, mask=mask)
    short = info_nce(query, positive, negatives[: K // 2], temperature=0.1)
    torch.testing.assert_close(masked, short)
    torch.testing.assert_close(torch.autograd.grad(masked[0], query), torch.autograd.grad(short[0], query))


def test_a_query_with_every_negative_masked_has_zero_loss():
    query, positive, negatives = unit(B, 0).requires_grad_(), unit(B, 1), unit(K, 2)
    loss, accuracy = info_nce(query, positive, negatives, temperature=0.1, mask=torch.ones(B, K, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert accuracy == 1
    assert torch.isfinite(query.grad).all()


def test_a_collapsed_encoder_has_the_loss_of_guessing_and_no_accuracy():
    same = unit(1, 0)
    loss, accuracy = info_nce(same.expand(B, D), same.expand(B, D), same.expand(K, D), temperature=0.1)
    assert loss.item() == pytest.approx(np.log(K + 1), rel=1e-5)
    assert accuracy == 0


def test_gradient_agrees_with_finite_differences():
    query, positive, negatives = (unit(n, s, dim=5) for n, s in ((3, 0), (3, 1), (7, 2)))
    query.requires_grad_()
    (gradient,) = torch.autograd.grad(info_nce(query, positive, negatives, temperature=0.5)[0], query)
    step = 1e-2
    for i, j in ((0, 0), (1, 3), (2, 4)):
        shifted = []
        for sign in (1, -1):
            moved = query.detach().clone()
            moved[i, j] += sign * step
            shifted.append(info_nce(moved, positive, negatives, temperature=0.5)[0].item())
        assert gradient[i, j].item() == pytest.approx((shifted[0] - shifted[1]) / (2 * step), abs=1e-3)


def test_is_computed_in_full_precision_under_autocast():
    query, positive, negatives = unit(B, 0), unit(B, 1), unit(K, 2)
    plain = info_nce(query, positive, negatives, temperature=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(query, positive, negatives, temperature=0.05)[0], plain[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positive": torch.zeros(B + 1, D)}, "query and positive must both"),
        ({"negatives": torch.zeros(K, D + 1)}, r"negatives must be \[K, 16\]"),
        ({"mask": torch.zeros(B, K)}, r"mask must be bool \[6, 20\]"),
        ({"mask": torch.zeros(K, B, dtype=torch.bool)}, r"not torch.bool \[20, 6\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(arguments, message):
    tensors = {"query": unit(B, 0), "positive": unit(B, 1), "negatives": unit(K, 2)} | arguments
    with pytest.raises(ValueError, match=message):
        info_nce(**tensors, temperature=0.1)


def published_loss(query, positive, negatives, *, temperature, debias, hardness):
    """The code of Robinson et al. (github.com/joshr17/HCL), which includes that of Chuang et al., per query."""
    pos = torch.exp((query * positive).sum(-1) / temperature)
    neg = torch.exp(query @ negatives.T / temperature)
    count = negatives.shape[0]
    importance = (hardness * neg.log()).exp()
    reweighted = (importance * neg).sum(-1) / importance.mean(-1)
    total = (-debias * count * pos + reweighted) / (1 - debias)
    total = torch.clamp(total, min=count * np.e ** (-1 / temperature))
    return -torch.log(pos / (pos + total))


@pytest.mark.parametrize(("debias", "hardness"), [(0.1, 0.0), (0.0, 1.0), (0.05, 0.5), (0.9, 2.0)])
def test_debiased_and_hardness_weighted_losses_equal_the_published_code_with_their_gradients(debias, hardness):
    query, positive, negatives = unit(B, 0).double().requires_grad_(), unit(B, 1).double(), unit(K, 2).double()
    expected = published_loss(query, positive, negatives, temperature=0.3, debias=debias, hardness=hardness)
    loss, _ = info_nce(query, positive, negatives, temperature=0.3, debias=debias, hardness=hardness)
    assert loss.item() == pytest.approx(expected.mean().item(), rel=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(loss, query)[0], torch.autograd.grad(expected.mean(), query)[0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("debias", "hardness"), [(0.2, 0.0), (0.0, 1.5), (0.2, 1.5)])
def test_masked_rows_do_not_matter_to_the_reweighted_losses(debias, hardness):
    query, positive, negatives = unit(B, 0).requires_grad_(), unit(B, 1), unit(K, 2)
    mask = torch.zeros(B, K, dtype=torch.bool)
    mask[:, K // 2 :] = True
    options = {"temperature": 0.1, "debias": debias, "hardness": hardness}
    masked = info_nce(query, positive, negatives, mask=mask, **options)
    short = info_nce(query, positive, negatives[: K // 2], **options)
    torch.testing.assert_close(masked, short)
    torch.testing.assert_close(torch.autograd.grad(masked[0], query), torch.autograd.grad(short[0], query))
    nothing, _ = info_nce(query, positive, negatives, mask=torch.ones(B, K, dtype=torch.bool), **options)
    nothing.backward()
    assert nothing.item() == 0
    assert torch.isfinite(query.grad).all()


def test_reweighted_losses_stay_finite_at_a_small_temperature():
    query = unit(B, 0).requires_grad_()
    negatives = torch.cat([query.detach(), -query.detach()])
    loss, _ = info_nce(query, query.detach(), negatives, temperature=0.005, debias=0.5, hardness=3.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(query.grad).all()


def test_a_negative_outranks_where_it_is_nearer_than_the_positive():
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    positive = torch.tensor([[0.8, 0.6], [0.8, 0.6]])
    negatives = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
    assert outranks(query, positive, negatives).tolist() == [[True, False, False], [False, False, True]]


def test_the_cyclic_temperature_is_highest_at_the_start_of_a_period_and_lowest_in_its_middle():
    values = [cyclic_temperature(step, low=0.1, high=0.5, period=8) for step in range(9)]
    assert values[0] == values[8] == 0.5
    assert values[4] == pytest.approx(0.1)
    assert values[2] == pytest.approx(0.3)


def test_weights_multiply_the_exponentials_and_leave_the_accuracy():
    query, positive, negatives = unit(B, 0), unit(B, 1), unit(K, 2)
    weights = torch.rand(K, generator=torch.Generator().manual_seed(3)) + 0.1
    own = np.exp((query * positive).sum(1).numpy() / 0.2)
    others = np.exp((query @ negatives.T).numpy() / 0.2) @ weights.numpy()
    loss, accuracy = info_nce(query, positive, negatives, temperature=0.2, weights=weights)
    assert loss.item() == pytest.approx(-np.log(own / (own + others)).mean(), rel=1e-5)
    plain = info_nce(query, positive, negatives, temperature=0.2)
    assert accuracy == plain[1]
    torch.testing.assert_close(info_nce(query, positive, negatives, temperature=0.2, weights=torch.ones(K)), plain)


@pytest.mark.parametrize(("debias", "hardness"), [(0.0, 0.0), (0.2, 0.0), (0.0, 1.5), (0.2, 1.5)])
def test_a_weight_of_two_is_a_row_that_occurs_twice(debias, hardness):
    query, positive, negatives = unit(B, 0), unit(B, 1), unit(K, 2)
    half = negatives[: K // 2]
    weights = torch.tensor([2.0] * (K // 2) + [1e-12] * (K - K // 2))
    options = {"temperature": 0.3, "debias": debias, "hardness": hardness}
    weighted, _ = info_nce(query, positive, negatives, weights=weights, **options)
    twice, _ = info_nce(query, positive, torch.cat([half, half]), **options)
    torch.testing.assert_close(weighted, twice)


def clips_of_classes(frequencies, count, *, seed, noise=0.5, dim=256):
    """Queries, their positives and other keys: a class's centre with noise; classes are almost orthogonal."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(len(frequencies), dim, generator=generator), dim=1)
    chances = torch.tensor(frequencies)

    def draw(classes):
        noises = F.normalize(torch.randn(len(classes), dim, generator=generator), dim=1)
        return F.normalize(centres[classes] + noise * noises, dim=1)

    asked, held = (torch.multinomial(chances, count, replacement=True, generator=generator) for _ in range(2))
    return draw(asked), draw(asked), draw(held), held


def test_twice_the_outranking_share_is_the_frequency_of_the_class_and_weights_make_classes_equal():
    frequencies = [0.4, 0.3, 0.2, 0.1]
    query, positive, keys, held = clips_of_classes(frequencies, 4000, seed=0)
    share = outranks(query, positive, keys).float().mean(dim=0)
    found = [2 * float(share[held == c].mean()) for c in range(4)]
    assert found == pytest.approx(frequencies, abs=0.02)
    excluded = torch.zeros(len(query), len(keys), dtype=torch.bool)
    weights = frequency_weights(query, positive, keys, excluded=excluded, power=1.0, floor=0.02)
    assert float(weights.mean()) == pytest.approx(1)
    # The floor favours frequent classes a little: a class's total is proportional to its frequency / (floor + half).
    totals = torch.tensor([float(weights[held == c].sum()) for c in range(4)])
    assert (totals / totals.sum()).tolist() == pytest.approx([0.25] * 4, abs=0.05)
    counts = torch.tensor([float((held == c).sum()) for c in range(4)])
    assert float(counts.max() / counts.min()) > 3.5 > 1.5 > float(totals.max() / totals.min())


def test_weights_are_equal_where_classes_are_and_where_nothing_is_learnt():
    query, positive, keys, _ = clips_of_classes([0.1] * 10, 4000, seed=1)
    excluded = torch.zeros(len(query), len(keys), dtype=torch.bool)
    options = {"excluded": excluded, "power": 1.0, "floor": 0.02}
    # Within a class, a key near the centre outranks more often than one far from it.
    assert float(frequency_weights(query, positive, keys, **options).std()) < 0.25
    random = frequency_weights(unit(4000, 0, 256), unit(4000, 1, 256), unit(4000, 2, 256), **options)
    assert float(random.std()) < 0.05


def test_weights_ignore_excluded_pairs_and_are_one_for_empty_rows():
    query, positive = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.8, 0.6], [0.6, 0.8]])
    keys = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    excluded = torch.tensor([[False, False, True], [False, True, True]])
    weights = frequency_weights(query, positive, keys, excluded=excluded, power=2.0, floor=0.5)
    # Key 0 outranks for one query of two, key 1 for none of one; key 2 is empty.
    expected = torch.tensor([1.0**-2, 0.5**-2])
    torch.testing.assert_close(weights, torch.cat([expected / expected.mean(), torch.ones(1)]))


def test_the_nearest_rows_are_a_share_of_those_that_are_not_excluded():
    rows, keys = unit(B, 0), unit(K, 1)
    excluded = torch.rand(B, K, generator=torch.Generator().manual_seed(2)) < 0.4
    excluded[0] = True
    excluded[1, 2:] = True
    near = nearest_rows(rows, keys, excluded, share=0.3)
    for i in range(B):
        allowed = [n for n in range(K) if not excluded[i, n]]
        ranked = sorted(allowed, key=lambda n: -float(rows[i] @ keys[n]))
        assert near[i].nonzero().flatten().tolist() == sorted(ranked[: int(0.3 * len(allowed))])
    assert near[0].sum() == near[1].sum() == 0
