"""Tests the processes in which the decord loader decodes."""

from __future__ import annotations

import pytest

from pipeline.load.reference import processes
from pipeline.plan.bad_samples import SampleError


def test_a_system_without_free_processes_is_not_the_fault_of_a_file(no_free_process) -> None:
    processes.decoding_processes.cache_clear()
    try:
        with pytest.raises(SampleError, match="no worker process can be started") as caught:
            processes.call_in_process(1, len, "a.mp4")
        assert caught.value.sample is None
    finally:
        processes.decoding_processes.cache_clear()
