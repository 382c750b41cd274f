"""Selections on tensors that pretend to be on a GPU: devices are never mixed, and the host rarely waits."""

from __future__ import annotations

import faiss
import pytest
import torch
import torch.nn.functional as F

from sampler import SAMPLERS
from sampler.active import ActiveDictionary
from sampler.d2.faiss_index import train_quantiser
from sampler.gradient import EMBEDDINGS
from sampler.rules.kmeanspp_faiss import KMeansPPFaiss
from settings import DictionaryConfig, PoolConfig, SamplerConfig
from tests.pretend_gpu import GpuTensor, PretendGpu, to_gpu

N, K, M, D, H = 200, 40, 8, 16, 24


@pytest.fixture(autouse=True)
def _no_stream(monkeypatch):
    class Stream:
        def synchronize(self):
            pass

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream())
    # If FAISS found a GPU, it would receive these tensors, which are in fact on the CPU.
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)


def rows(count, dim):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(count))).as_subclass(GpuTensor)


def numbers(first, count):
    return torch.arange(first, first + count).as_subclass(GpuTensor)


def active_dictionary(name, *, embedding="gradient", options=None, source="epoch", condition=False):
    active = ActiveDictionary(
        sampler=SamplerConfig(name=name, options=options or {}, embedding=embedding, condition_on_dictionary=condition),
        pool=PoolConfig(size=N, source=source),
        dictionary=DictionaryConfig(size=K),
        dim=D,
        temperature=0.1,
        hidden=H,
    )
    to_gpu(active)
    active.fill(rows(N, D), numbers(0, N))
    return active


def select(active):
    stats = active.update(rows(M, D), rows(M, H), batch_ids=numbers(3, M), step=0, positives=rows(M, D))
    active.add(rows(M, D), numbers(3, M))
    return stats


def check(active):
    stats = select(active)
    assert stats["selected"] == M
    assert all(isinstance(ring, GpuTensor) for ring in active.buffers())
    assert int(stats["distinct_ids"]) == K
    active.diagnostics(torch.arange(N) % 5)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_no_sampler_mixes_devices(name):
    with PretendGpu():
        check(active_dictionary(name))


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("condition", [False, True])
def test_no_embedding_mixes_devices(embedding, condition):
    with PretendGpu():
        check(active_dictionary("kmeanspp", embedding=embedding, source="stream", condition=condition))


@pytest.mark.parametrize(
    ("name", "options"), [("kmeanspp_faiss", {"index_on": "sketch"}), ("kmeanspp", {"precision": "fp32"})]
)
def test_no_option_mixes_devices(name, options):
    with PretendGpu():
        check(active_dictionary(name, options=options))


def test_the_default_waits_a_handful_of_times():
    with PretendGpu() as pretended:
        active = active_dictionary("kmeanspp")
        pretended.waits.clear()
        select(active)
    # The host waits for allowed rows (2), their number (2), picks so far (3), the end (1) and written rows (1).
    assert len(pretended.waits) <= 9, pretended.waits


def test_auto_leaves_the_index_to_the_cpu(monkeypatch):
    monkeypatch.setattr("sampler.rules.auto.INDEX_FROM", (1, 1))
    monkeypatch.setattr(KMeansPPFaiss, "select", None)
    with PretendGpu():
        check(active_dictionary("auto"))


def test_the_quantiser_is_trained_only_on_the_gpu_of_the_rows(monkeypatch):
    devices = []
    monkeypatch.setattr("tests.pretend_gpu.GPU", torch.device("cuda", 3))
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 8)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda _, device, index: devices.append(device) or index)
    monkeypatch.setattr("sampler.d2.faiss_index._gpu_resources", lambda: None)
    keys = F.normalize(torch.randn(N, D))
    with PretendGpu():
        there = train_quantiser(keys.as_subclass(GpuTensor), 4)
    assert devices == [3]
    assert torch.equal(there, train_quantiser(keys, 4))
    assert devices == [3]


def test_mixed_devices_raise():
    with PretendGpu() as pretended:
        there = rows(4, D)
        assert there.device.type == "cuda"
        assert (there + 1).is_cuda
        with pytest.raises(RuntimeError, match="on the GPU and on the CPU"):
            there + torch.zeros(4, D)
        with pytest.raises(RuntimeError, match="on the GPU and on the CPU"):
            there.numpy()
        assert pretended.waits == []
        there[there > 0].sum().item()
        there.cpu()
    assert pretended.waits == ["__getitem__", "item", "to cpu"]
