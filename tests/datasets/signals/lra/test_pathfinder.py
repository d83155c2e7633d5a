"""Pathfinder: the geometry of what is generated, its labels, and the images."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from ccnn_geo.datasets.signals.lra import pathfinder
from ccnn_geo.datasets.signals.lra.pathfinder import (
    PathfinderSettings,
    Scenes,
    draw_scenes,
    generate_pathfinder,
    render_scenes,
)
from lra_helpers import joined, trace

SETTINGS = {
    "hard 32": PathfinderSettings.of(32),
    "easy 32": PathfinderSettings.of(32, 6),
    "hard 64": PathfinderSettings.of(64),
    "hard 128": PathfinderSettings.of(128, margins=(2.0,)),
    "easy 256": PathfinderSettings.of(256, 6),
}


@pytest.fixture(scope="module", params=SETTINGS.values(), ids=SETTINGS)
def settings(request) -> PathfinderSettings:
    return request.param


@pytest.fixture(scope="module")
def scenes(settings) -> Scenes:
    return draw_scenes(16, settings, np.random.default_rng(0))


def paddles(scenes: Scenes, image: int) -> np.ndarray:
    """Returns the ends of all paddles of an image, `[N, 2]`, in no particular order."""
    ends = [each[image].reshape(-1, 2) for each in (scenes.contours, scenes.distractors)]
    ends = np.concatenate(ends)
    ends = np.random.default_rng(image).permutation(ends[~np.isnan(ends[:, 0])])
    ends[::3] = ends[::3, ::-1]
    return ends


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the distances between paddles `[N, 2]` and `[M, 2]`, up to a tenth of a pixel."""
    steps = np.linspace(0, 1, 60)
    points = [ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * steps for ends in (first, second)]
    return np.array([[np.abs(a[:, None] - b).min() for b in points[1]] for a in points[0]])


class TestScenes:
    def test_labels_are_right_if_gaps_are_followed_from_paddle_to_paddle(self, scenes, settings):
        """The lines of two neighbours meet in the middle of the gap, and no others do."""
        (margin,) = settings.margins
        assert sorted(scenes.labels) == [0] * 8 + [1] * 8
        for image, label in enumerate(scenes.labels):
            ends = paddles(scenes, image)
            directions = (ends[:, 1] - ends[:, 0]) / np.abs(ends[:, 1] - ends[:, 0])
            tips = ends + margin * directions[:, None] * np.array([-1, 1])
            paddle, end = np.divmod(np.arange(tips.size), 2)
            apart = np.abs(tips.ravel()[:, None] - tips.ravel())
            pairs = np.argwhere((apart < 1e-6) & (paddle[:, None] != paddle))
            marked = [
                np.flatnonzero((np.abs(ends - dot) < 1e-6).any(1)).tolist()
                for dot in scenes.dots[image]
            ]
            assert [len(each) for each in marked] == [1, 1]
            assert joined(paddle[pairs], marked[0][0], marked[1][0]) == label

    def test_both_contours_of_an_image_are_chains_of_equal_paddles(self, scenes, settings):
        assert scenes.contours.shape == (16, 2, settings.contour_length, 2)
        along = scenes.contours[..., 1] - scenes.contours[..., 0]
        np.testing.assert_allclose(np.abs(along), settings.paddle_length, rtol=1e-9)
        turns = np.angle(along[..., 1:] / along[..., :-1])
        limit = np.pi / 2 / settings.continuity
        assert 0.7 * limit < np.abs(turns).max() <= limit
        assert abs(turns.mean()) < 0.2 * limit
        gaps = np.abs(scenes.contours[..., 1:, 0] - scenes.contours[..., :-1, 1])
        assert gaps.max() <= 2 * settings.margins[0] + 1e-9
        assert gaps.min() >= 2 * settings.margins[0] * np.cos(limit / 2) - 1e-9

    def test_contours_start_near_the_centre_at_a_distance(self, scenes, settings):
        first, second = scenes.contours[:, :, 0, 0].T
        np.testing.assert_allclose(np.abs(second - first), settings.seed_distance, rtol=1e-9)
        half = max(settings.resolution / 2 - 2 * settings.seed_distance, 1)
        centre = settings.resolution / 2 * (1 + 1j)
        assert np.abs([(first - centre).real, (first - centre).imag]).max() <= half

    def test_paddles_keep_inside_the_frame_and_clear_of_each_other(self, scenes, settings):
        low, high = settings.padding, settings.resolution - settings.padding
        # Areas are kept in cells.
        rounding = max(0.5, settings.resolution / 128) * 2**0.5 + 0.1
        for image in range(4):
            ends = paddles(scenes, image)
            assert low <= min(ends.real.min(), ends.imag.min())
            assert high >= max(ends.real.max(), ends.imag.max())
            contour = scenes.contours[image, 0]
            apart = distances(contour, ends)
            # Each is itself, and next to one or two others.
            assert (apart < 1e-6).sum() == len(contour)
            others = np.sort(apart, axis=1)[:, 3:]
            assert others.min() >= 1.5 * settings.margins[0] - rounding

    def test_distractors_are_shorter_and_most_find_room(self, scenes, settings):
        length = settings.contour_length // 3
        assert settings.distractor_length == length
        assert scenes.distractors.shape == (16, settings.num_distractors, length, 2)
        there = ~np.isnan(scenes.distractors)
        assert (there.all((2, 3)) == there.any((2, 3))).all()
        assert there.mean() > 0.8


