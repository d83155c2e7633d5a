"""Scans of data sets by split, with checked labels."""

from pathlib import Path

import numpy as np
import pytest

from ccnn_geo.datasets import Scene, write_scene
from ccnn_geo.datasets.scenes.landscapes import make_landscape
from ccnn_geo.datasets.scenes.listing import (
    S3DIS_CLASSES,
    list_landscapes,
    list_s3dis,
    list_scene_arrays,
    list_scene_folder,
)
from datasets_helpers import put


def put_scan(path: Path, labels: list[int], name: str = "label") -> Path:
    """Makes a scan of a point for every label, numbered by the x coordinate."""
    path.parent.mkdir(parents=True, exist_ok=True)
    points = np.column_stack([np.arange(len(labels)), np.zeros((len(labels), 2))])
    np.savez(path, pos=points, **{name: labels})
    return path


class TestLandscapes:
    def test_splits_have_scans_of_their_own(self):
        scenes = list_landscapes(seed=3, train_scenes=2, test_scenes=1)
        assert scenes.classes == ["ground", "tree", "clutter"]
        assert list(scenes.train) == ["landscape_train_000", "landscape_train_001"]
        assert list(scenes.test) == ["landscape_test_000"]
        assert scenes.val is None
        first, second = scenes.train.values()
        (held_out,) = scenes.test.values()
        np.testing.assert_array_equal(first.points, make_landscape(seed=(3, 0, 0)).points)
        starts = {scene.points[0, 0] for scene in (first, second, held_out)}
        assert len(starts) == 3

    def test_the_number_of_scans_does_not_change_them(self):
        few = list_landscapes(seed=0, train_scenes=1, test_scenes=1)
        many = list_landscapes(seed=0, train_scenes=2, test_scenes=1)
        for name in ("train", "test"):
            first, *_ = getattr(few, name).values()
            same, *_ = getattr(many, name).values()
            np.testing.assert_array_equal(first.points, same.points)

    @pytest.mark.parametrize(("train", "test"), [(0, 1), (1, -1)])
    def test_numbers_out_of_range(self, train, test):
        message = f"`train_scenes` >= 1 and `test_scenes` >= 0, got {train} and {test}"
        with pytest.raises(ValueError, match=message):
            list_landscapes(seed=0, train_scenes=train, test_scenes=test)


