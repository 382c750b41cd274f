"""A folder of videos in an object store gives the rows of the same folder on a disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.stores import location
from search.embed import __main__ as command
from search.embed.run import embed
from search.embeddings import open_embeddings
from settings.search import EmbedConfig
from tests.search.conftest import Collection
from tests.search.test_embed import without

CONFIG = EmbedConfig(part_files=3, batch_size=4, clips=1, device="cpu")


def rows_of(folder: Path) -> tuple[list[str], list[dict[str, str | None]], np.ndarray]:
    batches = list(open_embeddings(folder).batches())
    sources = [source for batch in batches for source in batch.sources]
    labels = [entry for batch in batches for entry in batch.labels]
    return sources, labels, np.concatenate([batch.vectors[kind] for kind in ("video", "audio") for batch in batches])


@pytest.fixture
def src(store, collection: Collection, tmp_path: Path) -> tuple[str, Path]:
    """The URL of some videos, of which one has no sound and another is damaged, and a folder with them."""
    folder = tmp_path / "videos"
    (folder / "dog").mkdir(parents=True)
    for number in range(3):
        (folder / "dog" / f"{number}.mp4").write_bytes((collection.videos / f"0000{number}.mp4").read_bytes())
    without(collection.videos / "00003.mp4", folder / "silent.mp4", "audio")
    (folder / "noise.mkv").write_bytes(bytes(5000))
    url = store.make_bucket() + "/videos"
    store.put_folder(folder, url)
    return url, folder


def test_rows_are_those_of_a_folder(store, src, run: Path, tmp_path: Path) -> None:
    url, folder = src
    store.faults.errors = 0.05
    embed(run, location(url), tmp_path / "stored", config=CONFIG)
    embed(run, folder, tmp_path / "local", config=CONFIG)
    found, expected = rows_of(tmp_path / "stored"), rows_of(tmp_path / "local")
    assert found[0] == ["dog/0.mp4", "dog/1.mp4", "dog/2.mp4", "silent.mp4"]
    assert found[:2] == expected[:2]
    assert np.array_equal(found[2], expected[2], equal_nan=True)
    assert list(open_embeddings(tmp_path / "stored").unreadable()) == list(
        open_embeddings(tmp_path / "local").unreadable()
    )
    assert not list((tmp_path / "stored").glob(".*"))


def test_what_is_not_there_is_refused_before_the_run_is_read(store, src, run: Path, tmp_path: Path, capsys) -> None:
    assert command.main([str(run), f"{src[0]}/nothing", str(tmp_path / "out")]) == 2
    assert "but s3://" in (said := capsys.readouterr().err)
    assert "nothing does not exist" in said
    assert command.main([str(run), src[0], str(tmp_path / "out"), "--labels", str(tmp_path / "absent.csv")]) == 2
    assert "absent.csv" in capsys.readouterr().err
