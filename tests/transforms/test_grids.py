"""Augmentation and normalization of grids, against NumPy, Pillow and written-out formulas."""

import math

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

from ccnn_geo.transforms import (
    NormalizeChannels,
    RandomCrop,
    RandomFlip,
    RandomRotateImage,
    RandomShift,
    ResizeImage,
)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 3, 6, 8)


ALL = [
    RandomShift(2),
    RandomShift(2, padding="symmetric"),
    RandomFlip(),
    RandomCrop(4),
    RandomRotateImage(10),
    ResizeImage(5),
    NormalizeChannels([0.1, 0.2, 0.3], [1, 2, 3]),
]


@pytest.mark.parametrize("transform", ALL, ids=repr)
class TestAll:
    def test_leave_their_input_as_it_is(self, image, transform):
        data, before = Data(x=image, y=torch.tensor([3])), image.clone()
        result = transform(data)
        assert torch.equal(data.x, before)
        assert result is not data
        assert result.y.tolist() == [3]

    def test_follow_torchs_seed(self, image, transform):
        results = []
        for _ in range(2):
            torch.manual_seed(5)
            results.append(transform(Data(x=image)).x)
        assert torch.equal(*results)

    def test_refuse_what_is_no_grid(self, transform):
        with pytest.raises(ValueError, match=r"a grid `x` of shape \[1, C, \*S\], got \[2, 3, 6\]"):
            transform(Data(x=torch.rand(2, 3, 6)))


class TestRandomShift:
    @pytest.mark.parametrize(("padding", "mode"), [("zeros", "constant"), ("symmetric",) * 2])
    @pytest.mark.parametrize("size", [(7,), (5, 6), (3, 4, 5)], ids=len)
    def test_is_a_crop_after_padding(self, padding, mode, size):
        x = torch.rand(1, 2, *size)
        padded = np.pad(x, [(0, 0), (0, 0), *[(2, 2)] * len(size)], mode=mode)
        expected = {
            padded[(..., *(slice(i, i + n) for i, n in zip(starts, size, strict=True)))].tobytes()
            for starts in np.ndindex(*[5] * len(size))
        }
        transform = RandomShift(2, padding=padding)
        seen = {transform(Data(x=x)).x.numpy().tobytes() for _ in range(1200)}
        assert seen == expected

    def test_reflects_as_often_as_necessary(self):
        x = torch.tensor([1.0, 2.0]).view(1, 1, 2)
        padded = np.pad(x, [(0, 0), (0, 0), (7, 7)], mode="symmetric")
        transform = RandomShift(7, padding="symmetric")
        expected = {padded[..., start : start + 2].tobytes() for start in range(15)}
        assert {transform(Data(x=x)).x.numpy().tobytes() for _ in range(200)} == expected

    def test_zeros_are_zeros_whatever_was_there(self):
        x = torch.full((1, 1, 2), math.nan)
        results = torch.cat([RandomShift(1)(Data(x=x)).x for _ in range(20)])
        assert (results == 0).any()

    def test_refuses_another_padding(self):
        with pytest.raises(ValueError, match="`padding` to be one of .*, got 'wrap'"):
            RandomShift(1, padding="wrap")


class TestRandomFlip:
    @pytest.mark.parametrize(("axis", "expected"), [(-1, 3), (1, 3), (0, 2), (-2, 2)])
    def test_reverses_one_axis(self, image, axis, expected):
        assert torch.equal(RandomFlip(axis, p=1)(Data(x=image)).x, image.flip(expected))
        assert torch.equal(RandomFlip(axis, p=0)(Data(x=image)).x, image)

    def test_reverses_as_often_as_it_should(self, image):
        count = sum(not torch.equal(RandomFlip()(Data(x=image)).x, image) for _ in range(1000))
        assert 420 < count < 580

    def test_refuses_arguments_out_of_range(self, image):
        with pytest.raises(ValueError, match="Expected `p` from 0 to 1, got 2"):
            RandomFlip(p=2)
        for axis in (2, -3):
            with pytest.raises(ValueError, match=f"`axis` of a grid of 2 axes, got {axis}"):
                RandomFlip(axis)(Data(x=image))


