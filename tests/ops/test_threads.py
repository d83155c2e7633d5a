"""Strands of work in several threads: all of it, in order, and the process as it was before."""

import os
import threading
import warnings

import pytest
import torch

from ccnn_geo.ops.point_backends.torch.threads import run_strands


@pytest.fixture(autouse=True)
def _three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def meet(strands):
    """Runs strands whose first items wait for one another: each needs a thread of its own."""
    barrier = threading.Barrier(min(3, len(strands)))
    seen = []

    def work(strand, item):
        if item == 0 and strand < 3:
            barrier.wait(timeout=60)
        seen.append((strand, item))

    run_strands(strands, work)
    return seen


@pytest.mark.parametrize("lengths", [[4, 1, 3], [9, 9, 9, 9, 9], [5, 5]])
def test_every_item_is_worked_on_once_and_in_the_order_of_its_strand(lengths):
    seen = meet([range(length) for length in lengths])
    for strand, length in enumerate(lengths):
        assert [item for own, item in seen if own == strand] == list(range(length))


def test_a_single_strand_keeps_the_threads_of_its_operations():
    threads = []
    run_strands([range(2)], lambda strand, item: threads.append(torch.get_num_threads()))
    assert threads == [3, 3]


def test_no_strands_are_no_work():
    run_strands([], lambda strand, item: pytest.fail("there is nothing to work on"))


def test_operations_are_single_threaded_in_all_threads_and_not_afterwards():
    found = {}
    barrier = threading.Barrier(3)

    def work(strand, item):
        barrier.wait(timeout=60)
        found[threading.get_ident()] = torch.get_num_threads()

    run_strands([[0], [0], [0]], work)
    assert list(found.values()) == [1, 1, 1]
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("inference", [False, True])
def test_all_threads_are_in_the_mode_of_the_caller_without_autograd(inference):
    weight = torch.ones(3, requires_grad=True)
    barrier = threading.Barrier(3)
    made = []

    def work(strand, item):
        barrier.wait(timeout=60)
        made.append(weight * 2)

    with torch.inference_mode(inference), torch.no_grad():
        run_strands([[0], [0], [0]], work)
    assert [each.requires_grad for each in made] == [False] * 3
    assert [each.is_inference() for each in made] == [inference] * 3


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_any_thread_reaches_the_caller_and_ends_the_work(failing):
    barrier = threading.Barrier(3)
    done = []

    def work(strand, item):
        barrier.wait(timeout=60)
        if strand == failing:
            raise MemoryError("no more")
        done.append(item)

    with pytest.raises(MemoryError, match="no more"):
        run_strands([[0], [0], [0]], work)
    assert len(done) == 2
    assert torch.get_num_threads() == 3


def test_after_an_error_nothing_else_is_begun():
    done = []

    def work(strand, item):
        done.append(item)
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        run_strands([range(100), range(100)], work)
    assert len(done) <= 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_process_has_threads_of_its_own():
    meet([[0], [0], [0]])
    with warnings.catch_warnings():
        # Python 3.12 warns of forks of processes with threads, which is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if len(meet([[0], [0], [0]])) == 3 else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
