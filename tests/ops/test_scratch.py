"""Scratch memory: kept on the CPU, lent to one at a time, never more than it says."""

import threading

import pytest
import torch

from ccnn_geo.ops.point_backends.torch import scratch
from ccnn_geo.ops.point_backends.torch.scratch import Scratch, borrowed_scratch


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    monkeypatch.setattr(scratch, "_idle", scratch._Idle())


def borrowed_address(like=None):
    with borrowed_scratch(torch.zeros(1) if like is None else like) as buffers:
        return buffers("values", 1000).data_ptr()


def test_a_buffer_is_as_large_as_the_largest_wish_and_has_the_shape_of_each():
    buffers = Scratch(torch.float32, torch.device("cpu"))
    large = buffers("values", 20, 5)
    assert large.shape == (20, 5)
    small = buffers("values", 3, 2)
    assert small.shape == (3, 2)
    assert small.data_ptr() == large.data_ptr()
    assert buffers("values", 101).numel() == 101
    assert buffers("others", 1).data_ptr() != large.data_ptr()
    assert buffers.num_bytes == 4 * 102


def test_the_next_call_gets_the_same_memory_and_another_type_its_own():
    first = borrowed_address()
    assert borrowed_address() == first
    with borrowed_scratch(torch.zeros(1, dtype=torch.float64)) as buffers:
        assert buffers("values", 10).dtype == torch.float64


def test_nobody_gets_memory_that_is_lent():
    with borrowed_scratch(torch.zeros(1)) as outer, borrowed_scratch(torch.zeros(1)) as inner:
        assert outer is not inner
        assert outer("values", 10).data_ptr() != inner("values", 10).data_ptr()


def test_threads_do_not_share():
    with borrowed_scratch(torch.zeros(1)) as buffers:
        mine = buffers
    found = []

    def borrow():
        with borrowed_scratch(torch.zeros(1)) as theirs:
            found.append(theirs)

    thread = threading.Thread(target=borrow)
    thread.start()
    thread.join()
    assert found[0] is not mine


def test_too_much_memory_is_given_back(monkeypatch):
    monkeypatch.setattr(scratch, "_MAX_KEPT_BYTES", 3999)
    with borrowed_scratch(torch.zeros(1)) as first:
        first("values", 1000)
    with borrowed_scratch(torch.zeros(1)) as second:
        assert second is not first


def test_memory_is_lent_again_after_a_failure():
    with pytest.raises(KeyError, match="oops"), borrowed_scratch(torch.zeros(1)) as first:
        raise KeyError("oops")
    with borrowed_scratch(torch.zeros(1)) as second:
        assert second is first


def test_what_inference_mode_allocates_serves_training_too():
    with torch.inference_mode():
        borrowed_address()
    with borrowed_scratch(torch.zeros(1)) as buffers:
        buffers("values", 10).fill_(1)