class TestRandomCrop:
    def test_gives_every_part_of_that_size(self, image):
        expected = {
            image[..., row : row + 5, column : column + 5].numpy().tobytes()
            for row in range(2)
            for column in range(4)
        }
        seen = {RandomCrop(5)(Data(x=image)).x.numpy().tobytes() for _ in range(200)}
        assert seen == expected

    def test_refuses_smaller_grids(self, image):
        with pytest.raises(ValueError, match=r"7 cells or more along each axis, got \[6, 8\]"):
            RandomCrop(7)(Data(x=image))
        with pytest.raises(ValueError, match="Expected `size` to be at least 1, got 0"):
            RandomCrop(0)


class TestRandomRotateImage:
    def test_moves_a_spot_about_the_centre_by_at_most_the_angle(self):
        height, width = 41, 61
        x = torch.zeros(1, 1, height, width)
        x[0, 0, 20, 45] = 1  # 15 pixels to the right of the centre
        rows, columns = torch.meshgrid(torch.arange(41.0), torch.arange(61.0), indexing="ij")
        angles = []
        for _ in range(300):
            spot = RandomRotateImage(30)(Data(x=x)).x[0, 0]
            row, column = ((spot * axis).sum() / spot.sum() for axis in (rows, columns))
            down, right = float(row) - 20, float(column) - 30
            assert math.hypot(down, right) == pytest.approx(15, abs=0.5)
            angles.append(math.degrees(math.atan2(down, right)))
        assert -32 < min(angles) < -27
        assert 27 < max(angles) < 32

    def test_fills_with_zeros(self):
        x = torch.ones(1, 1, 20, 20)
        corners = torch.stack([RandomRotateImage(30)(Data(x=x)).x[0, 0, 0, 0] for _ in range(20)])
        assert corners.min() == 0

    def test_by_zero_degrees_changes_nothing(self, image):
        torch.testing.assert_close(RandomRotateImage(0)(Data(x=image)).x, image)

    @pytest.mark.parametrize("degrees", [-1, math.nan, math.inf])
    def test_refuses_angles_out_of_range(self, degrees):
        with pytest.raises(ValueError, match="Expected `degrees` of at least 0, got"):
            RandomRotateImage(degrees)

    def test_refuses_other_grids_than_images(self):
        with pytest.raises(ValueError, match=r"an image `x` of .*, got \[1, 1, 9\]"):
            RandomRotateImage(1)(Data(x=torch.rand(1, 1, 9)))


class TestResizeImage:
    @pytest.mark.parametrize("size", [4, 9, 40])
    def test_resizes_as_pillow_does(self, size):
        pillow = pytest.importorskip("PIL.Image", reason="Pillow is missing")
        x = torch.rand(1, 1, 12, 12)
        found = ResizeImage(size)(Data(x=x)).x
        expected = pillow.fromarray(x[0, 0].numpy()).resize(
            (size, size), pillow.Resampling.BILINEAR
        )
        np.testing.assert_allclose(found[0, 0], np.asarray(expected), atol=1e-6)

    def test_an_image_of_that_size_is_left_as_it_is(self):
        x = torch.rand(1, 3, 5, 5)
        assert torch.equal(ResizeImage(5)(Data(x=x)).x, x)

    def test_gives_a_square(self, image):
        assert ResizeImage(7)(Data(x=image)).x.shape == (1, 3, 7, 7)

    def test_refuses_other_grids_than_images(self):
        with pytest.raises(ValueError, match=r"an image `x` of .*, got \[1, 1, 2, 2, 2\]"):
            ResizeImage(3)(Data(x=torch.rand(1, 1, 2, 2, 2)))


class TestNormalizeChannels:
    @pytest.mark.parametrize("size", [(5,), (4, 3), (2, 3, 4)], ids=len)
    def test_every_channel_has_its_own_mean_and_deviation(self, size):
        x = torch.rand(1, 2, *size)
        found = NormalizeChannels([0.5, -1.0], [2.0, 0.25])(Data(x=x)).x
        torch.testing.assert_close(found[0, 0], (x[0, 0] - 0.5) / 2)
        torch.testing.assert_close(found[0, 1], (x[0, 1] + 1) / 0.25)

    @pytest.mark.parametrize(
        ("mean", "deviation"), [([0.0], [1.0, 1.0]), ([0.0], [0.0]), ([0.0], [math.nan])]
    )
    def test_refuses_numbers_that_do_not_fit(self, mean, deviation):
        with pytest.raises(ValueError, match="as many `mean` as `deviation`, all positive, got"):
            NormalizeChannels(mean, deviation)

    def test_refuses_another_number_of_channels(self, image):
        with pytest.raises(ValueError, match="Expected `x` of 1 channels, got 3"):
            NormalizeChannels([0.0], [1.0])(Data(x=image))