class TestFolder:
    def test_scans_of_all_formats_are_found_by_split(self, tmp_path):
        put_scan(tmp_path / "train/b.npz", [0, 1])
        write_scene(tmp_path / "train/a.ply", Scene(np.eye(3), labels=np.array([2, 0, 1])))
        put(tmp_path / "test/c.txt", "x y z class\n0 0 0 1\n")
        put(tmp_path / "train/notes.md", "notes")
        put(tmp_path / "train/._a.ply", "left by macOS")
        (tmp_path / "train/folder.ply").mkdir()
        scenes = list_scene_folder(tmp_path)
        assert scenes.classes == ["0", "1", "2"]
        assert list(scenes.train) == ["a.ply", "b.npz"]
        assert scenes.train["a.ply"].labels.tolist() == [2, 0, 1]
        assert scenes.test["c.txt"].labels.tolist() == [1]
        assert scenes.val is None

    def test_a_folder_of_validation_scans_is_used(self, tmp_path):
        put_scan(tmp_path / "train/a.npz", [0, 1])
        put_scan(tmp_path / "val/b.npz", [1])
        scenes = list_scene_folder(tmp_path)
        assert list(scenes.val) == ["b.npz"]
        assert scenes.test == {}

    def test_classes_can_be_named(self, tmp_path):
        put_scan(tmp_path / "train/a.npz", [0, 1])
        put(tmp_path / "classes.txt", "ground\n\nhigh vegetation\n water \n")
        scenes = list_scene_folder(tmp_path)
        assert scenes.classes == ["ground", "high vegetation", "water"]

    def test_classes_are_counted_over_all_splits(self, tmp_path):
        put_scan(tmp_path / "train/a.npz", [0, 1])
        put_scan(tmp_path / "test/b.npz", [4])
        assert list_scene_folder(tmp_path).classes == ["0", "1", "2", "3", "4"]

    def test_there_are_at_least_two_classes(self, tmp_path):
        put_scan(tmp_path / "train/a.npz", [0, 0])
        assert list_scene_folder(tmp_path).classes == ["0", "1"]

    def test_negative_labels_and_255_mark_points_without_a_class(self, tmp_path):
        put_scan(tmp_path / "train/a.npz", [0, 255, -1, 2, -100])
        scenes = list_scene_folder(tmp_path)
        assert scenes.classes == ["0", "1", "2"]
        assert scenes.train["a.npz"].labels.tolist() == [0, -1, -1, 2, -1]
        np.testing.assert_array_equal(scenes.train["a.npz"].points[:, 0], np.arange(5))

    def test_255_is_a_class_among_as_many(self, tmp_path):
        put_scan(tmp_path / "train/a.npz", [0, 255, 300])
        scenes = list_scene_folder(tmp_path)
        assert len(scenes.classes) == 301
        assert scenes.train["a.npz"].labels.tolist() == [0, 255, 300]

    def test_the_attribute_of_the_labels_can_be_named(self, tmp_path):
        put_scan(tmp_path / "train/a.npz", [3, 1], name="species")
        with pytest.raises(ValueError, match=r"a.npz: expected labels, got attributes species; "):
            list_scene_folder(tmp_path)
        scenes = list_scene_folder(tmp_path, label="species")
        assert scenes.train["a.npz"].labels.tolist() == [3, 1]

    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_a_label_beyond_the_named_classes(self, tmp_path, split):
        put_scan(tmp_path / "train/a.npz", [0, 1])
        path = put_scan(tmp_path / split / "b.npz", [0, 255, 2])
        put(tmp_path / "classes.txt", "a\nb\n")
        message = rf"^{path}: expected labels of 2 classes, got 2 for point 2"
        with pytest.raises(ValueError, match=message):
            list_scene_folder(tmp_path)

    def test_a_scan_without_a_labelled_point(self, tmp_path):
        put_scan(tmp_path / "train/a.npz", [0, 1])
        path = put_scan(tmp_path / "train/b.npz", [255, -1])
        with pytest.raises(ValueError, match=f"^{path}: expected labelled points, got none"):
            list_scene_folder(tmp_path)

    @pytest.mark.parametrize("names", ["", "ground\n", "ground\ntree\nground\n"])
    def test_names_of_classes_have_to_be_two_or_more(self, tmp_path, names):
        put_scan(tmp_path / "train/a.npz", [0, 1])
        path = put(tmp_path / "classes.txt", names)
        with pytest.raises(ValueError, match=f"^{path}: expected the names of two or more classes"):
            list_scene_folder(tmp_path)

    def test_no_training_scan(self, tmp_path):
        put_scan(tmp_path / "test/a.npz", [0, 1])
        message = rf"^{tmp_path}/train: expected scans \(.bin, .las, .*\), got none"
        with pytest.raises(ValueError, match=message):
            list_scene_folder(tmp_path)

    def test_a_missing_folder(self, tmp_path):
        message = rf"a folder of scans, \{{train,val,test\}}/\*, got {tmp_path}/nowhere"
        with pytest.raises(FileNotFoundError, match=message):
            list_scene_folder(tmp_path / "nowhere")

    def test_a_broken_scan_is_named(self, tmp_path):
        path = put(tmp_path / "train/a.ply", "garbage")
        with pytest.raises(ValueError, match=f"^{path}: expected a cloud"):
            list_scene_folder(tmp_path)


def put_room(root: Path, name: str, **parts: str) -> Path:
    """Makes a room of S3DIS, a file for every part."""
    for part, rows in parts.items():
        put(root / name / "Annotations" / f"{part}.txt", rows)
    return root


