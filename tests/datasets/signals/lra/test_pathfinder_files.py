"""Files of Pathfinder: lists, images and arrays."""

import numpy as np
import pytest
from PIL import Image

from ccnn_geo.datasets.signals.lra import pathfinder_files
from ccnn_geo.datasets.signals.lra.pathfinder_files import (
    read_pathfinder_arrays,
    read_pathfinder_folder,
)
from lra_helpers import put_paths, trace


@pytest.fixture
def folder(tmp_path):
    return put_paths(tmp_path / "curv_contour_length_14")


@pytest.fixture
def read(tmp_path):
    """Reads a folder with a cache beside it."""

    def read(folder, resolution=32, **options):
        options = {"cache_dir": tmp_path / "cache", "num_processes": 1, **options}
        return read_pathfinder_folder(folder, resolution, **options)

    return read


class TestFolder:
    def test_is_split_in_proportion_and_every_image_has_its_label(self, folder, read):
        whole, validation, test = read(folder)
        assert (len(whole), validation.sum(), len(test)) == (36, 4, 4)
        assert whole.x.shape == (36, 1, 32, 32)
        numbers = np.concatenate([whole.x[:, 0, 3, 5], test.x[:, 0, 3, 5]])
        assert sorted(numbers.tolist()) == list(range(40))
        assert np.array_equal(np.concatenate([whole.y, test.y]), numbers % 2)
        for part in (whole.y[validation], test.y):
            assert np.bincount(part).tolist() == [2, 2]

    def test_is_read_from_the_cache_the_next_time(self, folder, read, monkeypatch):
        first, validation, test = read(folder, num_processes=2)
        with monkeypatch.context() as patch:
            patch.setattr(pathfinder_files, "import_extra", None)
            again, _, _ = read(folder)
        assert np.array_equal(first.x, again.x)
        # Splits are views of the mapped file.
        assert first.x.base is not None
        assert np.shares_memory(first.select(np.flatnonzero(validation)).x, first.x)
        path = folder / "metadata" / "0.npy"
        path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
        assert len(read(folder)[0]) == 35

    def test_known_empty_image_is_skipped_and_no_other(self, tmp_path, read):
        for name, message in (("curv_baseline", None), ("curv_contour_length_9", "172.png: exp")):
            folder = put_paths(tmp_path / name)
            (folder / "imgs/0/sample_172.png").touch()
            path = folder / "metadata" / "0.npy"
            path.write_text(path.read_text() + "imgs/0 sample_172.png 172 1 1.0\n")
            if message is None:
                whole, _, test = read(folder)
                assert len(whole) + len(test) == 40
            else:
                with pytest.raises(ValueError, match=message):
                    read(folder)

    @pytest.mark.parametrize(
        ("line", "error", "message"),
        [
            ("imgs/0 sample_1.png 1", ValueError, "line 21: expected a folder, a file"),
            ("imgs/0 sample_1.png 1 2", ValueError, "line 21: .* a label 0 or 1, got 'imgs/0 sa"),
            ("imgs/0 sample_1.png 1 -1", ValueError, "a label 0 or 1"),
            ("", ValueError, "line 21: expected a folder, a file"),
            ("imgs/0 none.png 7 1", FileNotFoundError, "line 21: expected the image .*none.png"),
            ("../secret a.png 1 1", ValueError, "line 21: expected a file in .*, got ../secret"),
            ("/etc passwd 1 1", ValueError, "expected a file in .*, got /etc/passwd"),
            (r"imgs\0 a.png 1 1", ValueError, "expected a file in"),
        ],
    )
    def test_lines_that_do_not_fit_are_named(self, folder, read, line, error, message):
        path = folder / "metadata" / "1.npy"
        path.write_text(path.read_text() + line + "\n")
        with pytest.raises(error, match=f"1.npy, {message}" if "line" in message else message):
            read(folder)

    def test_lists_that_are_missing_or_no_text_are_named(self, folder, read):
        np.save(folder / "metadata" / "1.npy", np.arange(3))
        with pytest.raises(ValueError, match="1.npy: expected lines of text, got other content"):
            read(folder)
        for path in (folder / "metadata").iterdir():
            path.write_text("")
        with pytest.raises(ValueError, match="metadata: expected .npy files with lines of text"):
            read(folder)

    def test_images_that_are_broken_or_of_another_size_are_named(self, folder, read):
        path = folder / "imgs/1/sample_7.png"
        content = path.read_bytes()
        for broken in (content[:60], b"", b"GIF89a", content[:50] + b"\0" + content[51:]):
            path.write_bytes(broken)
            with pytest.raises(ValueError, match="sample_7.png: expected a valid PNG file"):
                read(folder)
        Image.fromarray(np.zeros((32, 64), np.uint8)).save(path)
        with pytest.raises(ValueError, match="of 32 x 32 pixels, got 64 x 32"):
            read(folder)
        path.write_bytes(content)
        assert len(read(folder)[0]) == 36
        with pytest.raises(ValueError, match="of 64 x 64 pixels, got 32 x 32"):
            read(folder, resolution=64)

    def test_real_ones_hold_images_like_the_arrays(self, shared_data, read):
        root = shared_data / "original" / "lra_pathfinder"
        for name, resolution in (
            ("pathfinder32/curv_contour_length_14", 32),
            ("pathfinder32/curv_baseline", 32),
            ("pathfinder128/curv_baseline", 128),
        ):
            whole, validation, test = read(root / name, resolution)
            assert len(whole) + len(test) == sum(1 for _ in (root / name / "imgs/0").iterdir())
            assert validation.sum() == len(test)
            assert set(whole.y.tolist()) == {0, 1}
        traced = np.array([trace(image[0]) for image in whole.x])
        assert traced.any()
        assert whole.y[traced].all()


class TestArrays:
    @pytest.fixture
    def save(self, tmp_path):
        def save(**changes):
            x, y = np.zeros((3, 32, 32), np.uint8), np.array([0, 1, 1])
            content = {"train_x": x, "train_y": y, "test_x": x, "test_y": y, **changes}
            np.savez(tmp_path / "some.npz", **content)
            return tmp_path / "some.npz"

        return save

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"train_x": np.zeros((3, 32, 64), np.uint8)}, r"`train_x` of shape \[M, 32, 32\]"),
            ({"train_x": np.zeros((3, 1024), np.uint8)}, r"got uint8 of shape \[3, 1024\]"),
            ({"train_x": np.zeros((3, 32, 32))}, "uint8, got float64"),
            ({"test_x": np.zeros((0, 32, 32), np.uint8)}, r"got uint8 of shape \[0, 32, 32\]"),
            ({"test_y": np.array([0, 1, 2])}, "labels `test_y` from 0 to 1, got 0 to 2"),
            ({"test_y": np.array([0, 1])}, r"`test_y` of shape \[3\], got int64 of shape \[2\]"),
        ],
    )
    def test_that_do_not_fit_are_named(self, save, changes, message):
        with pytest.raises(ValueError, match=f"some.npz: .*{message}"):
            read_pathfinder_arrays(save(**changes), 32)

    def test_real_ones_are_read(self, shared_data):
        train, test = read_pathfinder_arrays(shared_data / "pathfinder128_easy.npz", 128)
        assert train.x.shape == (200, 1, 128, 128)
        assert (len(test), test.sample(0).x.max()) == (75, 1)
        with pytest.raises(ValueError, match=r"of shape \[M, 32, 32\], uint8, got uint8 of"):
            read_pathfinder_arrays(shared_data / "pathfinder128_easy.npz", 32)
