"""The distribution of D² sampling, enumerated, and the pools that samplers are tested on."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from scipy import stats

from sampler.base import Candidates


def make_candidates(a, b=None, valid=None):
    ids = torch.arange(len(a))
    valid = torch.ones(len(a), dtype=torch.bool) if valid is None else valid
    return Candidates(a=a, b=b, ids=ids, valid=valid, write_index=ids.clone())


def with_scores(pool):
    generator = torch.Generator().manual_seed(9)
    loss, similarity = torch.rand(2, len(pool), generator=generator)
    return replace(pool, loss=loss, similarity=similarity, outrank_fraction=similarity)


def random_pool(count, *, dim=8, hidden=12, clusters=6, seed=0):
    """Returns clustered rows with heavy-tailed norms."""
    generator = torch.Generator().manual_seed(seed)
    cluster = torch.randint(clusters, (count,), generator=generator)
    a = torch.randn(clusters, dim, generator=generator)[cluster] + 0.3 * torch.randn(count, dim, generator=generator)
    b = torch.randn(clusters, hidden, generator=generator)[cluster] + 0.3 * torch.randn(
        count, hidden, generator=generator
    )
    return make_candidates(a, b * torch.randn(count, 1, generator=generator).exp())


def dense_d2(candidates, others=None):
    """Returns D² [N, M] float64, computed from the embeddings themselves."""

    def embeddings(table):
        a = table.a.double()
        return a if table.b is None else torch.einsum("nd,nh->ndh", a, table.b.double()).flatten(1)

    return torch.cdist(embeddings(candidates), embeddings(others or candidates)).square()


def phi(candidates, indices):
    return float(dense_d2(candidates, candidates.rows(indices)).amin(1)[candidates.valid].sum())


def tiny_pool(seed=3):
    """Returns 7 rows, the last an exact duplicate of the first."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(6, 3, generator=generator), torch.randn(6, 4, generator=generator)
    b[2] *= 3
    return make_candidates(torch.cat([a, a[:1]]), torch.cat([b, b[:1]]))


def enumerated_distribution(candidates, k):
    """Returns the probability of every ordered draw of k rows; the first pick is uniform."""
    d2 = dense_d2(candidates)
    d2 = torch.where(d2 < 1e-9 * d2.amax(), 0.0, d2)
    probabilities = {}
    for draw in itertools.permutations(range(len(candidates)), k):
        probability, nearest = 1 / len(candidates), d2[draw[0]]
        for row in draw[1:]:
            probability *= float(nearest[row] / nearest.sum())
            nearest = torch.minimum(nearest, d2[row])
        if probability > 0:
            probabilities[draw] = probability
    return probabilities


def chi_square(draws, probabilities):
    """Returns the p-value of the draws, 0 for an impossible one; cells expected fewer than 5 times are pooled."""
    counts = dict.fromkeys(probabilities, 0)
    for draw in draws:
        if draw not in counts:
            return 0.0
        counts[draw] += 1
    expected = {draw: p * len(draws) for draw, p in probabilities.items()}
    rare = [draw for draw in probabilities if expected[draw] < 5]
    cells = [(counts[draw], expected[draw]) for draw in probabilities if expected[draw] >= 5]
    cells.append((sum(counts[draw] for draw in rare), sum(expected[draw] for draw in rare)))
    observed, wanted = zip(*[cell for cell in cells if cell[1] > 0], strict=True)
    scale = sum(observed) / sum(wanted)
    return float(stats.chisquare(observed, [w * scale for w in wanted]).pvalue)


def ordered_draws(sampler, candidates, k, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [tuple(sampler.select(candidates, k, generator=generator).indices.tolist()) for _ in range(count)]