class TestS3dis:
    def test_annotations_of_a_room_are_one_scan(self, tmp_path):
        put_room(
            tmp_path,
            "Area_1/office_1",
            chair_2="1 0 0 255 0 51\n2 0 0 0 0 0\n",
            ceiling_1="0 0 3 0 102 0\n",
            stairs_1="5 0 0 1 2 3\n",
        )
        put_room(tmp_path, "Area_5/hall_1", floor_1="0 0 0 9 9 9\n")
        put(tmp_path / "Area_1/office_1/office_1.txt", "the points of the room, once more")
        scenes = list_s3dis(tmp_path)
        assert scenes.classes == list(S3DIS_CLASSES)
        assert list(scenes.train) == ["Area_1/office_1"]
        assert list(scenes.test) == ["Area_5/hall_1"]
        room = scenes.train["Area_1/office_1"]
        assert room.points.tolist() == [[0, 0, 3], [1, 0, 0], [2, 0, 0], [5, 0, 0]]
        assert room.labels.tolist() == [0, 8, 8, -1]
        np.testing.assert_allclose(255 * room.attributes["color"][:2], [[0, 102, 0], [255, 0, 51]])

    def test_other_names_are_the_classes(self, tmp_path):
        put_room(tmp_path, "Area_1/park_1", tree_1="0 0 0 1 2 3\n", ground_10="1 0 0 4 5 6\n")
        put_room(tmp_path, "Area_2/park_1", clutter="1 0 0 4 5 6\n")
        scenes = list_s3dis(tmp_path, test_area=2)
        assert scenes.classes == ["clutter", "ground", "tree"]
        assert scenes.train["Area_1/park_1"].labels.tolist() == [1, 2]
        assert scenes.test["Area_2/park_1"].labels.tolist() == [0]

    def test_colours_are_left_out_unless_every_part_of_every_room_has_them(self, tmp_path):
        put_room(tmp_path, "Area_1/park_1", wall_1="0 0 0 1 2 3\n", floor_1="1 0 0\n")
        put_room(tmp_path, "Area_5/park_1", wall_1="0 0 0 1 2 3\n")
        scenes = list_s3dis(tmp_path)
        assert scenes.train["Area_1/park_1"].attributes == {}
        assert scenes.test["Area_5/park_1"].attributes == {}

    @pytest.mark.parametrize(("areas", "found"), [((1, 2), "Area_1, Area_2"), ((5,), "Area_5")])
    def test_there_has_to_be_an_area_to_test_on_and_another(self, tmp_path, areas, found):
        for area in areas:
            put_room(tmp_path, f"Area_{area}/a", wall_1="0 0 0 1 2 3\n")
        message = rf"^{tmp_path}: expected Area_5 to test on and others to train on, got {found}$"
        with pytest.raises(ValueError, match=message):
            list_s3dis(tmp_path)

    def test_an_area_is_not_another_with_the_same_beginning(self, tmp_path):
        for area in (1, 10):
            put_room(tmp_path, f"Area_{area}/a", wall_1="0 0 0 1 2 3\n")
        scenes = list_s3dis(tmp_path, test_area=1)
        assert list(scenes.test) == ["Area_1/a"]
        assert list(scenes.train) == ["Area_10/a"]

    def test_a_room_without_annotations(self, tmp_path):
        put_room(tmp_path, "Area_1/a", wall_1="0 0 0 1 2 3\n")
        (tmp_path / "Area_5/b/Annotations").mkdir(parents=True)
        message = r"Area_5/b/Annotations: expected annotations CLASS_K.txt, got none"
        with pytest.raises(ValueError, match=message):
            list_s3dis(tmp_path)

    def test_a_broken_annotation_is_named(self, tmp_path):
        put_room(tmp_path, "Area_1/a", wall_1="0 0 0 1 2 3\n0 0 \x10 1 2 3\n")
        put_room(tmp_path, "Area_5/a", wall_1="0 0 0 1 2 3\n")
        with pytest.raises(ValueError, match=r"Area_1/a/Annotations/wall_1.txt: expected a table"):
            list_s3dis(tmp_path)

    def test_missing_folders(self, tmp_path):
        with pytest.raises(ValueError, match=r"expected Area_N/ROOM/Annotations, got none"):
            list_s3dis(tmp_path)
        message = "Expected S3DIS in .*/nowhere: .*buildingparser.stanford.edu"
        with pytest.raises(FileNotFoundError, match=message):
            list_s3dis(tmp_path / "nowhere")

    def test_the_real_layout(self, shared_data):
        root = shared_data / "original/s3dis_layout"
        with pytest.raises(ValueError, match="Area_5 to test on and others to train on, got Area_"):
            list_s3dis(root)

    def test_a_real_room(self, shared_data, tmp_path):
        (tmp_path / "Area_1").symlink_to(shared_data / "original/s3dis_layout/Area_1")
        put_room(tmp_path, "Area_5/a", tree_1="0 0 0 1 2 3\n")
        scenes = list_s3dis(tmp_path)
        assert scenes.classes == ["clutter", "ground", "tree"]
        room = scenes.train["Area_1/Park_2"]
        folder = tmp_path / "Area_1/Park_2/Annotations"
        for label, name in enumerate(scenes.classes):
            rows = sum(len(np.loadtxt(file)) for file in folder.glob(f"{name}_*"))
            assert (room.labels == label).sum() == rows > 0
        rows = np.loadtxt(folder / "ground_4.txt")
        ground = room.select(room.labels == 1)
        np.testing.assert_allclose(ground.points, rows[:, :3])
        np.testing.assert_allclose(255 * ground.attributes["color"], rows[:, 3:], atol=1e-4)


