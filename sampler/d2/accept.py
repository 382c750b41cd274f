"""The rejection step of blocked D² sampling.

Proposals are drawn independently from a stale law U >= D². Walked through in order, each is accepted with probability
D²_now / U, where D²_now also counts the proposals accepted before it. Given acceptance a proposal then has probability
proportional to D²_now: exactly the law of one-at-a-time sampling. The same idea serves randomly pivoted Cholesky in
Epperly, Tropp and Webber (arXiv 2410.03969).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.d2.distance import squared_distances
from sampler.d2.proposals import Proposals


def accepted_proposals(proposals: Proposals, d2: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Decides on a block.

    Args:
        proposals: B draws, in the order in which they are decided on.
        d2: [B] D² of each before this block, at most its bound.
        uniforms: [B] float64 in [0, 1), one decision each.

    Returns:
        The places of the accepted in the block, ascending (int64), and the D² of each when it was accepted.
    """
    threshold = uniforms * proposals.bound
    eligible = (d2 > threshold).nonzero().squeeze(1)
    rows, norms, index = proposals.rows.rows(eligible), proposals.norms[eligible], proposals.index[eligible]
    between = squared_distances(rows, norms, rows, norms)
    same_row = index[:, None] == index
    accepted = settle(((between <= threshold[eligible, None]) | same_row).tril_(-1))
    earlier = torch.ones_like(same_row).tril_(-1) & accepted
    at_pick = torch.cat([d2[eligible, None], between.masked_fill_(~earlier, torch.inf)], 1).amin(1)
    return eligible[accepted], at_pick[accepted]


def settle(blocked_by: Tensor) -> Tensor:
    """Accepts in order whatever is not blocked by something accepted earlier, [B] bool.

    The serial loop's answer is the only fixed point of one vectorised pass, and pass n settles all whose chain of
    earlier conflicts is shorter than n: a handful of passes in practice.

    Args:
        blocked_by: [B, B] bool, strictly lower triangular; row i names the earlier ones that exclude i.
    """
    accepted = blocked_by.new_ones(len(blocked_by))
    while True:
        settled = ~(blocked_by & accepted).any(1)
        if torch.equal(settled, accepted):
            return accepted
        accepted = settled
