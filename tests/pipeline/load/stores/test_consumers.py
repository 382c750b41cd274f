"""Settings and commands that read prepared data take URLs, and refuse those that cannot be used."""

from __future__ import annotations

import pytest

from evaluation.lists.official_splits import read_rejected
from pipeline.preview.__main__ import main as preview
from pipeline.suitability import check_training_data
from settings import Config, ConfigError, load_config

SECRET = "very-secret-words"


def test_a_secret_in_a_setting_is_refused_and_not_repeated(tmp_path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"data: {{path: 's3://key:{SECRET}@bucket/shards'}}\n")
    for arguments in ((file, []), (None, [f"data.path=s3://key:{SECRET}@bucket/shards"])):
        with pytest.raises(ConfigError, match=r"data\.path: .*before @") as error:
            load_config(Config, *arguments)
        assert SECRET not in str(error.value)


def test_a_secret_in_an_argument_is_refused_and_not_repeated(capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        preview([f"https://host/shards?signature={SECRET}"])
    printed = capsys.readouterr().err
    assert "a query" in printed
    assert SECRET not in printed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.loader=decord", "reads folders of this machine only"),
        ("data.cache_dir=s3://bucket/cache", "data.cache_dir must be a folder of this machine"),
        ("data.cache_gb=-1", "data.cache_gb must be at least 0"),
    ],
)
def test_settings_that_do_not_fit_a_url_are_refused(override, message) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Config, None, ["data.path=s3://bucket/shards", override])


def test_the_data_of_a_run_are_checked_before_it_starts(store, corpus) -> None:
    url = store.make_bucket() + "/shards"
    store.put_folder(corpus.vp9, url)
    assert check_training_data(load_config(Config, None, [f"data.path={url}"])) == 10


def test_rejected_files_are_read(store) -> None:
    url = store.make_bucket()
    assert read_rejected(url) == {}
    store.put(f"{url}/rejected.jsonl", b'{"source": "a.mp4", "reason": "no sound"}\n')
    assert read_rejected(url) == {"a.mp4": "no sound"}


def test_preview_names_what_is_missing(store, capsys) -> None:
    assert preview(["s3://no-bucket-here/shards"]) == 2
    assert "s3://no-bucket-here/shards holds no manifest" in capsys.readouterr().err