@pytest.mark.parametrize(("resolution", "length"), [(32, 14), (32, 6), (128, 6)])
def test_dots_have_the_same_distances_for_both_labels(resolution, length):
    """With the published generator, distances alone tell two thirds of the easy labels."""
    settings = PathfinderSettings.of(resolution, length, num_distractors=0)
    scenes = draw_scenes(256, settings, np.random.default_rng(0))
    distance = np.abs(scenes.dots[:, 1] - scenes.dots[:, 0])
    negative, positive = (np.sort(distance[scenes.labels == label]) for label in (0, 1))
    assert len(negative) == len(positive) == 128
    assert np.abs(negative - positive).mean() < 0.02 * distance.mean()
    # Without the choice, contours of two dots would be as many.
    starts, ends = scenes.contours[:, :, 0, 0], scenes.contours[:, :, -1, 1]
    same, others = np.abs(ends - starts), np.abs(ends[:, ::-1] - starts)
    assert abs(np.std(others) - np.std(same)) > abs(np.std(negative) - np.std(positive))


class TestImages:
    def test_show_paddles_and_dots(self, scenes, settings):
        images = render_scenes(scenes, settings)
        assert images.shape == (16, settings.resolution, settings.resolution)
        assert images.dtype == np.uint8
        for image, pixels in enumerate(images):
            dots = scenes.dots[image]
            assert (pixels[dots.real.astype(int), dots.imag.astype(int)] == 255).all()
            middle = paddles(scenes, image).mean(1)
            lit = pixels[middle.real.astype(int), middle.imag.astype(int)]
            # The centre of a pixel is at most half its diagonal away from a line through it.
            least = settings.brightness * (settings.thickness / 2 + 0.5 - 0.5**0.5)
            assert lit.min() >= 254 * least
            assert lit.mean() > 100
            # All that is lit is close to a paddle or a dot.
            points = np.concatenate([paddles(scenes, image).ravel(), middle, dots])
            rows, columns = np.nonzero(pixels)
            far = np.abs((rows + 0.5 + 1j * (columns + 0.5))[:, None] - points).min(1)
            assert far.max() <= settings.dot_radius + settings.paddle_length / 4 + 1

    def test_are_about_as_bright_as_those_of_the_published_generator(self, shared_data):
        for name, resolution, length, thickness in (
            ("pathfinder32_hard", 32, 14, 0.6),
            ("pathfinder32_easy", 32, 6, 0.6),
            ("pathfinder128_easy", 128, 6, 1.25),
        ):
            with np.load(shared_data / f"{name}.npz") as file:
                published = file["test_x"]
            drawn = generate_pathfinder(
                128,
                seed=0,
                resolution=resolution,
                contour_length=length,
                thickness=thickness,
                num_processes=1,
            ).x
            assert drawn.mean() == pytest.approx(published.mean(), rel=0.1)
            lit, expected = (np.mean(each > 127) for each in (drawn, published))
            assert lit == pytest.approx(expected, rel=0.25)

    def test_are_traced_from_dash_to_dash_like_those_of_the_published_generator(self, shared_data):
        """A path that is seen is right in both, and about two thirds are seen."""
        with np.load(shared_data / "pathfinder128_easy.npz") as file:
            published = file["test_x"], file["test_y"]
        drawn = generate_pathfinder(
            60, seed=0, resolution=128, contour_length=6, thickness=1.25, num_processes=1
        )
        for images, labels in (published, (drawn.x[:, 0], drawn.y)):
            traced = np.array([trace(image) for image in images])
            assert labels[traced].mean() > 0.95
            assert traced[labels == 1].mean() > 0.5

    def test_an_image_depends_on_its_number_and_the_seed_alone(self):
        draw = partial(generate_pathfinder, resolution=32, contour_length=6)
        three = draw(300, seed=0, num_processes=1)
        two = draw(200, seed=0, num_processes=2)
        assert np.array_equal(two.x, three.x[:200])
        assert np.array_equal(two.y, three.y[:200])
        assert len({image.tobytes() for image in three.x}) == 300
        assert not np.array_equal(draw(10, seed=1, num_processes=1).x, three.x[:10])

    def test_are_signals_from_0_to_1_with_half_of_each_label(self):
        signals = generate_pathfinder(128, seed=0, contour_length=6, num_processes=1)
        assert signals.x.shape == (128, 1, 32, 32)
        assert np.bincount(signals.y).tolist() == [64, 64]
        assert signals.sample(0).x.max() == 1
        # Labels are in no order.
        assert 20 < np.sum(signals.y[1:] != signals.y[:-1]) < 108

    def test_are_cached(self, tmp_path, monkeypatch):
        draw = partial(generate_pathfinder, 200, seed=0, contour_length=6, folder=tmp_path)
        first = draw(num_processes=2)
        with monkeypatch.context() as patch:
            patch.setattr(pathfinder, "draw_scenes", None)
            second = draw()
        assert np.array_equal(first.x, second.x)
        assert np.array_equal(first.y, second.y)
        (cache,) = (path for path in tmp_path.iterdir() if path.is_dir())
        (cache / "images.npy").unlink()  # the mapped file stays
        np.save(cache / "images.npy", np.zeros((200, 8, 8), np.uint8))
        assert np.array_equal(draw().x, first.x)
        draw(continuity=1.5, num_processes=1)
        assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


