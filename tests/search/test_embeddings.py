"""The reader returns what was written, a few rows at a time, and names damaged and missing files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common import environment
from common.environment import MissingPackage
from search.embed.store import EmbedError, Part, Store
from search.embeddings import AT_END, Embeddings, EmbeddingsError, open_embeddings

DIM, SIZE = 8, 10
META = {
    "format": 1,
    "model": {"run": "/run", "step": 1, "fingerprint": "abc", "dim": DIM, "modalities": ["video", "audio"]},
    "every": 2.0,
    "source": {"kind": "shards", "path": "/shards", "fingerprint": "def"},
    "labels": ["kind", "größe"],
    "parts": 3,
}


def make_part(number: int, *, rows: int = SIZE) -> Part:
    rng = np.random.default_rng(number)
    return Part(
        number=number,
        sources=[f"{number}/ü\n{row}.mp4" for row in range(rows)],
        start=np.arange(rows) * 2.0,
        end=np.arange(rows) * 2.0 + 2,
        labels={"kind": ["a", None] * (rows // 2), "größe": ["x"] * rows},
        vectors={modality: rng.standard_normal((rows, DIM)).astype(np.float32) for modality in ("video", "audio")},
        present={"video": np.ones(rows, bool), "audio": np.arange(rows) % 5 > 0},
        unreadable=[{"source": f"bad\u2028\x85{number}.mp4", "reason": "empty file"}] if number else [],
    )


def write(folder: Path, parts: list[Part]) -> Embeddings:
    store = Store(folder, parts=len(parts), meta=META | {"parts": len(parts)})
    for part in parts:
        assert store.claim(part.number)
        store.write(part)
    store.finish(npy=True)
    return open_embeddings(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, [make_part(0), make_part(1, rows=0), make_part(2)])
    return tmp_path


@pytest.mark.parametrize("size", [3, 10, 100])
def test_rows_come_back_in_order_and_few_at_a_time(folder: Path, size: int) -> None:
    embeddings = open_embeddings(folder)
    batches = list(embeddings.batches(size=size))
    written = [make_part(0), make_part(2)]
    assert all(0 < len(batch.sources) <= size for batch in batches)
    assert [batch.first for batch in batches] == np.cumsum([0, *(len(batch.sources) for batch in batches)])[
        :-1
    ].tolist()
    assert [name for batch in batches for name in batch.sources] == [name for part in written for name in part.sources]
    labels = [entry for batch in batches for entry in batch.labels]
    assert labels == [{"kind": kind, "größe": "x"} for kind in ["a", None] * SIZE]
    np.testing.assert_array_equal(np.concatenate([batch.starts for batch in batches]), np.tile(written[0].start, 2))
    np.testing.assert_array_equal(np.concatenate([batch.ends for batch in batches]), np.tile(written[0].end, 2))
    for modality in ("video", "audio"):
        wanted = np.concatenate([part.vectors[modality] * part.present[modality][:, None] for part in written])
        np.testing.assert_array_equal(np.concatenate([batch.vectors[modality] for batch in batches]), wanted)
        np.testing.assert_array_equal(np.load(folder / f"{modality}.npy"), wanted)
        present = np.concatenate([part.present[modality] for part in written])
        np.testing.assert_array_equal(np.concatenate([batch.present[modality] for batch in batches]), present)
    assert embeddings.unreadable() == [{"source": f"bad\u2028\x85{k}.mp4", "reason": "empty file"} for k in (1, 2)]
    assert (len(embeddings), embeddings.dim, embeddings.fingerprint) == (20, DIM, "abc")
    assert embeddings.meta["unreadable"] == 2


def test_other_programs_read_the_rows_with_their_types(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_table(folder / "rows-00002.parquet").schema
    assert schema.field("video").type == pa.list_(pa.float32(), DIM)
    assert schema.field("labels").type == pa.struct([("kind", pa.string()), ("größe", pa.string())])
    about = json.loads(schema.metadata[b"cmacc"])
    whole = json.loads((folder / "embeddings.json").read_text())
    assert about == {key: value for key, value in whole.items() if key not in AT_END}


def test_rows_can_be_read_without_vectors(folder: Path) -> None:
    batch = next(open_embeddings(folder).batches(vectors=False))
    assert (len(batch.sources), batch.vectors, batch.present) == (SIZE, {}, {})


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x40
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_is_found_and_the_part_made_again(folder: Path) -> None:
    path = folder / "rows-00000.parquet"
    original = path.read_bytes()
    for place in range(0, len(original), 97):
        path.write_bytes(original)
        flip(path, place)
        with pytest.raises(EmbeddingsError, match=r"rows-00000\.parquet (is damaged|belongs to other)"):
            list(open_embeddings(folder).batches())
    store = Store(folder, parts=3, meta=META)
    assert store.missing() == [0]
    store.close()


def test_missing_and_foreign_parts_are_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    part = folder / "rows-00002.parquet"
    other = tmp_path_factory.mktemp("other")
    store = Store(other, parts=1, meta=META | {"every": 3.0, "parts": 1})
    assert store.claim(0)
    store.write(make_part(0))
    store.close()
    part.write_bytes((other / "rows-00000.parquet").read_bytes())
    with pytest.raises(EmbeddingsError, match=r"rows-00002\.parquet belongs to other embeddings"):
        list(open_embeddings(folder).batches())
    part.write_bytes((folder / "rows-00001.parquet").read_bytes())
    with pytest.raises(EmbeddingsError, match=r"rows-00002\.parquet is damaged \(ValueError: its SHA-256 differs"):
        list(open_embeddings(folder).batches())
    part.unlink()
    with pytest.raises(EmbeddingsError, match=r"rows-00002\.parquet is missing"):
        open_embeddings(folder)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 1}', "\0\0", '{"format": 1, "rows": -1}'])
def test_a_damaged_description_is_named(folder: Path, text: str) -> None:
    (folder / "embeddings.json").write_text(text)
    with pytest.raises(EmbeddingsError, match=r"embeddings\.json is damaged"):
        open_embeddings(folder)


def test_a_description_that_lacks_a_key_or_counts_other_rows_is_named(folder: Path) -> None:
    meta = json.loads((folder / "embeddings.json").read_text())
    changes = [{"rows": 19}, {"source": None}, {"model": meta["model"] | {"run": None}}]
    for change in changes:
        (folder / "embeddings.json").write_text(json.dumps(meta | change))
        with pytest.raises(EmbeddingsError, match=r"embeddings\.json is damaged"):
            list(open_embeddings(folder).batches())


def test_other_formats_and_unfinished_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    meta = json.loads((folder / "embeddings.json").read_text())
    (folder / "embeddings.json").write_text(json.dumps(meta | {"format": 2}))
    with pytest.raises(EmbeddingsError, match="has format 2, but this version reads 1"):
        open_embeddings(folder)
    (folder / "embeddings.json").unlink()
    with pytest.raises(EmbeddingsError, match="holds unfinished embeddings; run the same command again"):
        open_embeddings(folder)
    with pytest.raises(EmbeddingsError, match="holds no embeddings"):
        open_embeddings(tmp_path / "none")


def test_without_pyarrow_the_error_names_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"pyarrow is not installed; .*pip install -r requirements-search\.txt"):
        open_embeddings(folder)


def test_a_store_refuses_other_embeddings_and_says_how_they_differ(folder: Path) -> None:
    with pytest.raises(EmbedError, match=r"every: 2\.0 there, 4\.0 now"):
        Store(folder, parts=3, meta=META | {"every": 4.0})


def test_a_damaged_part_is_made_again(folder: Path) -> None:
    before = (folder / "rows-00000.parquet").read_bytes()
    (folder / "rows-00000.parquet").write_bytes(before[:100])
    (folder / ".rows-00000.parquet.17.tmp").write_bytes(b"unfinished")
    store = Store(folder, parts=3, meta=META)
    assert store.missing() == [0]
    assert store.claim(0)
    store.write(make_part(0))
    store.finish(npy=False)
    assert (folder / "rows-00000.parquet").read_bytes() == before
    assert not list(folder.glob(".*"))
