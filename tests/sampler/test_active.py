"""The active dictionary: what is eligible, what is selected, and what a checkpoint restores."""

import pytest
import torch
import torch.nn.functional as F

from sampler import SAMPLERS
from sampler.active import ActiveDictionary
from settings import DictionaryConfig, PoolConfig, SamplerConfig
from settings.errors import ConfigError

D, H, M = 8, 12, 4


def make(*, name="kmeanspp_sequential", pool=40, dictionary=12, source="stream", seed=0, **sampler):
    return ActiveDictionary(
        sampler=SamplerConfig(name=name, **sampler),
        pool=PoolConfig(size=pool, source=source),
        dictionary=DictionaryConfig(size=dictionary),
        dim=D,
        hidden=H,
        temperature=0.2,
        seed=seed,
    )


def clips(ids, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(len(ids), D, generator=generator), dim=1), torch.as_tensor(ids)


def step(active, number, batch_ids=(1000, 1001, 1002, 1003)):
    generator = torch.Generator().manual_seed(number)
    queries = F.normalize(torch.randn(M, D, generator=generator), dim=1)
    hidden = torch.randn(M, H, generator=generator)
    positives = F.normalize(torch.randn(M, D, generator=generator), dim=1)
    return active.update(queries, hidden, batch_ids=torch.tensor(batch_ids), step=number, positives=positives)


