"""Tiles in several threads, each of which runs single-threaded operations.

PyTorch shares out every operation to OpenMP threads, and waits for the last of them. Beside other
programs each of these waits lasts several milliseconds, and a pass over tiles has hundreds of
operations. Here threads wait for one another once per pass.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache

import torch


def run_strands(strands: Sequence[Sequence[int]], work: Callable[[int, int], object]) -> None:
    """Call `work(strand, item)` for every item of every strand, in up to one thread per strand.

    The items of a strand are worked on one after another, so that sums of a strand always have the
    same order. While several threads run, `torch.set_num_threads(1)` holds for the process.

    Args:
        strands: The items of every strand.
        work: Run without autograd. Its operations use all threads if there is a single strand.
    """
    queue = _Queue(strands)
    num_threads = torch.get_num_threads()
    helpers = min(num_threads, len(strands)) - 1
    if helpers <= 0:
        queue.work_off(work)
        return
    inference = torch.is_inference_mode_enabled()

    def help_out() -> None:
        torch.set_num_threads(1)
        with torch.inference_mode(inference), torch.no_grad():
            queue.work_off(work)

    torch.set_num_threads(1)
    try:
        futures = [_pool().submit(help_out) for _ in range(helpers)]
        try:
            queue.work_off(work)
        finally:
            # There is nothing left to do for helpers that have not begun.
            begun = [future for future in futures if not future.cancel()]
            wait(begun)
    finally:
        torch.set_num_threads(num_threads)
    for future in begun:
        future.result()


class _Queue:
    """Hands out the items of strands; a strand is in the hands of at most one thread."""

    def __init__(self, strands: Sequence[Sequence[int]]) -> None:
        self._left = [deque(items) for items in strands]
        self._free = set(range(len(strands)))
        self._guard = threading.Lock()

    def work_off(self, work: Callable[[int, int], object]) -> None:
        """Take items until there are none that this thread may take; after an error, until then."""
        while taken := self._take():
            strand, item = taken
            try:
                work(strand, item)
            except BaseException:
                self._clear()
                raise
            with self._guard:
                self._free.add(strand)

    def _take(self) -> tuple[int, int] | None:
        with self._guard:
            # Strands that advance alike leave work for every thread until the end.
            strand = max(self._free, key=lambda each: len(self._left[each]), default=None)
            if strand is None or not self._left[strand]:
                return None
            self._free.remove(strand)
            return strand, self._left[strand].popleft()

    def _clear(self) -> None:
        with self._guard:
            for items in self._left:
                items.clear()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="ccnn_geo")


if hasattr(os, "register_at_fork"):
    # The threads of a pool do not exist in a forked process.
    os.register_at_fork(after_in_child=_pool.cache_clear)
