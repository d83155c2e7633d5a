"""The Triton kernels compiled for GPUs that need not be there: what the interpreter cannot see."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the package triton is not installed")

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("capability", "smallest"), [(80, 86), (90, 90)])
def test_kernels_compile_and_fit_the_shared_memory(capability, smallest, tmp_path):
    """Those for capability 8.0 run on the smaller 8.6 and 8.9, too."""
    command = [sys.executable, "-m", "benchmarks.kernel_resources"]
    command += ["--capability", str(capability), "--shapes", "narrow", "widest", "full"]
    run = subprocess.run(
        [*command, "--json", str(tmp_path / "report.json")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    rows, limit = report["rows"], report["shared_limits"][str(smallest)]
    assert {(row["kernel"], row["reversed"]) for row in rows} == {
        ("aggregate", False),
        ("aggregate", True),
        ("differentiate", False),
        ("differentiate", True),
    }
    for row in rows:
        assert row["shared"] <= limit, row
