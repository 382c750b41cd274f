"""Gradient factors against autograd, finite differences and their definitions."""

import pytest
import torch
import torch.nn.functional as F

from sampler.gradient import EMBEDDINGS, gradient_factors

TEMPERATURE = 0.3


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    keys = F.normalize(torch.randn(5, 6, generator=generator, dtype=torch.float64), dim=1)
    hidden = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    weight = torch.randn(6, 9, generator=generator, dtype=torch.float64)
    return keys, hidden, weight


def gram(a, b):
    return (a @ a.T) * (b @ b.T)


def last_layer_gradients(keys, hidden, weight, loss_of):
    gradients = []
    for key in keys:
        w = weight.clone().requires_grad_()
        loss_of(key, hidden @ w.T).backward()
        gradients.append(w.grad.flatten())
    stacked = torch.stack(gradients)
    return stacked @ stacked.T


def pseudo_label_loss(key, queries):
    logits = queries @ key / TEMPERATURE
    return F.cross_entropy(logits[None], logits.argmax()[None])


def test_gradient_factors_have_the_inner_products_of_the_last_layers_autograd_gradients(problem):
    keys, hidden, weight = problem
    factors = gradient_factors(keys, hidden @ weight.T, hidden, embedding="gradient", temperature=TEMPERATURE)
    expected = last_layer_gradients(keys, hidden, weight, pseudo_label_loss)
    assert torch.allclose(gram(factors.a, factors.b.double()), expected, rtol=1e-4, atol=1e-5)


def test_gradient_agrees_with_finite_differences_of_the_pseudo_label_loss(problem):
    keys, hidden, weight = problem
    factors = gradient_factors(keys, hidden @ weight.T, hidden, embedding="gradient", temperature=TEMPERATURE)
    numeric = torch.zeros_like(weight)
    step = 1e-6
    for index in range(weight.numel()):
        bump = torch.zeros_like(weight)
        bump.view(-1)[index] = step
        up = pseudo_label_loss(keys[0], hidden @ (weight + bump).T)
        down = pseudo_label_loss(keys[0], hidden @ (weight - bump).T)
        numeric.view(-1)[index] = (up - down) / (2 * step)
    norm = factors.a[0].norm() * factors.b[0].double().norm()
    assert torch.isclose(numeric.norm(), norm, rtol=1e-4)


def test_query_gradient_factors_are_the_autograd_gradient_with_respect_to_the_queries(problem):
    keys, hidden, weight = problem
    queries = F.normalize(hidden @ weight.T, dim=1)
    factors = gradient_factors(keys, queries, embedding="query_gradient", temperature=TEMPERATURE)
    for key, a, b in zip(keys, factors.a, factors.b, strict=True):
        leaf = queries.clone().requires_grad_()
        pseudo_label_loss(key, leaf).backward()
        assert torch.allclose(leaf.grad, torch.outer(b, a), atol=1e-12)


def test_negative_gradient_factors_are_the_autograd_gradient_through_the_candidate_as_a_negative(problem):
    keys, hidden, weight = problem
    generator = torch.Generator().manual_seed(1)
    positives = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    dictionary = torch.randn(7, 6, generator=generator, dtype=torch.float64)

    def loss_of(key, queries):
        # The part of the InfoNCE gradient that flows through this candidate's logit alone.
        fixed = torch.cat([(queries * positives).sum(1)[:, None], queries @ dictionary.T], 1).detach()
        own = (queries @ key)[:, None]
        return torch.cat([fixed, own], 1).div(TEMPERATURE).logsumexp(1).sum()

    factors = gradient_factors(
        keys,
        hidden @ weight.T,
        hidden,
        embedding="negative_gradient",
        temperature=TEMPERATURE,
        positives=positives,
        negatives=dictionary,
    )
    expected = last_layer_gradients(keys, hidden, weight, loss_of)
    assert torch.allclose(gram(factors.a, factors.b.double()), expected, rtol=1e-4, atol=1e-6)


def test_key_gradient_is_the_autograd_gradient_of_the_loss_against_the_whole_pool_with_respect_to_the_key(problem):
    keys, hidden, weight = problem
    queries = F.normalize(hidden @ weight.T, dim=1)
    positives = F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=1)
    leaf = keys.clone().requires_grad_()
    logits = torch.cat([(queries * positives).sum(1)[:, None], queries @ leaf.T], 1) / TEMPERATURE
    F.cross_entropy(logits, torch.zeros(4, dtype=torch.int64), reduction="sum").backward()
    factors = gradient_factors(
        keys, queries, embedding="key_gradient", temperature=TEMPERATURE, positives=positives, negatives=keys
    )
    torch.testing.assert_close(factors.a * factors.b, leaf.grad)


def test_an_empty_dictionary_without_positives_gives_every_negative_full_weight(problem):
    keys, hidden, weight = problem
    factors = gradient_factors(
        keys, hidden @ weight.T, hidden, embedding="negative_gradient", temperature=1.0, negatives=keys[:0]
    )
    total = hidden.sum(0)
    assert torch.allclose((factors.b.double() ** 2).sum(1), (total @ total).expand(5), rtol=1e-5)


def test_scores_are_the_pseudo_label_loss_and_the_smooth_largest_similarity(problem):
    keys, hidden, weight = problem
    queries = hidden @ weight.T
    factors = gradient_factors(keys, queries, embedding="feature", temperature=TEMPERATURE)
    losses = torch.stack([pseudo_label_loss(key, queries) for key in keys])
    assert factors.b is None
    assert torch.allclose(factors.loss, losses)
    assert torch.all(factors.similarity >= (keys @ queries.T).amax(1))
    assert torch.all(factors.similarity <= (keys @ queries.T).amax(1) + TEMPERATURE * torch.tensor(4.0).log())


def test_second_factors_are_no_longer_than_the_batch(problem):
    keys, hidden, weight = problem
    factors = gradient_factors(keys, hidden @ weight.T, hidden, embedding="gradient", temperature=TEMPERATURE)
    assert factors.b.shape == (5, 4)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_factors_do_not_depend_on_the_chunk_size(problem, embedding, monkeypatch):
    keys, hidden, weight = problem

    def factors():
        return gradient_factors(
            keys, hidden @ weight.T, hidden, embedding=embedding, temperature=TEMPERATURE, negatives=keys
        )

    unchunked = factors()
    monkeypatch.setattr("sampler.gradient._CHUNK", 2)
    for name, value in vars(factors()).items():
        expected = getattr(unchunked, name)
        assert value is expected or torch.allclose(value, expected)


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_outrank_fraction_is_the_share_of_queries_nearer_to_the_candidate_than_to_their_positive(
    problem, embedding, monkeypatch
):
    keys, hidden, weight = problem
    monkeypatch.setattr("sampler.gradient._CHUNK", 2)
    queries = F.normalize(hidden @ weight.T, dim=1)
    # No candidate outranks the first positive, all outrank the second, and some outrank the other two.
    positives = torch.stack([queries[0], -queries[1], 0.9 * keys[2], 0.9 * keys[4]])
    factors = gradient_factors(keys, queries, hidden, embedding=embedding, temperature=TEMPERATURE, positives=positives)
    expected = [sum(float(key @ q > p @ q) for q, p in zip(queries, positives, strict=True)) / 4 for key in keys]
    assert factors.outrank_fraction.tolist() == expected
    assert len(set(expected)) > 1


def test_without_positives_there_is_no_outrank_fraction(problem):
    keys, hidden, weight = problem
    factors = gradient_factors(keys, hidden @ weight.T, embedding="feature", temperature=TEMPERATURE)
    assert factors.outrank_fraction is None