@pytest.mark.parametrize("embedding", ["gradient", "key_gradient"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_fills_the_dictionary_with_distinct_clips_of_the_pool(name, embedding):
    active = make(name=name, embedding=embedding)
    active.fill(*clips(range(30)))
    for number in range(5):
        stats = step(active, number)
        assert stats["selected"] == M
        assert stats["missing"] == 0
        active.add(*clips(range(100 + number * M, 100 + number * M + M), seed=number))
    assert len(set(active.ids.tolist())) == len(active.ids)
    assert (active.ids >= 0).all()


def test_neither_the_batchs_clips_nor_those_retained_in_the_dictionary_are_selected():
    active = make()
    active.fill(*clips(range(30)))
    before = active.ids.clone()
    pool = [i for i in range(30) if i not in before.tolist()]
    step(active, 0, batch_ids=pool[:4])
    assert not set(pool[:4]) & set(active.ids.tolist())
    assert len(set(active.ids.tolist())) == 12


def test_an_exhausted_pool_gives_fewer_picks_and_counts_the_missing():
    active = make(dictionary=100)
    active.fill(*clips(range(10)))
    active.add(*clips([50, 51]))
    stats = step(active, 0, batch_ids=(51, 60, 61, 62))
    assert (stats["selected"], stats["missing"]) == (1, 3)


def test_an_empty_pool_selects_nothing_and_leaves_the_dictionary_empty():
    active = make()
    assert step(active, 0)["missing"] == M
    assert (active.ids == -1).all()


def test_equal_seeds_and_steps_give_equal_selections_independent_of_history():
    one, other = make(), make()
    one.fill(*clips(range(30)))
    step(one, 0)
    other.fill(*clips(range(30)))
    other.load_state_dict(one.state_dict())
    assert step(one, 7) is not None
    step(other, 7)
    assert torch.equal(one.ids, other.ids)
    third = make(seed=1)
    third.load_state_dict(one.state_dict())
    step(one, 8)
    step(third, 8)
    assert not torch.equal(one.ids, third.ids)


def test_a_restored_state_dict_continues_identically(tmp_path):
    one = make(condition_on_dictionary=True)
    one.fill(*clips(range(30)))
    step(one, 0)
    one.add(*clips([40, 41]))
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other = make(condition_on_dictionary=True)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for active in (one, other):
        step(active, 1)
        active.add(*clips([50, 51]))
        step(active, 2)
    assert torch.equal(one.keys, other.keys)
    assert torch.equal(one.pool.ids, other.pool.ids)


def test_every_n_steps_selects_n_batches_at_once_and_none_in_between():
    active = make(every_n_steps=2)
    active.fill(*clips(range(40)))
    assert step(active, 1) == {}
    assert step(active, 2)["selected"] == 2 * M


def test_a_pool_drawn_by_epoch_does_not_take_the_batchs_keys():
    active = make(source="epoch")
    active.fill(*clips(range(20)))
    active.add(*clips([77]))
    assert 77 not in active.pool.ids.tolist()


def test_key_gradient_takes_the_softmax_over_the_positives_and_the_eligible_candidates_only():
    active = make(embedding="key_gradient", name="uniform")
    keys, ids = clips(range(30))
    active.fill(keys, ids)
    generator = torch.Generator().manual_seed(0)
    queries, positives = (F.normalize(torch.randn(M, D, generator=generator), dim=1) for _ in range(2))
    eligible = keys[~torch.isin(ids, torch.cat([active.ids[M:], torch.tensor([0, 1])]))]
    positive_logits = (queries * positives).sum(1) / 0.2
    denominator = torch.logaddexp((queries @ eligible.T / 0.2).logsumexp(1), positive_logits)
    active.update(queries, None, batch_ids=torch.tensor([0, 1]), step=0, positives=positives)
    expected = torch.exp(keys @ queries.T / 0.2 - denominator) @ queries / 0.2
    candidates = active._last[0]
    torch.testing.assert_close((candidates.a * candidates.b)[:30], expected)


def test_the_samplers_own_temperature_replaces_that_of_the_loss_in_the_scores():
    found = {}
    for temperature in (None, 0.7):
        active = make(embedding="query_gradient", temperature=temperature)
        active.fill(*clips(range(30)))
        step(active, 0)
        found[temperature] = active._last[0].b
    active.temperature = 0.2
    step(active, 0)
    torch.testing.assert_close(active._last[0].b, found[None])
    assert not torch.allclose(found[0.7], found[None])


def test_gradient_embeddings_without_the_last_layers_input_are_refused_with_an_alternative():
    with pytest.raises(ConfigError, match="query_gradient"):
        ActiveDictionary(
            sampler=SamplerConfig(name="uniform", embedding="gradient"),
            pool=PoolConfig(),
            dictionary=DictionaryConfig(),
            dim=D,
            temperature=0.1,
        )


def test_remove_selected_takes_the_picks_out_of_the_pool():
    active = make()
    active.pool_config = PoolConfig(size=40, remove_selected=True)
    active.fill(*clips(range(30)))
    step(active, 0)
    newest = active.ids[active.dictionary.write_index >= 12]
    assert len(newest) == M
    assert not torch.isin(newest, active.pool.ids).any()


def test_diagnostics_count_classes_and_measure_the_last_selection():
    active = make()
    active.fill(*clips(range(30)))
    labels = torch.arange(2000) % 3
    labels[:30] = -1
    labels[active.ids[0]] = 2
    assert active.diagnostics(labels) == {"distinct_ids": 12.0, "distinct_classes": 1.0}
    step(active, 0)
    found = active.diagnostics()
    assert 0 < found["phi"] < 2
    assert 0 <= found["near_duplicates"] <= 1


def test_diagnostics_exclude_rows_that_the_pool_has_overwritten():
    active = make(pool=30, name="uniform")
    active.fill(*clips(range(30)))
    step(active, 0)
    active.add(*clips(range(100, 103), seed=3))  # overwrites rows 0 to 2
    found = active.diagnostics()
    active.pool.keys[:3] *= 1000
    assert active.diagnostics() == found
    active.pool.keys[3:] *= torch.linspace(1, 2, 27)[:, None]
    assert active.diagnostics() != found


def test_the_quantiser_of_an_index_is_part_of_the_checkpoint(tmp_path):
    one = make(name="kmeanspp_faiss", options={"cells": 4})
    one.fill(*clips(range(30)))
    step(one, 0)
    one.add(*clips([40, 41]))
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other = make(name="kmeanspp_faiss", options={"cells": 4})
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for active in (one, other):
        step(active, 1)
    assert torch.equal(one.ids, other.ids)
