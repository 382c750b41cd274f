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
        positives: [M, D] keys of the queries' own clips, in the softmax of negative_gradient.
        negatives: [K, D] the present dictionary, likewise.
    """
    logits = keys @ queries.T / temperature
    logsumexp = logits.logsumexp(1)
    loss, similarity = logsumexp - logits.amax(1), temperature * logsumexp
    if embedding == "feature":
        return Factors(a=keys, b=None, loss=loss, similarity=similarity)
    if embedding == "negative_gradient":
        weight = _negative_weight(logits, queries, positives, negatives, temperature)
    else:
        weight = _posterior_residual(logits, logsumexp)
    if embedding != "query_gradient":
        weight = weight @ _short_basis(hidden)
    return Factors(a=keys, b=weight / temperature, loss=loss, similarity=similarity)


def _posterior_residual(logits: Tensor, logsumexp: Tensor) -> Tensor:
    """p_n - e_ŷ, [N, M]."""
    residual = torch.exp(logits - logsumexp[:, None])
    residual.scatter_add_(1, logits.argmax(1, keepdim=True), torch.full_like(residual[:, :1], -1.0))
    return residual


def _negative_weight(
    logits: Tensor, queries: Tensor, positives: Tensor | None, negatives: Tensor | None, temperature: float
) -> Tensor:
    """Softmax weight that candidate n would get against query j, [N, M]."""
    present = torch.full((len(queries),), -math.inf, device=queries.device, dtype=logits.dtype)
    if negatives is not None and len(negatives):
        present = (queries @ negatives.T / temperature).logsumexp(1)
    if positives is not None:
        present = torch.logaddexp(present, (queries * positives).sum(1) / temperature)
    return torch.sigmoid(logits - present)


def _short_basis(hidden: Tensor) -> Tensor:
    """Y [M, min(M, H)] with Y Yᵀ = X Xᵀ, so that r Y has the inner products of r X. [M, H] -> [M, min(M, H)]."""
    if hidden.shape[0] >= hidden.shape[1]:
        return hidden
    return torch.linalg.qr(hidden.T, mode="r").R.T
