"""The ring buffers of pool and dictionary."""

import torch

from sampler.key_ring import Dictionary, Pool


def rows(*ids):
    ids = torch.tensor(ids, dtype=torch.int64)
    return ids[:, None].float().repeat(1, 2), ids


def held(ring):
    return sorted(ring.ids[ring.ids >= 0].tolist())


def test_a_new_ring_is_empty():
    assert Dictionary(size=3, dim=2).ids.tolist() == [-1, -1, -1]


def test_wrap_around_overwrites_the_oldest_and_leaves_no_stale_row():
    dictionary = Dictionary(size=5, dim=2)
    for start in range(0, 30, 3):
        dictionary.enqueue(*rows(start, start + 1, start + 2))
    assert held(dictionary) == [25, 26, 27, 28, 29]
    assert dictionary.keys[:, 0].tolist() == dictionary.ids.tolist()


def test_a_write_longer_than_the_ring_keeps_its_newest_rows():
    dictionary = Dictionary(size=3, dim=2)
    dictionary.enqueue(*rows(0, 1, 2, 3, 4))
    assert held(dictionary) == [2, 3, 4]


def test_a_clip_written_again_is_held_once_with_its_newest_key():
    pool = Pool(size=6, dim=2)
    pool.add(*rows(1, 2, 3))
    keys, ids = rows(2, 4)
    pool.add(keys + 10, ids)
    assert held(pool) == [1, 2, 3, 4]
    assert pool.keys[pool.ids == 2, 0].tolist() == [12.0]


def test_retained_rows_are_those_that_survive_the_enqueue():
    dictionary = Dictionary(size=4, dim=2)
    dictionary.enqueue(*rows(0, 1, 2, 3))
    dictionary.enqueue(*rows(4))
    retained = dictionary.ids[dictionary.retained(2)]
    dictionary.enqueue(*rows(8, 9))
    assert sorted(retained.tolist()) == [3, 4]
    assert held(dictionary) == [3, 4, 8, 9]


def test_replace_evicts_everything_written_before():
    pool = Pool(size=5, dim=2)
    pool.add(*rows(0, 1, 2, 3, 4))
    pool.replace(*rows(7, 8))
    assert held(pool) == [7, 8]


def test_write_index_changes_exactly_where_rows_were_written():
    pool = Pool(size=5, dim=2)
    pool.add(*rows(0, 1, 2, 3))
    before = pool.write_index.clone()
    pool.add(*rows(9, 10, 11))
    changed = (pool.write_index != before).nonzero().squeeze(1).tolist()
    assert changed == [0, 1, 4]


def test_state_dict_restores_contents_and_position():
    one, other = Pool(size=4, dim=2), Pool(size=4, dim=2)
    one.add(*rows(0, 1, 2, 3))
    one.add(*rows(4))
    other.load_state_dict(one.state_dict())
    for pool in (one, other):
        pool.add(*rows(5, 6))
    assert torch.equal(one.ids, other.ids)
    assert torch.equal(one.write_index, other.write_index)
    assert torch.equal(one.keys, other.keys)


def test_a_checkpoint_that_calls_the_write_index_stamps_is_read():
    one, other = Pool(size=4, dim=2), Pool(size=4, dim=2)
    one.add(*rows(0, 1, 2))
    state = one.state_dict()
    state["stamps"] = state.pop("write_index")
    other.load_state_dict(state)
    assert torch.equal(one.write_index, other.write_index)
