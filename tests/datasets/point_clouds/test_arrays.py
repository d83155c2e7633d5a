"""Point clouds that come as the arrays of one file."""

import numpy as np
import pytest
import torch

from ccnn_geo.datasets import PointCloudArrays
from datasets_helpers import open3d


class TestPointCloudArrays:
    @staticmethod
    def arrays() -> dict[str, np.ndarray]:
        generator = np.random.default_rng(0)
        return {
            "train_pos": generator.standard_normal((6, 20, 3)).astype(np.float32),
            "train_y": np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8),
            "test_pos": generator.standard_normal((2, 30, 3)),
            "test_y": np.array([2, 0]),
        }

    def test_hands_out_the_clouds_of_the_file(self, tmp_path):
        arrays = self.arrays()
        np.savez(tmp_path / "a.npz", **arrays, classes=["x", "y", "z"])
        options = {"num_points": 20, "normalize": "none"}
        train = PointCloudArrays(tmp_path / "a.npz", **options)
        test = PointCloudArrays(tmp_path / "a.npz", split="test", **options)
        assert train.classes == ["x", "y", "z"]
        assert train.clouds.labels.tolist() == [0, 1, 2, 0, 1, 2]
        assert test.clouds.labels.tolist() == [2, 0]
        np.testing.assert_array_equal(train[3].pos, arrays["train_pos"][3])
        assert not train.has_normals
        assert test[0].pos.shape == (20, 3)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz"]

    def test_takes_normals_where_there_are_any(self, tmp_path):
        arrays = self.arrays()
        np.savez(tmp_path / "a.npz", **arrays, train_normal=-arrays["train_pos"])
        train = PointCloudArrays(tmp_path / "a.npz", normalize="none")
        assert torch.equal(train[2].normal, -train[2].pos)
        assert not PointCloudArrays(tmp_path / "a.npz", split="test").has_normals

    def test_estimated_normals_are_kept(self, tmp_path):
        open3d()
        arrays = self.arrays()
        np.savez(tmp_path / "a.npz", **arrays)
        options = {"estimate_normals": True, "cache_dir": tmp_path / "kept", "normalize": "none"}
        train = PointCloudArrays(tmp_path / "a.npz", **options)
        torch.testing.assert_close(train[0].normal.norm(dim=1), torch.ones(20))
        np.testing.assert_array_equal(train.clouds[0][:, :3], arrays["train_pos"][0])
        (kept,) = (tmp_path / "kept").glob("a-train-*-estimated-*")
        assert kept.is_dir()

    def test_without_names_the_classes_are_numbered(self, tmp_path):
        np.savez(tmp_path / "a.npz", **self.arrays())
        assert PointCloudArrays(tmp_path / "a.npz").classes == ["0", "1", "2"]

    def test_resampling_repeats_every_cloud(self, tmp_path):
        np.savez(tmp_path / "a.npz", **self.arrays())
        train = PointCloudArrays(tmp_path / "a.npz", resample=2)
        assert train.clouds.labels.tolist() == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"train_pos": None}, "an array `train_pos`, got none"),
            ({"train_y": None}, "an array `train_y`, got none"),
            ({"test_pos": None, "test_y": None}, "an array `test_pos` and `test_y`, got none"),
            ({"train_pos": np.zeros((6, 20, 2))}, r"`train_pos` of shape \[M, N, 3\], got float64"),
            ({"test_pos": np.zeros((20, 3))}, r"`test_pos` of shape \[M, N, 3\], got .* \[20, 3\]"),
            ({"train_pos": np.full((6, 20, 3), "a")}, r"expected numbers `train_pos`.*, got <U1"),
            (
                {"train_y": np.zeros(5, int)},
                r"whole numbers `train_y` of shape \[6\], got .* \[5\]",
            ),
            ({"test_y": np.zeros(2)}, r"whole numbers `test_y` of shape \[2\], got float64"),
            ({"train_normal": np.zeros((6, 19, 3))}, r"`train_normal` of shape \[6, 20, 3\]"),
            ({"classes": np.array(["x", "y"])}, "labels of the 2 `classes`, got 0 to 2"),
            ({"train_y": np.array([0, 1, 2, 0, 1, -1])}, "labels of the 3 `classes`, got -1 to 2"),
            ({"test_y": np.array([2, 3])}, "got classes only in other splits: 3"),
            ({"train_pos": np.zeros((6, 0, 3))}, r"train_pos\[0\]: expected at least one point"),
            ({"train_pos": np.full((6, 9, 3), np.inf)}, r"train_pos\[0\]: .* all of them finite"),
        ],
    )
    def test_names_the_array_that_is_missing_or_wrong(self, tmp_path, change, message):
        arrays = {
            name: value for name, value in (self.arrays() | change).items() if value is not None
        }
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            PointCloudArrays(tmp_path / "a.npz")

    @pytest.mark.parametrize("name", ["train_pos", "test_y", "classes"])
    def test_objects_are_never_unpickled(self, tmp_path, name):
        arrays = self.arrays() | {name: np.array([{"a": 1}], dtype=object)}
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(ValueError, match=rf"a.npz: expected a plain array `{name}`"):
            PointCloudArrays(tmp_path / "a.npz")

    def test_names_the_file_that_is_no_archive_of_arrays(self, tmp_path):
        path = tmp_path / "a.npz"
        np.savez(path, **self.arrays())
        content = path.read_bytes()
        for broken in (b"", b"garbage", content[: len(content) // 2]):
            path.write_bytes(broken)
            with pytest.raises(ValueError, match="a.npz: expected an .npz file of plain arrays"):
                PointCloudArrays(path)
        damaged = bytearray(content)
        damaged[200] ^= 255
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="a.npz: expected a plain array `train_pos` .*CRC"):
            PointCloudArrays(path)
        with open(path, "wb") as file:
            np.save(file, np.zeros((2, 3)))
        with pytest.raises(ValueError, match="several arrays, got a single one"):
            PointCloudArrays(path)
        with pytest.raises(FileNotFoundError, match="absent.npz"):
            PointCloudArrays(tmp_path / "absent.npz")
