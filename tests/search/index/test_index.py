"""The index finds what a comparison with every vector finds, and each change is complete or did not happen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.environment import ROOT
from search.embeddings import open_embeddings
from search.index import build as building
from search.index.__main__ import main
from search.index.build import add, build, remove
from search.index.cells import SMALLEST, WANTED_RECALL
from search.index.folder import SearchIndexError, changing, read_head
from search.index.open import Index, open_index
from search.query.find import find, vector_of
from tests.search.rows import DIM, unit_vectors, write_embeddings

SOURCES = [f"{kind}/{number}.mp4" for kind in ("dog", "cat") for number in range(20) for _ in range(3)]
LABELS = {"kind": [source.split("/")[0] for source in SOURCES], "place": [None, "in", "out"] * 40}


def built(folder: Path, **options) -> tuple[Index, dict[str, np.ndarray]]:
    vectors = write_embeddings(folder / "rows", SOURCES, labels=LABELS, **options)
    build(open_embeddings(folder / "rows"), folder / "index", exact_up_to=1000)
    return open_index(folder / "index"), vectors


def test_exact_search_equals_all_products(tmp_path: Path):
    absent = {"audio": np.arange(len(SOURCES)) % 4 == 1}
    index, vectors = built(tmp_path, absent=absent)
    queries = unit_vectors(5, seed=9)
    for modality in ("video", "audio"):
        scores, ids = index.vectors[modality].search(queries, 7)
        products = queries @ vectors[modality].T
        products[:, absent.get(modality, np.zeros(len(SOURCES), bool))] = -np.inf
        expected = np.argsort(-products, axis=1)[:, :7]
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_allclose(scores, np.take_along_axis(products, expected, 1), atol=1e-6)
    assert index.head.structures["audio"].vectors == 90
    assert index.vectors["audio"].vector(1) is None


def test_labels_and_the_query_itself_restrict_what_is_found(tmp_path: Path):
    index, _ = built(tmp_path)
    row = index.rows.at("cat/3.mp4", 1.4)
    assert (row.start, row.labels) == (1.0, {"kind": "cat", "place": "in"})
    modality, vector = vector_of(index, row, None)
    assert modality == "video"
    hits = find(index, vector, "video", top=500, where={"kind": "cat", "place": "in"}, without=row.id)
    assert len(hits) == 19
    assert all(hit.row.labels == {"kind": "cat", "place": "in"} and hit.row.id != row.id for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert find(index, vector, "audio", top=3, where={"kind": "cow"}) == []
    with pytest.raises(SearchIndexError, match="no label 'kin'; did you mean kind"):
        find(index, vector, "audio", top=3, where={"kin": "cow"})
    assert index.rows.at("dog/0.mp4", 99.0).start == 2.0
    with pytest.raises(SearchIndexError, match=r"no source 'dog/99\.mp4'"):
        index.rows.at("dog/99.mp4", 0.0)


def test_vectors_that_are_not_finite_are_refused_by_name(tmp_path: Path):
    index, vectors = built(tmp_path)
    with pytest.raises(SearchIndexError, match="not finite"):
        index.vectors["video"].search(np.full((1, DIM), np.nan), 3)
    with pytest.raises(SearchIndexError, match="vectors of 16 numbers, not of shape"):
        index.vectors["video"].search(np.ones((1, 5)), 3)
    vectors["audio"][7] = np.inf
    write_embeddings(tmp_path / "bad", SOURCES, vectors=vectors)
    with pytest.raises(SearchIndexError, match=r"the audio vectors are not finite for dog/2.mp4; embed again"):
        build(open_embeddings(tmp_path / "bad"), tmp_path / "other", exact_up_to=1000)
    assert not (tmp_path / "other" / "index.json").exists()


def test_adding_and_removing_equal_building_anew(tmp_path: Path):
    index, vectors = built(tmp_path)
    more = write_embeddings(tmp_path / "more", ["cow/1.mp4", "cow/2.mp4"], labels={"mood": ["calm", None]})
    head, replaced = add(open_embeddings(tmp_path / "more"), tmp_path / "index", replacing=False)
    assert (head.rows, replaced) == (122, 0)
    with pytest.raises(SearchIndexError, match=r"has cow/1.mp4 and 1 more of its sources already: replace their rows"):
        add(open_embeddings(tmp_path / "more"), tmp_path / "index", replacing=False)
    assert add(open_embeddings(tmp_path / "more"), tmp_path / "index", replacing=True)[1] == 2
    head, removed = remove(tmp_path / "index", ["dog/0.mp4", "cow/2.mp4"])
    assert (head.rows, removed, head.next_id) == (118, 4, 124)
    with pytest.raises(SearchIndexError, match=r"no source dog/0.mp4; nothing was removed"):
        remove(tmp_path / "index", ["dog/1.mp4", "dog/0.mp4"])
    changed = open_index(tmp_path / "index")
    kept = np.concatenate([vectors["video"][3:], more["video"][:1]])
    scores, ids = changed.vectors["video"].search(kept[-4:], 1)
    np.testing.assert_allclose(scores[:, 0], 1, atol=1e-6)
    assert [row.source for row in changed.rows.rows(ids[:, 0])] == ["cat/19.mp4"] * 3 + ["cow/1.mp4"]
    assert changed.rows.row(122).labels == {"mood": "calm"}
    assert changed.rows.label_names == ["kind", "place", "mood"]
    # The index that was opened before still answers from its own files.
    assert index.vectors["video"].search(vectors["video"][:1], 1)[1][0, 0] == 0
    assert len(list((tmp_path / "index").glob("*-0*"))) == 3


def test_other_encoders_are_refused(tmp_path: Path):
    built(tmp_path)
    write_embeddings(tmp_path / "more", ["cow/1.mp4"], fingerprint="g")
    with pytest.raises(SearchIndexError, match="made with other encoders"):
        add(open_embeddings(tmp_path / "more"), tmp_path / "index", replacing=False)
    with pytest.raises(SearchIndexError, match="holds an index already: add to it with --add"):
        build(open_embeddings(tmp_path / "rows"), tmp_path / "index", exact_up_to=1)


def test_an_index_may_become_empty_and_grow_again(tmp_path: Path):
    built(tmp_path)
    head, _ = remove(tmp_path / "index", set(SOURCES))
    assert (head.rows, head.structures) == (0, {})
    empty = open_index(tmp_path / "index")
    assert find(empty, np.ones(DIM, np.float32), "video", top=3, where={}) == []
    assert empty.rows.spread(5, None) == []
    assert add(open_embeddings(tmp_path / "rows"), tmp_path / "index", replacing=False)[0].rows == 120
    assert open_index(tmp_path / "index").rows.ids[0] == 120


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """An index with cells for video (10,200 vectors), and exact search for audio (fewer)."""
    folder = tmp_path_factory.mktemp("large")
    count = SMALLEST + 200
    absent = {"audio": np.arange(count) % 2 == 0}
    sources, kinds = [f"{row:05d}.mp4" for row in range(count)], [str(row % 100) for row in range(count)]
    vectors = write_embeddings(folder / "rows", sources, labels={"kind": kinds}, absent=absent)
    build(open_embeddings(folder / "rows"), folder / "index", exact_up_to=0)
    return folder, vectors


def test_the_stated_recall_is_that_of_other_queries(large):
    folder, vectors = large
    index = open_index(folder / "index")
    assert {name: found.kind for name, found in index.head.structures.items()} == {"video": "ivfpq", "audio": "exact"}
    stated = index.head.structures["video"].recall
    queries = unit_vectors(500, seed=77)
    true = np.argsort(-(queries @ vectors["video"].T), axis=1)[:, :10]
    scores, found = index.vectors["video"].search(queries, 10)
    recall = np.mean([len(set(a) & set(b)) for a, b in zip(true.tolist(), found.tolist(), strict=True)]) / 10
    assert stated >= WANTED_RECALL
    assert recall > stated - 0.04
    # Scores are exact products, not those of compressed vectors.
    np.testing.assert_allclose(scores[0], queries[0] @ vectors["video"][found[0]].T, atol=1e-6)


def test_filters_hold_with_cells(large):
    folder, vectors = large
    index, query = open_index(folder / "index"), unit_vectors(1, seed=5)
    hits = find(index, query[0], "video", top=20, where={"kind": "42"})
    rows = np.arange(42, len(vectors["video"]), 100)
    expected = rows[np.argsort(-(vectors["video"][rows] @ query[0]))][:20]
    assert [hit.row.id for hit in hits] == expected.tolist()
    among = np.arange(0, len(vectors["video"]), 2)
    index.vectors["video"].search(query, 5, among=among)


def test_a_filter_that_leaves_many_searches_the_cells(large, monkeypatch):
    folder, vectors = large
    index, query = open_index(folder / "index"), unit_vectors(1, seed=5)
    monkeypatch.setattr("search.index.vectors._FEW", 10)
    among = np.arange(1, len(vectors["video"]), 2)
    ids = index.vectors["video"].search(query, 10, among=among, probes=10_000)[1][0]
    expected = among[np.argsort(-(vectors["video"][among] @ query[0]))][:10]
    assert len(set(ids.tolist()) & set(expected.tolist())) >= 9
    ids = index.vectors["audio"].search(query, 10, among=among)[1][0]
    assert ids.tolist() == among[np.argsort(-(vectors["audio"][among] @ query[0]))][:10].tolist()


def test_cells_take_and_lose_vectors_without_being_computed_again(large, tmp_path, monkeypatch):
    folder, vectors = large
    index = tmp_path / "index"
    subprocess.run(["cp", "-r", folder / "index", index], check=True)
    monkeypatch.setattr(building, "train", None)
    more = write_embeddings(tmp_path / "more", ["new.mp4"])
    head, _ = add(open_embeddings(tmp_path / "more"), index, replacing=False)
    assert head.structures["video"].trained_on == SMALLEST + 200
    new = open_index(index).vectors["video"]
    assert new.search(more["video"], 1)[1].tolist() == [[SMALLEST + 200]]
    remove(index, ["new.mp4", "00003.mp4"])
    left = open_index(index).vectors["video"]
    assert SMALLEST + 200 not in left.search(more["video"], 5)[1]
    assert left.search(vectors["video"][3:4], 1)[1][0, 0] != 3
    assert left.search(vectors["video"][4:5], 1)[1][0, 0] == 4


def test_a_killed_change_leaves_the_old_index(tmp_path: Path):
    """Kills the process at each step of an addition: before each file, and before the head."""
    _, vectors = built(tmp_path)
    write_embeddings(tmp_path / "more", ["cow/1.mp4"])
    program = """
