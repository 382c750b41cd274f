"""BatchNorm of clips: torch's numbers, computed as of images."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from model import VIDEO_ENCODERS
from model.batchnorm import ClipBatchNorm, replace_batchnorm
from training.batchnorm import synchronise_batchnorm

SHAPES = [(4, 24, 8, 14, 14), (2, 45, 16, 9, 7), (3, 12, 1, 7, 7), (2, 8, 4, 1, 1)]
FORMATS = [torch.channels_last_3d, torch.contiguous_format]


def outcome(norm: nn.Module, clips: torch.Tensor, weights: torch.Tensor) -> list[torch.Tensor]:
    clips = clips.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = norm(clips)
    (out * weights).sum().backward()
    assert out.stride() == clips.stride()
    return [out, clips.grad, *(p.grad for p in norm.parameters()), *norm.buffers()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_torchs_batchnorm_to_the_bit(shape, memory_format, training):
    torch.manual_seed(0)
    theirs = nn.BatchNorm3d(shape[1]).train(training)
    for tensor in (theirs.weight.data, theirs.bias.data, theirs.running_mean, theirs.running_var):
        tensor.uniform_(0.5, 1.5)
    ours = ClipBatchNorm(shape[1]).train(training)
    ours.load_state_dict(theirs.state_dict())
    clips, weights = torch.randn(2, *shape).unbind()
    clips = (1 + 2 * clips).contiguous(memory_format=memory_format)
    for mine, other in zip(outcome(ours, clips, weights), outcome(theirs, clips, weights), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", sorted(VIDEO_ENCODERS))
@pytest.mark.parametrize("device", ["local", "cpu", "cuda"])
def test_no_clip_is_normalised_where_cuda_has_no_fast_kernel(monkeypatch, name, device):
    network, _ = VIDEO_ENCODERS[name]()
    if device != "local":
        synchronise_batchnorm(network, torch.device(device))
        network.eval()
    seen = []

    def batch_norm(input, *args, **kwargs):
        seen.append(input.is_contiguous(memory_format=torch.channels_last) and input.dim() == 4)
        return input

    monkeypatch.setattr(nn.functional, "batch_norm", batch_norm)
    clips = torch.randn(2, 3, 4, 32, 32).contiguous(memory_format=torch.channels_last_3d)
    network.to(memory_format=torch.channels_last_3d)(clips)
    # On a CPU several processes compute without those kernels.
    assert seen == [device != "cpu"] * sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules())


def test_a_replaced_batchnorm_keeps_what_it_was():
    network = nn.Sequential(nn.Conv3d(3, 4, 1), nn.Sequential(nn.BatchNorm3d(4, eps=1e-3, momentum=0.3)))
    network[1][0].weight.requires_grad_(False).fill_(2)
    network.eval()
    replaced = copy.deepcopy(network)
    replace_batchnorm(replaced, ClipBatchNorm)
    norm = replaced[1][0]
    assert (type(norm), norm.eps, norm.momentum, norm.training) == (ClipBatchNorm, 1e-3, 0.3, False)
    assert not norm.weight.requires_grad
    assert norm.bias.requires_grad
    clips = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(replaced(clips), network(clips))
    assert replaced.state_dict().keys() == network.state_dict().keys()


def test_images_of_the_wrong_number_of_dimensions_are_refused():
    with pytest.raises(ValueError, match="got 3"):
        ClipBatchNorm(4)(torch.randn(2, 4, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_right_on_a_gpu_in_bf16(shape):
    torch.manual_seed(0)
    clips, weights = torch.randn(2, *shape).unbind()
    clips = clips.bfloat16().contiguous(memory_format=torch.channels_last_3d)
    reference = outcome(nn.BatchNorm3d(shape[1]).double(), clips.double(), weights.double())
    found = outcome(ClipBatchNorm(shape[1]).cuda(), clips.cuda(), weights.cuda())
    for mine, exact in zip(found, reference, strict=True):
        assert (mine.cpu().double() - exact).norm() <= 0.02 * exact.norm()
