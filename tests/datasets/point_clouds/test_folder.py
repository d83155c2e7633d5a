"""A user's own folder of meshes and clouds."""

import numpy as np
import pytest
import trimesh

from ccnn_geo.datasets import PointCloudFolder
from ccnn_geo.datasets.point_clouds import cache
from datasets_helpers import NOT_UTF8, OPTIONS, cloud, needs_bytes, open3d, put, put_classes


class TestPointCloudFolder:
    def test_takes_every_kind_of_file_and_ignores_the_rest(self, tmp_path):
        points, normals = cloud()
        put_classes(tmp_path, "box")
        (tmp_path / "ball/train").mkdir(parents=True)
        np.savetxt(tmp_path / "ball/train/a.xyz", np.concatenate([points, normals], axis=1))
        np.save(tmp_path / "ball/train/b.npy", np.concatenate([points, normals], axis=1))
        trimesh.creation.icosphere(1).export(tmp_path / "ball/train/c.stl")
        put(tmp_path / "ball/train/readme.md")
        put(tmp_path / "ball/train/.hidden.off", "")
        put(tmp_path / "notes.txt")
        (tmp_path / ".git").mkdir()
        (tmp_path / "__MACOSX").mkdir()
        train = PointCloudFolder(tmp_path, **OPTIONS)
        assert train.classes == ["ball", "box"]
        assert train.clouds.labels.tolist() == [0, 0, 0, 1, 1]
        assert train.has_normals
        assert train[4].pos.shape == train[4].normal.shape == (16, 3)
        assert len(PointCloudFolder(tmp_path, split="test", **OPTIONS)) == 1

    def test_normals_are_left_out_unless_every_file_has_them(self, tmp_path):
        put_classes(tmp_path, "box")
        np.savetxt(tmp_path / "box/train/scan.xyz", cloud()[0])
        train = PointCloudFolder(tmp_path, **OPTIONS)
        assert not train.has_normals
        assert "normal" not in train[0]
        assert PointCloudFolder(tmp_path, split="test", **OPTIONS).has_normals

    def test_missing_normals_are_estimated_on_request(self, tmp_path):
        open3d()
        points, normals = cloud(400)
        put_classes(tmp_path, "box")
        np.savetxt(tmp_path / "box/train/scan.xyz", points)
        options = OPTIONS | {"points_per_mesh": 400, "num_points": 400}
        train = PointCloudFolder(tmp_path, estimate_normals=True, **options)
        assert train.has_normals
        rows = train.clouds[2]
        assert ((rows[:, 3:] * normals).sum(1) > 0.9).all()

    def test_small_clouds_are_kept_whole_and_large_ones_thinned(self, tmp_path):
        (tmp_path / "a/train").mkdir(parents=True)
        for number, size in enumerate((5, 32, 33, 400)):
            np.save(tmp_path / f"a/train/{number}.npy", cloud(size)[0])
        train = PointCloudFolder(tmp_path, **OPTIONS)
        assert train.clouds.sizes.tolist() == [5, 32, 32, 32]
        assert [len(data.pos) for data in train] == [5, 16, 16, 16]

    @pytest.mark.parametrize("normalize", ["box", "ball", "none"])
    def test_normalizes_as_told(self, tmp_path, normalize):
        (tmp_path / "a/train").mkdir(parents=True)
        np.save(tmp_path / "a/train/0.npy", 100 + cloud(32)[0])
        rows = PointCloudFolder(tmp_path, normalize=normalize, **OPTIONS).clouds[0]
        size = {"box": np.abs(rows).max(), "ball": np.linalg.norm(rows, axis=1).max()}
        if normalize == "none":
            assert rows.min() > 90
        else:
            assert size[normalize] == pytest.approx(1)

    def test_a_cloud_of_identical_points_goes_to_the_origin(self, tmp_path):
        put(tmp_path / "a/train/0.xyz", "0.1 0.2 0.3\n" * 20)
        assert np.abs(PointCloudFolder(tmp_path, **OPTIONS).clouds[0]).max() == 0

    @needs_bytes
    @pytest.mark.parametrize("num_processes", [1, 2])
    def test_names_of_folders_and_files_need_not_be_utf8(
        self, tmp_path, monkeypatch, num_processes
    ):
        monkeypatch.setattr(cache, "_ITEMS_PER_PART", 1)
        root = tmp_path / NOT_UTF8
        for number in (1, 2):
            put(root / f"a{NOT_UTF8}" / "train" / f"{number}{NOT_UTF8}.off")
        options = OPTIONS | {"num_processes": num_processes}
        train = PointCloudFolder(root, **options)
        assert train.classes == [f"a{NOT_UTF8}"]
        assert not np.array_equal(train.clouds[0], train.clouds[1])
        put(root / "b" / "train" / f"flat{NOT_UTF8}.off", "OFF\n1 1 0\n0 0 0\n3 0 0 0\n")
        with pytest.raises(ValueError, match=f"b/train/flat{NOT_UTF8}.off: .*zero area"):
            PointCloudFolder(root, **options)

    def test_a_missing_folder_is_an_os_error(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"laid out as <class>/.* got .*absent"):
            PointCloudFolder(tmp_path / "absent")

    def test_refuses_a_folder_without_classes(self, tmp_path):
        put(tmp_path / "a.off")
        with pytest.raises(ValueError, match=r"expected class folders .*, got none"):
            PointCloudFolder(tmp_path)

    def test_refuses_an_empty_class_folder(self, tmp_path):
        put_classes(tmp_path, "box")
        (tmp_path / "ball/train").mkdir(parents=True)
        with pytest.raises(ValueError, match=r"/ball: expected .* got an empty class"):
            PointCloudFolder(tmp_path)

    def test_refuses_a_class_that_is_only_in_the_test_split(self, tmp_path):
        put_classes(tmp_path, "box")
        put(tmp_path / "ball/test/ball.off")
        for split in ("train", "test"):
            with pytest.raises(ValueError, match="classes only in other splits: ball"):
                PointCloudFolder(tmp_path, split=split)

    def test_refuses_test_clouds_without_training_clouds(self, tmp_path):
        put(tmp_path / "ball/test/ball.off")
        with pytest.raises(ValueError, match="at least one training cloud, got none"):
            PointCloudFolder(tmp_path)

    def test_a_class_that_is_only_in_the_training_split_will_do(self, tmp_path):
        put_classes(tmp_path, "box")
        put(tmp_path / "ball/train/ball.off")
        assert len(PointCloudFolder(tmp_path, **OPTIONS)) == 3
        assert PointCloudFolder(tmp_path, split="test", **OPTIONS).num_classes == 2

    def test_there_may_be_no_test_split(self, tmp_path):
        put(tmp_path / "ball/train/ball.off")
        assert len(PointCloudFolder(tmp_path, split="test", **OPTIONS)) == 0

    def test_names_the_mesh_without_area(self, tmp_path):
        put_classes(tmp_path, "box")
        put(tmp_path / "box/train/flat.off", "OFF\n3 1 0\n0 0 0\n1 1 1\n2 2 2\n3 0 1 2\n")
        with pytest.raises(ValueError, match="box/train/flat.off: .*zero area in all 1 faces"):
            PointCloudFolder(tmp_path, **OPTIONS)
        assert not list(tmp_path.rglob("*.npy"))

    def test_names_the_cloud_with_a_coordinate_that_is_not_a_number(self, tmp_path):
        put(tmp_path / "a/train/0.xyz", "0 0 0\n1 nan 0\n")
        with pytest.raises(ValueError, match="a/train/0.xyz: expected finite coordinates"):
            PointCloudFolder(tmp_path, **OPTIONS)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"split": "val"}, "`split` to be one of .*, got 'val'"),
            ({"num_points": 0}, "`num_points` to be at least 1, got 0"),
            ({"points_per_mesh": 0}, "`points_per_mesh` to be at least 1, got 0"),
            ({"resample": 0}, "`resample` to be at least 1, got 0"),
            ({"normalize": "cube"}, r"`normalize` to be one of .*, got 'cube'"),
            ({"seed": -1}, "`seed` to be at least 0, got -1"),
        ],
    )
    def test_refuses_arguments_that_make_no_sense(self, tmp_path, options, message):
        put_classes(tmp_path, "box")
        with pytest.raises(ValueError, match=message):
            PointCloudFolder(tmp_path, **options)


def test_the_cache_of_a_folder_that_cannot_be_written_goes_elsewhere(tmp_path):
    root = put_classes(tmp_path / "data", "box")
    put(root / ".ccnn_geo", "in the way")
    with pytest.raises(OSError, match=r"cannot write here .*`cache_dir`: .*\.ccnn_geo"):
        PointCloudFolder(root, **OPTIONS)
    assert len(PointCloudFolder(root, cache_dir=tmp_path / "cache", **OPTIONS)) == 2
    assert sorted(path.name for path in root.iterdir()) == [".ccnn_geo", "box"]
