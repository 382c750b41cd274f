"""BatchNorm that normalises clips as images gives the same numbers as torch's BatchNorm3d."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from model import VIDEO_ENCODERS
from model.batchnorm import ClipBatchNorm, replace_batchnorm
from training.sync_batchnorm import synchronise_batchnorm

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
def test_it_equals_torchs_batchnorm_in_every_bit(shape, memory_format, training):
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


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", sorted(VIDEO_ENCODERS))
def test_all_batchnorms_of_video_networks_on_a_gpu_normalise_clips_as_images(monkeypatch, name, processes):
    network, _ = VIDEO_ENCODERS[name]()
    if processes > 1:
        synchronise_batchnorm(network, torch.device("cuda"))
    seen = []
    monkeypatch.setattr(nn.functional, "batch_norm", lambda images, *args, **kwargs: seen.append(images) or images)
    kind = nn.modules.batchnorm._BatchNorm  # torch-private: base class of all BatchNorms
    norms = [module for module in network.modules() if isinstance(module, kind)]
    for norm in norms:
        clips = torch.randn(2, norm.num_features, 2, 3, 4).contiguous(memory_format=torch.channels_last_3d)
        assert torch.equal(norm.eval()(clips), clips)
    assert len(seen) == len(norms)
    assert norms or name in ("mvit_v2_s", "swin3d_t")
    assert all(images.dim() == 4 for images in seen)
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images in seen)


def test_a_following_in_place_relu_makes_no_copies():
    clips = torch.randn(2, 4, 3, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    results = []
    for norm in (ClipBatchNorm(4), nn.BatchNorm3d(4)):
        leaf = clips.clone(memory_format=torch.preserve_format).requires_grad_()
        out = nn.functional.relu(norm(leaf), inplace=True)
        assert out.grad_fn.name() == "ReluBackward0"
        out.square().sum().backward()
        results.append((out, leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


def test_a_replaced_batchnorm_keeps_its_settings_and_state():
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


def test_inputs_with_the_wrong_number_of_dimensions_are_refused():
    with pytest.raises(ValueError, match="got 3"):
        ClipBatchNorm(4)(torch.randn(2, 4, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_accurate_on_a_gpu_in_bf16(shape):
    torch.manual_seed(0)
    clips, weights = torch.randn(2, *shape).unbind()
    clips = clips.bfloat16().contiguous(memory_format=torch.channels_last_3d)
    reference = outcome(nn.BatchNorm3d(shape[1]).double(), clips.double(), weights.double())
    found = outcome(ClipBatchNorm(shape[1]).cuda(), clips.cuda(), weights.cuda())
    for mine, exact in zip(found, reference, strict=True):
        assert (mine.cpu().double() - exact).norm() <= 0.02 * exact.norm()
