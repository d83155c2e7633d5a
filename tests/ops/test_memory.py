"""Peak memory of what must work on large clouds, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")

SEARCH = """
from pathlib import Path
import torch
from ccnn_geo import knn_graph

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

torch.manual_seed(0)
pos = torch.rand(100_000, 3)
before = resident("VmRSS")
edge_index = knn_graph(pos, 64, loop=True)
assert edge_index.shape == (2, 6_400_000)
print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="peak memory is read from /proc, which is not here")
def test_64_neighbours_of_100_000_points_are_found_in_less_than_a_gigabyte():
    run = subprocess.run([sys.executable, "-c", SEARCH], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 10**9