def scene_arrays(**changes) -> dict[str, np.ndarray]:
    """Arrays of two scans of three and one points."""
    arrays = {
        "rooms": ["Area_1_a", "Area_5_b"],
        "classes": ["ground", "tree"],
        "Area_1_a_pos": np.arange(9.0).reshape(3, 3),
        "Area_1_a_label": np.uint8([0, 1, 255]),
        "Area_1_a_colour": np.uint8([[255, 0, 51]] * 3),
        "Area_1_a_intensity": np.uint16([1, 2, 3]),
        "Area_5_b_pos": np.zeros((1, 3)),
        "Area_5_b_label": np.uint8([1]),
        **changes,
    }
    return {name: array for name, array in arrays.items() if array is not None}


class TestArrays:
    def test_scans_have_labels_and_attributes(self, tmp_path):
        np.savez(tmp_path / "a.npz", **scene_arrays())
        scenes = list_scene_arrays(tmp_path / "a.npz")
        assert scenes.classes == ["ground", "tree"]
        assert list(scenes.train) == ["Area_1_a"]
        assert list(scenes.test) == ["Area_5_b"]
        scene = scenes.train["Area_1_a"]
        assert scene.points.tolist() == np.arange(9).reshape(3, 3).tolist()
        assert scene.labels.tolist() == [0, 1, -1]
        assert scene.labels.dtype == np.int64
        np.testing.assert_allclose(scene.attributes["color"], [[1, 0, 0.2]] * 3, rtol=1e-6)
        assert scene.attributes["intensity"].tolist() == [1, 2, 3]
        assert scenes.test["Area_5_b"].attributes == {}

    def test_another_area_can_be_tested_on(self, tmp_path):
        np.savez(tmp_path / "a.npz", **scene_arrays())
        scenes = list_scene_arrays(tmp_path / "a.npz", test_area=1)
        assert list(scenes.test) == ["Area_1_a"]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"rooms": None}, "expected an array `rooms`"),
            ({"classes": None}, "expected an array `classes`"),
            ({"Area_5_b_label": None}, "expected an array `Area_5_b_label`, got Area_1_a_colour, "),
            (
                {"Area_5_b_pos": np.zeros((2, 3))},
                r"expected `Area_5_b_pos` of shape \[1, 3\], one row per label, got \[2, 3\]",
            ),
            ({"Area_5_b_label": np.array([2])}, "expected labels of 2 classes, got 2 for point 0"),
            ({"Area_5_b_label": np.array([-1])}, "expected labelled points, got none"),
            ({"rooms": ["Area_1_a"]}, "expected Area_5 to test on and others to train on, got Ar"),
        ],
    )
    def test_arrays_that_do_not_fit_are_named(self, tmp_path, changes, message):
        np.savez(tmp_path / "a.npz", **scene_arrays(**changes))
        with pytest.raises(ValueError, match=rf"^{tmp_path}/a.npz: {message}"):
            list_scene_arrays(tmp_path / "a.npz")

    def test_a_broken_file(self, tmp_path):
        with pytest.raises(ValueError, match="a.npz: expected an .npz file"):
            list_scene_arrays(put(tmp_path / "a.npz", "garbage"))

    def test_the_real_forest(self, shared_data):
        scenes = list_scene_arrays(shared_data / "forest_scans.npz", test_area=3)
        assert scenes.classes == ["ground", "tree", "clutter"]
        assert list(scenes.train) == ["Area_1_Park_1", "Area_1_Park_2", "Area_2_linchang_1"]
        (name,) = scenes.test
        assert name == "Area_3_nefulinchang_1"
        assert np.bincount(scenes.test[name].labels).tolist() == [18_083, 41_917]
        colors = scenes.train["Area_1_Park_1"].attributes["color"]
        assert colors.shape == (60_000, 3)
        assert 0 <= colors.min() < colors.max() == 1


