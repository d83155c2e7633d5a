"""The picture of samples of Pathfinder."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the extra `viz` is missing")

from PIL import Image  # noqa: E402

from examples_helpers import stopped  # noqa: E402


@pytest.fixture
def run(run_example):
    return partial(run_example, "pathfinder_samples")


def test_a_picture_shows_as_many_samples_as_wanted(run):
    printed = run("--contour_length=6", "--columns=3", "--output=six.png")
    assert printed == "The picture is six.png\n"
    with Image.open("six.png") as image:
        assert image.size == (720, 960)
        assert np.asarray(image.convert("L")).std() > 20


def test_there_are_enough_samples_of_both_labels(example):
    images = example("pathfinder_samples").samples(32, 70, contour_length=6, seed=0)
    assert {label: each.shape for label, each in images.items()} == {
        label: (70, 32, 32) for label in (0, 1)
    }


def test_what_cannot_be_drawn_is_an_error(run, capsys):
    stopped(run, 2, "--columns=0")
    assert "Expected `columns` >= 1, got 0" in capsys.readouterr().err
    stopped(run, 2, "--resolutions", "48")
    assert "invalid choice: 48" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="Expected contours that fit into 32 x 32 pixels"):
        run("--contour_length=60")
    assert not Path("pathfinder_samples.png").exists()
