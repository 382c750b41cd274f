"""The embedding of a candidate: the gradient it would cause, as a pair of factors (a_n, b_n).

Note [Why rank one]
With logits z_nj = k_n·q_j / τ and queries q_j = W x_j, the cross-entropy of candidate n against its own pseudo-label
ŷ = argmax_j z_nj has dL/dW = k_n (Xᵀ(p_n - e_ŷ))ᵀ / τ. With L2-normalised queries this is the gradient up to the
Jacobian of the normalisation, which is left out (it would cost the rank-one form); `query_gradient`, the gradient with
respect to the queries themselves, is exact either way.

Samplers only use inner products, so b_n = Xᵀ r_n may be replaced by any b'_n with the same ones. X = RᵀQᵀ gives
b'_n = R r_n, which has M numbers instead of H: see `_short_basis`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

EMBEDDINGS = ("gradient", "query_gradient", "negative_gradient", "feature")

_CHUNK = 1024
"""Rows whose logits, posterior and gradient stay in a CPU's cache between the passes over them."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Gradient embeddings g_n = a_n b_nᵀ and the scores that come with them."""

    a: Tensor
    """[N, D] the keys."""
    b: Tensor | None
    """[N, min(M, H)], or [N, M] for query_gradient; None for feature."""
    loss: Tensor
    """[N] cross-entropy of the posterior over the queries against its own argmax."""
    similarity: Tensor
    """[N] τ log-sum-exp over the queries of k_n·q_j / τ: a smooth largest similarity."""
    outrank_fraction: Tensor | None
    """[N] share of the queries j with k_n·q_j > k⁺_j·q_j (k⁺_j: the query's positive); None without positives."""


@torch.no_grad()
def gradient_factors(
    keys: Tensor,
    queries: Tensor,
    hidden: Tensor | None = None,
    *,
    embedding: str,
    temperature: float,
    positives: Tensor | None = None,
    negatives: Tensor | None = None,
) -> Factors:
    """Scores keys against the batch's queries of the other modality.

    Args:
        keys: [N, D]; everything is of one floating dtype.
        queries: [M, D], the rows the candidates are classified into.
        hidden: [M, H], input of the query head's last layer (gradient, negative_gradient).
        embedding: gradient (the paper's: what the candidate's own pseudo-label would do to the last layer),
            query_gradient (the same with respect to the queries), negative_gradient (what the candidate would do to
            the last layer as a negative of every query, beside the positives and the present negatives), feature
            (the key itself).
        temperature: τ of the loss.
        positives: [M, D] keys of the queries' own clips: what candidates outrank, and in the softmax of
            negative_gradient.
        negatives: [K, D] the present dictionary, likewise.

    Raises:
        ValueError: an embedding that needs `hidden` without it.
    """
    scaled = queries.T / temperature
    basis = _basis(embedding, hidden, temperature)
    width = len(queries) if basis is None else basis.shape[1]
    b = None if embedding == "feature" else keys.new_empty(len(keys), width)
    if embedding == "negative_gradient":
        present = _present_logsumexp(queries, positives, negatives, temperature)
    loss, similarity = keys.new_empty(2, len(keys)).unbind()
    outrank_fraction = own = None
    if positives is not None:
        outrank_fraction, own = keys.new_empty(len(keys)), (queries * positives).sum(1) / temperature
    chunk = len(keys) if keys.is_cuda else _CHUNK
    for start in range(0, len(keys), chunk):
        rows = slice(start, start + chunk)
        logits = keys[rows] @ scaled
        posterior = logits.softmax(1)
        top, label = posterior.max(1)
        loss[rows] = -top.log()
        similarity[rows] = (logits.amax(1) + loss[rows]) * temperature
        if own is not None and outrank_fraction is not None:
            # Compared into floats, which is three times as fast on a CPU as into bools.
            outrank_fraction[rows] = torch.gt(logits, own, out=torch.empty_like(logits)).sum(1) / len(queries)
        if b is None:
            continue
        if embedding == "negative_gradient":
            weight = torch.sigmoid(logits - present)
        else:
            weight = posterior.scatter_add_(1, label[:, None], -torch.ones_like(top)[:, None])
        if basis is None:
            torch.div(weight, temperature, out=b[rows])
        else:
            torch.mm(weight, basis, out=b[rows])
    return Factors(a=keys, b=b, loss=loss, similarity=similarity, outrank_fraction=outrank_fraction)


def _present_logsumexp(
    queries: Tensor, positives: Tensor | None, negatives: Tensor | None, temperature: float
) -> Tensor:
    """Log of what the softmax of each query sums to without the candidate, [M]."""
    present = torch.full((len(queries),), -math.inf, device=queries.device, dtype=queries.dtype)
    if negatives is not None and len(negatives):
        present = (queries @ negatives.T / temperature).logsumexp(1)
    if positives is not None:
        present = torch.logaddexp(present, (queries * positives).sum(1) / temperature)
    return present


def _basis(embedding: str, hidden: Tensor | None, temperature: float) -> Tensor | None:
    """[M, min(M, H)]: what residuals are pushed back through; None for embeddings that stop at the queries."""
    if embedding not in ("gradient", "negative_gradient"):
        return None
    if hidden is None:
        raise ValueError(f"embedding={embedding!r} needs `hidden`, the input of the query head's last layer")
    return _short_basis(hidden) / temperature


def _short_basis(hidden: Tensor) -> Tensor:
    """Y [M, min(M, H)] with Y Yᵀ = X Xᵀ, so that r Y has the inner products of r X. [M, H] -> [M, min(M, H)]."""
    if hidden.shape[0] >= hidden.shape[1]:
        return hidden
    return torch.linalg.qr(hidden.T, mode="r").R.T