import os, signal, sys
from pathlib import Path
from search.embeddings import open_embeddings
from search.index import build
steps = int(sys.argv[3])
def counted(function):
    def call(*args, **options):
        global steps
        steps -= 1
        if steps < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return call
build.write_faiss, build.publish, build.Rows.write = map(counted, (build.write_faiss, build.publish, build.Rows.write))
build.add(open_embeddings(sys.argv[1]), Path(sys.argv[2]), replacing=False)
"""
    for step in range(4):
        line = [sys.executable, "-c", program, tmp_path / "more", tmp_path / "index", str(step)]
        done = subprocess.run(line, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert done.returncode == -signal.SIGKILL
        assert open_index(tmp_path / "index").vectors["video"].search(vectors["video"][:1], 1)[1][0, 0] == 0
        assert read_head(tmp_path / "index").rows == 120
    head, _ = add(open_embeddings(tmp_path / "more"), tmp_path / "index", replacing=False)
    assert head.rows == 121
    assert {path.name for path in (tmp_path / "index").iterdir()} == {
        "index.json",
        "index.lock",
        *(head.file(*name) for name in (("rows", "arrow"), ("video", "flat"), ("audio", "flat"))),
    }


def test_damage_is_named(tmp_path: Path):
    index, _ = built(tmp_path)
    folder = tmp_path / "index"
    flat = folder / index.head.file("video", "flat")
    flat.write_bytes(flat.read_bytes()[:100])
    with pytest.raises(SearchIndexError, match=r"video-000001.flat is damaged: build the index again"):
        open_index(folder)
    flat.unlink()
    with pytest.raises(SearchIndexError, match=r"video-000001.flat is missing"):
        open_index(folder)
    rows = folder / index.head.file("rows", "arrow")
    rows.write_bytes(rows.read_bytes()[:200])
    with pytest.raises(SearchIndexError, match="cannot read the rows"):
        open_index(folder)
    head = json.loads((folder / "index.json").read_text())
    cases = [("{", "cannot read"), ("[]", "has format None"), (json.dumps({**head, "other": 1}), "is damaged")]
    for text, said in cases:
        (folder / "index.json").write_text(text)
        with pytest.raises(SearchIndexError, match=said):
            read_head(folder)


def test_a_damaged_head_is_named_whatever_it_holds(tmp_path: Path):
    built(tmp_path)
    path = tmp_path / "index" / "index.json"
    head = json.loads(path.read_text())
    video, model = head["structures"]["video"], head["model"]
    changes = [
        *({key: "x"} for key in ("generation", "rows", "next_id", "exact_up_to", "source", "structures", "model")),
        *({"model": {**model, key: None}} for key in ("run", "fingerprint", "dim")),
        *({"structures": {"video": {**video, key: "x"}}} for key in ("kind", "vectors", "probes", "recall")),
        {"rows": -1},
        {"source": {"kind": "folder", "path": 7}},
        {"structures": {"smell": video}},
    ]
    for change in changes:
        path.write_text(json.dumps({**head, **change}))
        with pytest.raises(SearchIndexError, match=r"index\.json is damaged .*: build the index again"):
            open_index(tmp_path / "index")
    path.write_text("[" * 100_000)
    with pytest.raises(SearchIndexError, match=r"cannot read .*index\.json"):
        read_head(tmp_path / "index")


def test_two_changes_at_once_are_refused(tmp_path: Path):
    built(tmp_path)
    with changing(tmp_path / "index"), pytest.raises(SearchIndexError, match="another process is changing"):
        remove(tmp_path / "index", ["dog/0.mp4"])


def test_the_command_says_what_the_index_holds(tmp_path: Path, capsys):
    write_embeddings(tmp_path / "rows", SOURCES, labels=LABELS)
    write_embeddings(tmp_path / "more", ["cow/1.mp4"])
    paths = [str(tmp_path / name) for name in ("rows", "more", "index")]
    (tmp_path / "list.txt").write_text("dog/0.mp4\ndog/1.mp4\n")
    assert main([paths[0], paths[2]]) == 0
    assert main([paths[1], paths[2], "--add"]) == 0
    assert main([paths[2], "--remove", "dog/2.mp4", "--remove-list", str(tmp_path / "list.txt")]) == 0
    assert main([paths[2]]) == 0
    out = capsys.readouterr().out
    assert "index: 120 rows, 16 dimensions, of runs/none\nvideo: 120 vectors, exact search\n" in out
    assert "added 1 rows\n" in out
    assert "removed 9 rows\n" in out
    assert main([paths[0], paths[2]]) == 2
    assert "holds an index already" in capsys.readouterr().err
    for wrong in (["a", "b", "--remove", "c"], ["a", "--add"], ["a", "b", "--replace"], ["a", "--exact-up-to", "-1"]):
        with pytest.raises(SystemExit):
            main(wrong)
