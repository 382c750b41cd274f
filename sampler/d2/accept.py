"""The rejection step of blocked D² sampling.

Proposals are drawn independently with probability proportional to stale bounds U >= D². In order, each is accepted with
probability D²_now / U, where D²_now also counts the proposals accepted before it. Given acceptance, a proposal has
probability proportional to D²_now: exactly the distribution of sampling one row at a time. Epperly, Tropp and Webber
(arXiv 2410.03969) use the same idea for randomly pivoted Cholesky.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.base import Candidates
from sampler.d2.distance import squared_distances
from sampler.d2.proposals import Proposals

_ROWS = 128
"""Rows that are compared with all earlier ones in one product."""


def accepted_proposals(proposals: Proposals, d2: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """Accepts or rejects the proposals of a block.

    Args:
        proposals: B draws, in the order in which they are decided.
        d2: [B] float32 D² of each proposal before this block, at most its bound; of a proposal that is rejected anyway,
            anything up to its threshold.
        threshold: [B] float64, each bound times a uniform number in [0, 1): a proposal with a larger D² is accepted.

    Returns:
        The positions in the block of the accepted proposals, ascending (int64), and the D² of each at acceptance.
    """
    eligible = (d2 > threshold).nonzero().squeeze(1)
    rows, norms, index = proposals.rows.rows(eligible), proposals.norms[eligible], proposals.index[eligible]
    between = _distances_to_earlier(rows, norms)
    same_row = index[:, None] == index
    accepted = settle(((between <= threshold[eligible, None]) | same_row).tril_(-1))
    earlier = torch.ones_like(same_row).tril_(-1) & accepted
    at_pick = torch.cat([d2[eligible, None], between.masked_fill_(~earlier, torch.inf)], 1).amin(1)
    return eligible[accepted], at_pick[accepted]


def _distances_to_earlier(rows: Candidates, norms: Tensor) -> Tensor:
    """D² of each row to the earlier ones, [B, B]; the upper triangle holds anything."""
    if norms.is_cuda:
        return squared_distances(rows, norms, rows, norms)
    between = norms.new_zeros(len(norms), len(norms))
    for start in range(0, len(norms), _ROWS):
        some, earlier = slice(start, start + _ROWS), slice(0, start + _ROWS)
        between[some, earlier] = squared_distances(rows.rows(some), norms[some], rows.rows(earlier), norms[earlier])
    return between


def settle(blocked_by: Tensor) -> Tensor:
    """Accepts, in order, every proposal that no earlier accepted proposal blocks; returns [B] bool.

    The result of the serial loop is the only fixed point of the vectorised pass. Pass n settles every proposal whose
    chain of earlier conflicts is shorter than n: a handful of passes in practice.

    Args:
        blocked_by: [B, B] bool, strictly lower triangular; row i marks the earlier proposals that exclude proposal i.
    """
    accepted = blocked_by.new_ones(len(blocked_by))
    while True:
        settled = ~(blocked_by & accepted).any(1)
        if torch.equal(settled, accepted):
            return accepted
        accepted = settled