class TestSettings:
    def test_of_the_long_range_arena(self):
        settings = PathfinderSettings.of(128)
        assert (settings.contour_length, settings.distractor_length) == (14, 4)
        assert (settings.num_distractors, settings.margins) == (8, (2, 3))
        assert (settings.seed_distance, settings.continuity) == (20, 1.8)
        assert PathfinderSettings.of(128, 6).num_distractors == 17
        assert PathfinderSettings.of(32, distractor_length=1).num_distractors == 8
        assert PathfinderSettings.of(32, num_distractors=3).num_distractors == 3

    def test_margins_are_drawn_for_each_image(self):
        settings = PathfinderSettings.of(128, 6, num_distractors=0, continuity=100.0)
        scenes = draw_scenes(16, settings, np.random.default_rng(0))
        gaps = np.abs(scenes.contours[..., 1:, 0] - scenes.contours[..., :-1, 1])
        assert {round(gap) for gap in gaps.reshape(16, -1).mean(1)} == {4, 6}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"resolution": 16}, r"`resolution` to be one of \[32, 64, 128, 256\], got 16"),
            ({"contour_length": 1}, "Expected `contour_length` from 2 to 100, got 1"),
            ({"contour_length": 2}, "Expected `distractor_length` from 1 to 100, got 0"),
            ({"contour_length": 101}, "Expected `contour_length` from 2 to 100, got 101"),
            ({"paddle_length": 0.0}, "Expected `paddle_length` > 0, got 0.0"),
            ({"thickness": -1.0}, "Expected `thickness` > 0, got -1.0"),
            ({"continuity": float("nan")}, "Expected `continuity` > 0, got nan"),
            ({"seed_distance": -1.0}, "Expected `seed_distance` >= 0, got -1.0"),
            ({"num_distractors": -1}, "Expected `num_distractors` >= 0, got -1"),
            ({"margins": ()}, r"one or more `margins` >= 0, got \(\)"),
            ({"margins": (-1.0,)}, "one or more `margins` >= 0"),
            ({"count": 0}, "Expected `count` >= 1, got 0"),
        ],
    )
    def test_out_of_range_are_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            generate_pathfinder(**{"count": 1, "seed": 0, **options})

    @pytest.mark.parametrize(
        "settings",
        [
            PathfinderSettings.of(32, 40),
            PathfinderSettings.of(32, 6, paddle_length=28.0),
            PathfinderSettings.of(32, 6, padding=16.0),
            PathfinderSettings.of(32, 6, seed_distance=50.0),
        ],
        ids=["long", "long paddles", "no frame", "far apart"],
    )
    def test_contours_that_do_not_fit_are_an_error(self, settings):
        with pytest.raises(ValueError, match="Expected contours that fit into 32 x 32 pixels, got"):
            draw_scenes(8, settings, np.random.default_rng(0))

    def test_distractors_without_room_are_left_out(self):
        settings = replace(PathfinderSettings.of(32), num_distractors=40)
        scenes = draw_scenes(4, settings, np.random.default_rng(0))
        absent = np.isnan(scenes.distractors[..., 0, 0])
        assert 10 < absent.sum(1).min()
        assert absent.sum(1).max() < 40
        assert render_scenes(scenes, settings).max() == 255
