"""What the tests of pictures share."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest


@pytest.fixture
def small_files() -> AbstractContextManager[None]:
    """A context in which no file grows beyond 1,000 bytes, as on a full disk."""
    resource = pytest.importorskip("resource", reason="the system has no limits of file sizes")

    @contextmanager
    def limited() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited()