def test_hidden_annotations_name_no_class(tmp_path):
    put_room(tmp_path, "Area_1/a", wall_1="0 0 0 1 2 3\n")
    put_room(tmp_path, "Area_5/a", **{"wall_1": "0 0 0 1 2 3\n", "._wall_1": "left by macOS"})
    assert list_s3dis(tmp_path).classes == list(S3DIS_CLASSES)


def test_names_of_classes_may_begin_with_a_byte_order_mark(tmp_path):
    put_scan(tmp_path / "train/a.npz", [0, 1])
    (tmp_path / "classes.txt").write_text("ground\ntree\n", encoding="utf-8-sig")
    assert list_scene_folder(tmp_path).classes == ["ground", "tree"]


def test_rooms_are_read_once_and_again_when_a_file_changes(tmp_path):
    data, cache = tmp_path / "data", tmp_path / "cache"
    put_room(data, "Area_1/a", wall_1="0 0 0 1 2 3\n", floor_1="1 0 0 4 5 6\n")
    put_room(data, "Area_5/b", wall_1="2 0 0 7 8 9\n")
    first = list_s3dis(data, cache_dir=cache, num_processes=1)
    again = list_s3dis(data, cache_dir=cache, num_processes=2)
    assert len([each for each in cache.iterdir() if each.is_dir()]) == 1
    for split in ("train", "test"):
        for name, scene in getattr(first, split).items():
            other = getattr(again, split)[name]
            np.testing.assert_array_equal(scene.points, other.points)
            np.testing.assert_array_equal(scene.labels, other.labels)
            np.testing.assert_array_equal(scene.attributes["color"], other.attributes["color"])
    put_room(data, "Area_5/b", wall_1="3 0 0 7 8 9\n4 0 0 7 8 9\n")
    changed = list_s3dis(data, cache_dir=cache)
    assert changed.test["Area_5/b"].points[:, 0].tolist() == [3, 4]
    (built,) = [each for each in cache.iterdir() if (each / "sizes.npy").exists()][:1]
    (built / "sizes.npy").write_bytes(b"")
    assert list_s3dis(data, cache_dir=cache).test["Area_5/b"].points[:, 0].tolist() == [3, 4]


@pytest.mark.parametrize("suffix", ["las", "laz"])
def test_codes_of_las_files_are_translated_by_the_names_of_the_classes(tmp_path, suffix):
    pytest.importorskip("laspy", reason="the extra `las` is missing")
    (tmp_path / "train").mkdir()
    points = np.random.default_rng(0).normal(size=(5, 3))
    codes = np.array([2, 5, 1, 65, 9])
    write_scene(tmp_path / "train" / f"a.{suffix}", Scene(points, labels=codes))
    (tmp_path / "classes.txt").write_text("ground\nbench\ntree\nclutter\n")
    (scene,) = list_scene_folder(tmp_path).train.values()
    assert scene.labels.tolist() == [0, 2, 3, 1, -1]
    (tmp_path / "classes.txt").unlink()
    listing = list_scene_folder(tmp_path)
    assert len(listing.classes) == 66
