"""ShapeNetPart in its official form, and the data module of labelled parts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ccnn_geo.datasets import ShapeNetPart
from ccnn_geo.datasets.point_clouds.shapenet_part import (
    SHAPENET_PARTS,
    list_shapenet_part,
    read_part_cloud,
)
from datasets_helpers import OPTIONS, cloud, make_zip, put

FOLDER = "shapenetcore_partanno_segmentation_benchmark_v0_normal"
SYNSETS = {"Airplane": "02691156", "Cap": "02954340", "Mug": "03797390"}
FIRST = {"Airplane": 0, "Cap": 6, "Mug": 36}


def part_rows(first: int, seed: int = 0, count: int = 40) -> np.ndarray:
    """Points on a ball, labelled by whether they are above its centre."""
    points, normals = cloud(count, seed)
    return np.column_stack([points, normals, first + (points[:, 2] > 0)])


def put_shapenet(root: Path, categories=("Airplane", "Cap"), train=3, val=1, test=2) -> Path:
    """Makes ShapeNetPart with a few clouds of some categories in each split."""
    lists = {"train": [], "val": [], "test": []}
    put(root / "synsetoffset2category.txt", "".join(f"{n}\t{SYNSETS[n]}\n" for n in categories))
    for category in categories:
        for split, count in (("train", train), ("val", val), ("test", test)):
            for number in range(count):
                name = f"{split}_{number}"
                path = root / SYNSETS[category] / f"{name}.txt"
                path.parent.mkdir(exist_ok=True)
                np.savetxt(path, part_rows(FIRST[category], number), fmt="%.6f")
                lists[split].append(f"shape_data/{SYNSETS[category]}/{name}")
    for split, names in lists.items():
        file = root / "train_test_split" / f"shuffled_{split}_file_list.json"
        put(file, json.dumps(names))
    return root


class TestShapeNetPart:
    def test_the_parts_are_the_official_fifty(self):
        dataset_parts = np.split(np.arange(50), np.cumsum(list(SHAPENET_PARTS.values()))[:-1])
        official = {
            "Earphone": [16, 17, 18], "Motorbike": [30, 31, 32, 33, 34, 35], "Car": [8, 9, 10, 11],
            "Laptop": [28, 29], "Cap": [6, 7], "Skateboard": [44, 45, 46], "Mug": [36, 37],
            "Guitar": [19, 20, 21], "Bag": [4, 5], "Lamp": [24, 25, 26, 27],
            "Table": [47, 48, 49], "Airplane": [0, 1, 2, 3], "Pistol": [38, 39, 40],
            "Chair": [12, 13, 14, 15], "Knife": [22, 23], "Rocket": [41, 42, 43],
        }  # fmt: skip
        found = dict(zip(SHAPENET_PARTS, map(np.ndarray.tolist, dataset_parts), strict=True))
        assert found == official

    def test_the_lists_decide_about_the_splits(self, tmp_path):
        put_shapenet(tmp_path)
        sizes = {"train": [3, 3], "val": [1, 1], "test": [2, 2]}
        for split, (planes, caps) in sizes.items():
            dataset = ShapeNetPart(tmp_path, split=split, **OPTIONS)
            assert dataset.clouds.labels.tolist() == [0] * planes + [2] * caps
            assert dataset.train == (split == "train")
        assert dataset.categories == list(SHAPENET_PARTS)
        assert dataset.num_classes == 50
        assert dataset.classes[6] == "Cap 0"
        assert dataset.parts[2] == [6, 7]

    def test_points_keep_their_labels_and_normals(self, tmp_path):
        put_shapenet(tmp_path)
        options = OPTIONS | {"num_points": 20, "normalize": "none"}
        data = ShapeNetPart(tmp_path, **options)[3]
        assert data.category.tolist() == [2]
        assert data.pos.shape == data.normal.shape == (20, 3)
        assert data.y.tolist() == (6 + (data.pos[:, 2] > 0)).tolist()
        torch.testing.assert_close(data.pos.float(), 3 * data.normal.float(), atol=1e-5, rtol=0)

    def test_large_clouds_are_thinned_with_their_labels(self, tmp_path):
        put_shapenet(tmp_path)
        dataset = ShapeNetPart(tmp_path, **OPTIONS | {"points_per_mesh": 24})
        assert dataset.clouds.sizes.tolist() == [24] * 6
        for index in range(6):
            rows, labels = dataset.clouds[index], dataset.clouds.labels_of(index)
            # The normals are the directions of the points before they were centred.
            np.testing.assert_array_equal(labels % 2, rows[:, 5] > 0)

    def test_the_root_may_be_the_folder_or_have_it(self, tmp_path):
        put_shapenet(tmp_path / FOLDER)
        for root in (tmp_path, tmp_path / FOLDER):
            assert len(ShapeNetPart(root, **OPTIONS)) == 6

    @pytest.mark.parametrize("prefix", ["", f"{FOLDER}/"])
    def test_the_archive_is_extracted(self, tmp_path, prefix):
        folder = put_shapenet(tmp_path / "source")
        members = {
            prefix + path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*.*")
        }
        (tmp_path / "root").mkdir()
        make_zip(tmp_path / f"root/{FOLDER}.zip", members)
        assert len(ShapeNetPart(tmp_path / "root", **OPTIONS)) == 6
        assert len(ShapeNetPart(tmp_path / "root", split="test", **OPTIONS)) == 4

    def test_a_changed_file_is_read_again(self, tmp_path):
        root = put_shapenet(tmp_path)
        before = ShapeNetPart(root, **OPTIONS).clouds.point_labels[:40].tolist()
        rows = part_rows(2, seed=9)
        np.savetxt(root / SYNSETS["Airplane"] / "train_0.txt", rows)
        after = ShapeNetPart(root, **OPTIONS).clouds.point_labels
        assert set(before) == {0, 1}
        assert set(after[:32].tolist()) == {2, 3}

    def test_says_where_to_put_the_data(self, tmp_path):
        message = f"Expected ShapeNetPart in {tmp_path}: the folder or archive {FOLDER}, which http"
        with pytest.raises(FileNotFoundError, match=message):
            ShapeNetPart(tmp_path, **OPTIONS)


class TestBrokenFiles:
    @pytest.mark.parametrize("name", ["02954340/gone", "99999999/train_0", "gone"])
    def test_a_list_that_names_a_missing_cloud(self, tmp_path, name):
        put_shapenet(tmp_path)
        path = put(
            tmp_path / "train_test_split/shuffled_val_file_list.json",
            json.dumps([f"shape_data/{name}"]),
        )
        with pytest.raises(ValueError, match=rf"^{path}: expected names of clouds .*is missing"):
            ShapeNetPart(tmp_path, **OPTIONS)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("[", "expected a JSON file"),
            ("{}", "expected a list of the names of clouds"),
            ("[1]", "expected a list of the names of clouds"),
        ],
    )
    def test_a_list_that_is_none(self, tmp_path, content, message):
        put_shapenet(tmp_path)
        path = put(tmp_path / "train_test_split/shuffled_test_file_list.json", content)
        with pytest.raises(ValueError, match=f"^{path}: {message}"):
            ShapeNetPart(tmp_path, **OPTIONS)

    @pytest.mark.parametrize(
        ("content", "found"), [("", "none"), ("Boat 123\n", "Boat 123"), ("Cap\n", "Cap")]
    )
    def test_categories_that_are_unknown(self, tmp_path, content, found):
        put_shapenet(tmp_path)
        path = put(tmp_path / "synsetoffset2category.txt", content)
        message = rf"^{path}: expected rows of a category and its folder, got '{found}'"
        with pytest.raises(ValueError, match=message):
            ShapeNetPart(tmp_path, **OPTIONS)

    @pytest.mark.parametrize(
        ("column", "value", "message"),
        [
            (6, 5, "expected labels from 6 to 7, got 5 in row 3"),
            (6, 8, "expected labels from 6 to 7, got 8 in row 3"),
            (6, 6.5, "expected labels from 6 to 7, got 6.5 in row 3"),
            (6, np.nan, "expected labels from 6 to 7, got nan in row 3"),
            (0, np.nan, r"expected finite coordinates, got \[nan, .*\] for point 3"),
            (3, 2.0, r"expected normals of at most unit length, got \[2.0, .*\] in row 3"),
            (3, np.nan, r"expected normals of at most unit length, got \[nan, .*\] in row 3"),
        ],
    )
    def test_a_value_out_of_range_names_file_and_row(self, tmp_path, column, value, message):
        rows = part_rows(6)
        rows[3, column] = value
        np.savetxt(tmp_path / "a.txt", rows)
        with pytest.raises(ValueError, match=f"^{tmp_path}/a.txt: {message}"):
            read_part_cloud(tmp_path / "a.txt", lowest=6, highest=7)

    def test_the_data_set_names_the_file_too(self, tmp_path):
        put_shapenet(tmp_path)
        path = tmp_path / SYNSETS["Cap"] / "train_1.txt"
        np.savetxt(path, part_rows(4))
        with pytest.raises(ValueError, match=rf"{path}: expected labels from 6 to 7, got [45]"):
            ShapeNetPart(tmp_path, **OPTIONS)

    @pytest.mark.parametrize("columns", [3, 6, 8])
    def test_a_table_of_other_columns(self, tmp_path, columns):
        np.savetxt(tmp_path / "a.txt", np.ones((4, columns)))
        message = rf"a.txt: expected 7 columns, x y z nx ny nz label, got shape \[4, {columns}\]"
        with pytest.raises(ValueError, match=message):
            read_part_cloud(tmp_path / "a.txt", lowest=0, highest=3)

    def test_a_cut_file(self, tmp_path):
        np.savetxt(tmp_path / "a.txt", part_rows(6), fmt="%.6f")
        content = (tmp_path / "a.txt").read_text()
        put(tmp_path / "a.txt", content[:-40])
        with pytest.raises(ValueError, match="a.txt: expected a table of numbers"):
            read_part_cloud(tmp_path / "a.txt", lowest=6, highest=7)

    def test_zero_normals_point_upward(self, tmp_path):
        rows = part_rows(6)
        rows[3, 3:6] = 0
        np.savetxt(tmp_path / "a.txt", rows)
        geometry = read_part_cloud(tmp_path / "a.txt", lowest=6, highest=7)
        assert geometry.normals[3].tolist() == [0, 0, 1]
        np.testing.assert_allclose(geometry.normals[:3], rows[:3, 3:6])
        assert geometry.labels.tolist() == rows[:, 6].tolist()


def test_the_real_caps_are_listed_by_split(shared_data):
    listing = list_shapenet_part(shared_data / "original")
    names = {
        "train": ["cap_val_03", "cap_val_04"],
        "val": ["cap_val_00", "cap_val_01", "cap_val_02"],
        "test": ["cap_test_02", "cap_test_04", "cap_test_05"],
    }
    for split, clouds in names.items():
        items = getattr(listing, split)
        assert [item.name for item in items] == [f"02954340/{cloud}" for cloud in clouds]
        assert {item.label for item in items} == {2}


class TestDataModule:
    @pytest.fixture
    def module(self):
        pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
        from ccnn_geo.datasets import PartSegmentationDataModule

        def make(root, name="shapenet_part", **options):
            defaults = {"num_points": 16, "points_per_mesh": 40, "num_processes": 1}
            data = PartSegmentationDataModule(name, root, **{**defaults, **options})
            data.prepare_data()
            data.setup()
            return data

        return make

    def test_official_splits_are_used(self, tmp_path, module):
        data = module(put_shapenet(tmp_path), val_fraction=0.5)
        assert data.split_sizes == {"train": 6, "val": 2, "test": 4}
        assert data.categories == list(SHAPENET_PARTS)
        assert data.num_classes == 50
        assert data.parts[2] == [6, 7]
        names = sorted(tmp_path.glob(".ccnn_geo/shapenet_part-*"))
        assert [path.name.split("-")[1] for path in names] == ["test", "train", "val"]

    def test_validation_has_the_clouds_of_its_list(self, tmp_path, module):
        data = module(put_shapenet(tmp_path, val=2, train=1), normalize="none", num_points=40)
        found = [cloud.normal.numpy() for cloud in data.val_dataset]
        for number, normals in enumerate([*found[:2], *found[2:]]):
            expected = part_rows(0, number % 2)[:, 3:6]
            order = [np.abs(expected - row).sum(axis=1).argmin() for row in normals]
            assert sorted(order) == list(range(40))
            np.testing.assert_allclose(normals, expected[order], atol=1e-5)

    def test_batches_hold_labels_and_categories(self, tmp_path, module):
        data = module(put_shapenet(tmp_path), batch_size=4)
        assert data.num_features == 6
        batch = next(iter(data.test_dataloader()))
        assert batch.x.shape == (64, 6)
        assert batch.y.shape == (64,)
        assert batch.category.tolist() == [0, 0, 2, 2]
        assert torch.equal(batch.x, torch.cat([batch.normal, batch.pos], dim=1))
        first = torch.tensor([0, 0, 6, 6])[batch.batch]
        assert torch.equal(batch.y - first, (batch.normal[:, 2] > 0).long())

    @pytest.mark.parametrize(("features", "width"), [("auto", 6), ("pos", 3)])
    def test_the_category_can_be_an_input(self, tmp_path, module, features, width):
        data = module(put_shapenet(tmp_path), category_input=True, features=features, batch_size=4)
        assert data.num_features == width + 16
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            batch = next(iter(loader))
            assert batch.x.shape[1] == width + 16
            expected = torch.nn.functional.one_hot(batch.category[batch.batch], 16).float()
            assert torch.equal(batch.x[:, width:], expected)
            assert torch.equal(batch.x[:, width - 3 : width], batch.pos)

    def test_points_of_every_class_are_counted(self, tmp_path, module):
        data = module(put_shapenet(tmp_path))
        counts = np.zeros(50, int)
        for first in (0, 6):
            for seed in range(3):
                counts += np.bincount(part_rows(first, seed)[:, 6].astype(int), minlength=50)
        assert data.class_counts == counts.tolist()

    def test_procedural_objects(self, tmp_path, module, monkeypatch):
        parts = "ccnn_geo.datasets.point_clouds.parts"
        monkeypatch.setattr(f"{parts}.PART_CATEGORIES", {"lamp": ("base", "pole", "shade")})
        monkeypatch.setattr(f"{parts}.PART_CLASSES", ("lamp base", "lamp pole", "lamp shade"))
        data = module(tmp_path, "shape_parts", val_fraction=0.25)
        assert data.split_sizes == {"train": 72, "val": 24, "test": 24}
        assert data.categories == ["lamp"]
        assert data.parts == [[0, 1, 2]]
        assert data.class_names == ["lamp base", "lamp pole", "lamp shade"]
        assert sum(data.class_counts) == 72 * 40
        assert min(data.class_counts) > 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"name": "shapes"}, r"`name` to be one of \('shape_parts', 'shapenet_part'\), got 's"),
            ({"voxels": 8}, "Expected no `voxels` for labelled points, got 8"),
            ({"features": "normal"}, "`features` to be one of"),
        ],
    )
    def test_arguments_that_make_no_sense(self, tmp_path, module, options, message):
        with pytest.raises(ValueError, match=message):
            module(tmp_path, **options)


def test_an_archive_of_something_else_is_an_error(tmp_path):
    make_zip(tmp_path / f"{FOLDER}.zip", {"readme.txt": "hello"})
    with pytest.raises((OSError, ValueError), match="synsetoffset2category.txt"):
        ShapeNetPart(tmp_path, **OPTIONS)


def test_the_real_caps_have_panels_a_peak_and_unit_normals(shared_data):
    """A few of their normals are shorter than 1, and some are zero."""
    folder = shared_data / "original" / FOLDER / "02954340"
    for name in ("cap_val_02", "cap_val_03", "cap_test_04"):
        geometry = read_part_cloud(folder / f"{name}.txt", lowest=6, highest=7)
        rows = np.loadtxt(folder / f"{name}.txt")
        np.testing.assert_array_equal(geometry.points, rows[:, :3])
        np.testing.assert_array_equal(geometry.labels, rows[:, 6])
        assert set(geometry.labels.tolist()) == {6, 7}
        np.testing.assert_allclose(np.linalg.norm(geometry.normals, axis=1), 1, atol=1e-2)
        assert ((geometry.normals * rows[:, 3:6]).sum(axis=1) >= 0).all()
