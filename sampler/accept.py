"""The rejection step of blocked D² sampling.

Proposals are drawn independently from a stale law U >= D². Walked through in order, each is accepted with probability
D²_now / U, where D²_now also counts the proposals accepted before it. Given acceptance a proposal then has probability
proportional to D²_now: exactly the law of one-at-a-time sampling. The same idea serves randomly pivoted Cholesky in
Epperly, Tropp and Webber (arXiv 2410.03969).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sampler.distance import squared_distances
from sampler.proposals import Proposals


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
    between = squared_distances(proposals.rows, proposals.norms, proposals.rows, proposals.norms)
    same_row = proposals.index[:, None] == proposals.index
    accepted = settle(d2 > threshold, ((between <= threshold[:, None]) | same_row).tril_(-1))
    places = accepted.nonzero().squeeze(1)
    later = torch.arange(len(accepted), device=places.device) >= places[:, None]
    among = between[places].masked_fill_(later | ~accepted, torch.inf)
    return places, torch.minimum(d2[places], among.amin(1))


def settle(eligible: Tensor, blocked_by: Tensor) -> Tensor:
    """Accepts in order whatever is eligible and not blocked by something accepted earlier.

    The serial loop's answer is the only fixed point of one vectorised pass, and pass n settles all whose chain of
    earlier conflicts is shorter than n: a handful of passes in practice.

    Args:
        eligible: [B] bool.
        blocked_by: [B, B] bool, strictly lower triangular; row i names the earlier ones that exclude i.
    """
    accepted = eligible
    while True:
        settled = eligible & ~(blocked_by & accepted).any(1)
        if torch.equal(settled, accepted):
            return accepted
        accepted = settled
