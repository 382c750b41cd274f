"""Label columns restricted to listed classes."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.lists.classes import CLASSES, KINETICS_SOUNDS, read_classes, restrict
from evaluation.task import Split, Task
from settings import ConfigError


class Data:
    def label_names(self, column):
        return ["Playing_Piano", "abseiling", "singing", "tickling"]


def task(codes=(0, 1, 2, 0, 3, 2)):
    test = np.array([False, False, False, True, True, True])
    return Task(label="label", codes=np.array(codes), split=Split(train=~test, test=test, origin="test"))


def test_kinetics_sounds_has_31_classes():
    assert len(set(CLASSES[KINETICS_SOUNDS])) == len(CLASSES[KINETICS_SOUNDS]) == 31


def test_other_classes_are_left_out_and_absent_ones_are_named():
    restricted, notes = restrict(task(), Data(), ("playing piano", "singing", "bowling"))
    assert restricted.codes.tolist() == [0, -1, 2, 0, -1, 2]
    assert restricted.train.tolist() == [True, False, True, False, False, False]
    assert notes == ["1 of the 3 classes have no sample: bowling."]
    assert restrict(task(), Data(), ("playing piano", "singing"))[1] == []


def test_classes_that_the_data_lack_are_refused():
    with pytest.raises(
        ConfigError, match=r"of the 2 classes .*, 1 have training samples under --label label, and 1 test"
    ):
        restrict(task(), Data(), ("singing", "bowling"))


def test_a_file_lists_one_class_on_each_line(tmp_path):
    (tmp_path / "classes.txt").write_text("playing piano\n\nice cream truck, ice cream van\n")
    assert read_classes(str(tmp_path / "classes.txt")) == ("playing piano", "ice cream truck, ice cream van")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ConfigError, match="is an empty file"):
        read_classes(str(tmp_path / "empty.txt"))
