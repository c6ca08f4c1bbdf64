"""Settings for all tests: hypothesis draws the same examples every time, no example has a deadline, and no test waits for storage."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from embed_ops import faults

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50, database=None)
settings.load_profile("repeatable")

# In this process only: commands and workers that tests start wait as users' do.
faults.FIRST_WAIT_S, faults.LONGEST_WAIT_S, faults.JITTER_S = 0.001, 0.002, 0.0


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch use one thread, for which bits of a row are promised, and check that no test of the module changes that."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)
