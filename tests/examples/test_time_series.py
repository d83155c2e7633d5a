"""The example of time series, on a small set of them."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from examples_helpers import QUIET, TINY_NETWORK, report, stopped  # noqa: E402

# Lightning itself uses what torch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")
TINY = [*QUIET, *TINY_NETWORK, "--trainer.max_epochs=1", "--data.root=series.npz"]


@pytest.fixture(autouse=True)
def series(tmp_path):
    generator = np.random.default_rng(0)
    content = {"classes": np.array(["flat", "steep"])}
    for split, count in (("train", 20), ("test", 6)):
        y = np.arange(count) % 2
        content[f"{split}_x"] = generator.standard_normal((count, 3, 12)) + y[:, None, None]
        content[f"{split}_x"] = content[f"{split}_x"].astype(np.float32)
        content[f"{split}_y"] = y
    np.savez(tmp_path / "series.npz", **content)


@pytest.mark.parametrize("causal", ["true", "false"])
def test_trains_and_tests_on_fewer_times(run_example, causal):
    printed = run_example(
        "time_series", *TINY, f"--network.causal={causal}", "--test_keep=[0.5]",
        "--data.weights=true",
    )  # fmt: skip
    content = report("runs/series/seed0")
    assert content["settings"]["network.causal"] == (causal == "true")
    assert 0 <= content["test_auroc"] <= 1
    (row,) = content["test_keep"]
    assert row["keep"] == 0.5 and {"true", "even"} < row.keys()
    assert "area under the ROC curve" in printed and "50.00 %" in printed


def test_needs_to_know_where_the_series_are(run_example, capsys):
    def run(*arguments):
        return run_example("time_series", *arguments)

    stopped(run, 2, *QUIET)
    assert "Expected `root`, the file or folder of the series" in capsys.readouterr().err
    stopped(run, 2, *TINY, "--data.root=nowhere.npz")
    assert "nowhere.npz" in capsys.readouterr().err
    stopped(run, 2, *TINY, "--test_keep=[0]")
    assert "`test_keep` above 0 and at most 1, got 0" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_what_is_not_measured_is_not_reported(run_example):
    run_example("time_series", *TINY, "--test_keep=[0.5]", "--trainer.limit_test_batches=0")
    content = report("runs/series/seed0")
    assert content["test"] is None and "test_auroc" not in content
    assert content["test_keep"] == [{"keep": 0.5, "true": None, "even": None}]
