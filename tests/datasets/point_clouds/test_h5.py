"""Clouds in HDF5 files: ModelNet40 and ScanObjectNN in their official layouts, and bad input."""

import numpy as np
import pytest

from ccnn_geo.datasets import ModelNetH5, ScanObjectNN

h5py = pytest.importorskip("h5py", reason="the extra `h5` is missing")


def put(path, count: int = 4, points: int = 16, **changes):
    generator = np.random.default_rng(count)
    normals = generator.normal(size=(count, points, 3))
    content = {
        "data": generator.normal(size=(count, points, 3)).astype(np.float32),
        "label": (np.arange(count, dtype=np.uint8) % 3)[:, None],
        "normal": (normals / np.linalg.norm(normals, axis=2, keepdims=True)).astype(np.float32),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in {**content, **changes}.items():
            if values is not None:
                file[name] = values
    return content


@pytest.fixture
def modelnet(tmp_path):
    folder = tmp_path / "modelnet40_ply_hdf5_2048"
    written = {}
    for split, count in (("train", 6), ("test", 3)):
        names = [f"ply_data_{split}{number}.h5" for number in range(2)]
        written[split] = [put(folder / name, count) for name in names]
        lines = "".join(f"data/modelnet40_ply_hdf5_2048/{name}\n" for name in names)
        (folder / f"{split}_files.txt").write_text(lines)
    return tmp_path, written


def test_clouds_of_all_listed_files_have_points_normals_and_labels(modelnet):
    root, written = modelnet
    for folder in (root, root / "modelnet40_ply_hdf5_2048"):
        dataset = ModelNetH5(folder, split="test", num_points=99, normalize="none")
        assert len(dataset) == 6 and dataset.num_classes == 40
        cloud = dataset[1]
        np.testing.assert_array_equal(cloud.pos, written["test"][0]["data"][1])
        np.testing.assert_allclose(cloud.normal, written["test"][0]["normal"][1], rtol=1e-6)
        assert cloud.y.tolist() == [1]
    assert not list(root.rglob(".ccnn_geo"))


def test_a_list_that_names_a_missing_file_is_named(modelnet):
    root, _ = modelnet
    (root / "modelnet40_ply_hdf5_2048" / "ply_data_test1.h5").unlink()
    with pytest.raises(ValueError, match=r"test_files.txt: .*ply_data_test1.h5, it is missing"):
        ModelNetH5(root)


@pytest.mark.parametrize(
    ("variant", "file"),
    [
        ("obj_bg", "main_split/{}_objectdataset.h5"),
        ("obj_only", "main_split_nobg/{}_objectdataset.h5"),
        ("pb_t50_rs", "main_split/{}_objectdataset_augmentedrot_scale75.h5"),
    ],
)
def test_variants_of_scanned_objects_are_in_files_of_their_own(tmp_path, variant, file):
    label = np.array([14, 0, 3, 3])
    for split in ("training", "test"):
        path = tmp_path / "h5_files" / file.format(split)
        put(path, label=label, normal=None, mask=np.zeros((4, 16)))
    (tmp_path / "h5_files" / "main_split").mkdir(exist_ok=True)
    for root in (tmp_path, tmp_path / "h5_files"):
        dataset = ScanObjectNN(root, variant, split="test", num_points=9)
        assert dataset.classes[14] == "toilet" and not dataset.has_normals
        assert [int(dataset[index].y) for index in range(4)] == label.tolist()


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"modelnet40_ply_hdf5_2048 in .*, from https"):
        ModelNetH5(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"training_objectdataset_.*on request"):
        ScanObjectNN(tmp_path)
    with pytest.raises(ValueError, match=r"`variant` to be one of .*, got 'best'"):
        ScanObjectNN(tmp_path, "best")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros((4, 3, 16))}, r"`data` has 'f' of shape \[4, 3, 16\] instead of"),
        ({"data": None, "xyz": np.zeros((4, 16, 3))}, "no data set data, but label, normal, xyz"),
        ({"label": None}, "no data set label, but data, normal"),
        ({"label": np.zeros(3, int)}, r"`label` of shape \[4\], got int64 of shape \[3\]"),
        ({"label": np.zeros(4)}, "whole numbers `label`"),
        ({"label": np.full(4, 40)}, "labels of 40 classes, got 40 to 40"),
        ({"normal": np.zeros((4, 9, 3))}, r"`normal` of shape \[4, 16, 3\], as `data`"),
    ],
)
def test_files_of_another_content_are_named(modelnet, changes, message):
    root, _ = modelnet
    put(root / "modelnet40_ply_hdf5_2048" / "ply_data_train0.h5", **changes)
    with pytest.raises(ValueError, match=f"ply_data_train0.h5: expected .*{message}"):
        ModelNetH5(root)


def test_a_file_that_is_cut_short_is_named(modelnet):
    root, _ = modelnet
    path = root / "modelnet40_ply_hdf5_2048" / "ply_data_train0.h5"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="ply_data_train0.h5: expected an HDF5 file of clouds"):
        ModelNetH5(root)
