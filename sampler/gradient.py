"""The embedding of a candidate: the gradient that it would cause, as a pair of factors (a_n, b_n).

The embedding has rank one. Let q_j = W x_j be the M queries of the batch, where W is the query head's last layer and
x_j its input (row j of X [M, H]). Candidate n has the logits z_nj = k_n·q_j / τ and the posterior p_n = softmax(z_n).
Its cross-entropy against its own pseudo-label ŷ = argmax_j z_nj has the gradient dL/dW = k_n (Xᵀ(p_n - e_ŷ))ᵀ / τ. With
L2-normalised queries this leaves out the Jacobian of the normalisation, with which the gradient would not have rank
one; `query_gradient`, the gradient with respect to the queries themselves, is exact in both cases.

Samplers use only inner products, so b_n = Xᵀ r_n with r_n = (p_n - e_ŷ) / τ may be replaced by any b'_n with the same
inner products. Xᵀ = QR gives b'_n = R r_n, which has M numbers instead of H: see `_short_basis`.

`key_gradient` reads the paper as the authors' code does: the embedding is the gradient with respect to the candidate's
own key of the batch's loss against the whole pool, Σ_j w_nj q_j / τ, where w_nj is the weight of candidate n in the
softmax of query j over its positive and all candidates. It is a vector: the second factor, with a first factor of 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

EMBEDDINGS = ("gradient", "query_gradient", "negative_gradient", "key_gradient", "feature")

_CHUNK = 1024
"""Number of rows whose logits, posterior and gradient stay in a CPU's cache between the passes over them."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Gradient embeddings g_n = a_n b_nᵀ and the scores that are computed with them."""

    a: Tensor
    """[N, D] keys; ones [N, 1] for key_gradient."""
    b: Tensor | None
    """[N, min(M, H)] second factors, [N, M] for query_gradient, [N, D] for key_gradient; None for feature."""
    loss: Tensor
    """[N] cross-entropy of the posterior over the queries against its own argmax."""
    similarity: Tensor
    """[N] τ times the log-sum-exp over the queries of k_n·q_j / τ: a smooth maximum of the similarity."""
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
        keys: [N, D]; all tensors have the same floating dtype.
        queries: [M, D], the classes of each candidate's posterior.
        hidden: [M, H], input of the query head's last layer (gradient, negative_gradient).
        embedding: one of `EMBEDDINGS`. gradient: the gradient of the loss against the candidate's pseudo-label with
            respect to the last layer (the paper's). query_gradient: the same with respect to the queries.
            negative_gradient: the gradient through the candidate's logit when it is a negative of every query.
            key_gradient: the gradient of the batch's loss against the whole pool with respect to the key (that of the
            authors' code). feature: the key itself.
        temperature: τ, by which the similarities are divided.
        positives: [M, D] keys of the queries' own clips, for outrank_fraction and the softmax of negative_gradient and
            key_gradient.
        negatives: [K, D] further keys in the denominator of that softmax. negative_gradient: the dictionary, without
            the candidate. key_gradient: all candidates that may be picked.

    Raises:
        ValueError: the embedding needs `hidden` and it is None.
    """
    scaled = queries.T / temperature
    positive_logits = None if positives is None else (queries * positives).sum(1) / temperature
    log_denominator = None
    if embedding in ("negative_gradient", "key_gradient"):
        log_denominator = _log_denominator(queries, positive_logits, negatives, temperature)
    basis = _basis(embedding, queries, hidden, temperature)
    width = len(queries) if basis is None else basis.shape[1]
    b = None if embedding == "feature" else keys.new_empty(len(keys), width)
    loss, similarity = keys.new_empty(2, len(keys)).unbind()
    outrank_fraction = None if positives is None else keys.new_empty(len(keys))
    chunk = len(keys) if keys.is_cuda else _CHUNK
    for start in range(0, len(keys), chunk):
        rows = slice(start, start + chunk)
        logits = keys[rows] @ scaled
        posterior = logits.softmax(1)
        top, label = posterior.max(1)
        loss[rows] = -top.log()
        similarity[rows] = (logits.amax(1) + loss[rows]) * temperature
        if positive_logits is not None and outrank_fraction is not None:
            # On a CPU a comparison into floats is three times as fast as one into bools.
            outranks = torch.gt(logits, positive_logits, out=torch.empty_like(logits))
            outrank_fraction[rows] = outranks.sum(1) / len(queries)
        if b is not None:
            residual = _residual(embedding, logits, posterior, label, log_denominator)
            _write_second_factors(residual, basis, temperature, out=b[rows])
    a = keys.new_ones(len(keys), 1) if embedding == "key_gradient" else keys
    return Factors(a=a, b=b, loss=loss, similarity=similarity, outrank_fraction=outrank_fraction)


def _residual(
    embedding: str, logits: Tensor, posterior: Tensor, label: Tensor, log_denominator: Tensor | None
) -> Tensor:
    """Returns the gradient of the embedding's loss with respect to the logits, [n, M]; may overwrite `posterior`."""
    if log_denominator is None:
        return posterior.scatter_add_(1, label[:, None], -torch.ones_like(label, dtype=posterior.dtype)[:, None])
    if embedding == "negative_gradient":
        return torch.sigmoid(logits - log_denominator)
    return torch.exp(logits - log_denominator)


def _write_second_factors(residual: Tensor, basis: Tensor | None, temperature: float, *, out: Tensor) -> None:
    """Computes b from the loss's gradient with respect to the logits, `residual` [n, M], and writes it into `out`."""
    if basis is None:
        torch.div(residual, temperature, out=out)
    else:
        torch.mm(residual, basis, out=out)


def _log_denominator(
    queries: Tensor, positive_logits: Tensor | None, negatives: Tensor | None, temperature: float
) -> Tensor:
    """Returns the log of each query's softmax denominator over its positive and the negatives, [M]."""
    total = torch.full((len(queries),), -math.inf, device=queries.device, dtype=queries.dtype)
    if negatives is not None and len(negatives):
        total = (queries @ negatives.T / temperature).logsumexp(1)
    if positive_logits is not None:
        total = torch.logaddexp(total, positive_logits)
    return total


def _basis(embedding: str, queries: Tensor, hidden: Tensor | None, temperature: float) -> Tensor | None:
    """Returns the matrix that maps residuals to b, [M, min(M, H)] or [M, D]; None if b is the residual itself."""
    if embedding == "key_gradient":
        return queries / temperature
    if embedding not in ("gradient", "negative_gradient"):
        return None
    if hidden is None:
        raise ValueError(
            f"embedding={embedding!r} needs `hidden`, the input of the query head's last layer, which is None"
        )
    return _short_basis(hidden) / temperature


def _short_basis(hidden: Tensor) -> Tensor:
    """Returns Y with Y Yᵀ = X Xᵀ, so that r Y has the inner products of r X. [M, H] -> [M, min(M, H)]."""
    if hidden.shape[0] >= hidden.shape[1]:
        return hidden
    return torch.linalg.qr(hidden.T, mode="r").R.T
