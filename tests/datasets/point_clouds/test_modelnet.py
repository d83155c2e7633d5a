"""ModelNet, from whichever form of it there is."""

import numpy as np
import pytest

from ccnn_geo.datasets import ModelNet
from ccnn_geo.datasets.point_clouds.modelnet import MODELNET10_CLASSES, MODELNET40_CLASSES
from datasets_helpers import OPTIONS, cloud, put, put_classes


class TestModelNet:
    def test_the_classes_are_the_official_ones(self):
        assert len(MODELNET10_CLASSES) == 10
        assert len(MODELNET40_CLASSES) == 40
        assert set(MODELNET10_CLASSES) < set(MODELNET40_CLASSES)
        assert list(MODELNET40_CLASSES) == sorted(MODELNET40_CLASSES)

    @pytest.mark.parametrize("inside", ["", "ModelNet10"])
    def test_takes_a_folder_of_meshes_with_official_labels(self, tmp_path, inside):
        put_classes(tmp_path / inside, "chair", "toilet")
        train = ModelNet(tmp_path, "10", **OPTIONS)
        assert train.classes == list(MODELNET10_CLASSES)
        assert train.clouds.labels.tolist() == [2, 2, 9, 9]
        assert ModelNet(tmp_path, split="test", **OPTIONS).clouds.labels.tolist() == [2, 9]
        assert train.has_normals

    def test_takes_the_resampled_clouds_by_their_lists(self, tmp_path):
        root = tmp_path / "modelnet40_normal_resampled"
        for seed, name in enumerate(("night_stand_0001", "night_stand_0002", "airplane_0001")):
            label = name.rpartition("_")[0]
            (root / label).mkdir(parents=True, exist_ok=True)
            rows = np.concatenate(cloud(50, seed), axis=1)
            np.savetxt(root / label / f"{name}.txt", rows, delimiter=",", fmt="%.6f")
        put(root / "modelnet40_train.txt", "night_stand_0001\r\nairplane_0001\r\n")
        put(root / "modelnet40_test.txt", "night_stand_0002\n")
        put(root / "modelnet10_train.txt", "night_stand_0001")
        put(root / "modelnet10_test.txt", "night_stand_0002")
        for folder in (root, tmp_path):
            train = ModelNet(folder, "40", **OPTIONS)
            names = [train.classes[label] for label in train.clouds.labels]
            assert names == ["night_stand", "airplane"]
            assert train.has_normals
            assert train.clouds.sizes.tolist() == [32, 32]
        assert len(ModelNet(root, "40", split="test", **OPTIONS)) == 1
        assert ModelNet(root, "10", **OPTIONS).classes == list(MODELNET10_CLASSES)
        put(root / "modelnet40_test.txt", "night_stand_0003\n")
        with pytest.raises(ValueError, match=r"modelnet40_test.txt: .*night_stand_0003.txt, which"):
            ModelNet(root, "40")
        (root / "modelnet40_test.txt").write_bytes(b"night_stand_\xff\n")
        with pytest.raises(
            ValueError, match="modelnet40_test.txt: .*night_stand_\udcff.txt, which"
        ):
            ModelNet(root, "40")

    def test_refuses_classes_of_another_data_set(self, tmp_path):
        put_classes(tmp_path, "chair", "airplane")
        with pytest.raises(ValueError, match="of ModelNet10 alone, got airplane too"):
            ModelNet(tmp_path, "10")
        assert len(ModelNet(tmp_path, "40", **OPTIONS)) == 4

    def test_refuses_an_empty_class_folder(self, tmp_path):
        put_classes(tmp_path, "chair")
        (tmp_path / "bed").mkdir()
        with pytest.raises(ValueError, match="/bed: expected .off files .*, got an empty class"):
            ModelNet(tmp_path, "10")

    def test_names_the_broken_mesh(self, tmp_path):
        put_classes(tmp_path, "chair")
        put(tmp_path / "chair/train/chair_0009.off", "OFF\n8 12 0\n0 0 0\n")
        with pytest.raises(ValueError, match="chair_0009.off: .* ends after 1 of those 20"):
            ModelNet(tmp_path, "10", **OPTIONS)

    def test_says_what_to_put_where_when_there_is_nothing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"40.zip \(from https://.*\) or a folder"):
            ModelNet(tmp_path, "40", download=False)

    def test_refuses_an_unknown_name(self, tmp_path):
        with pytest.raises(ValueError, match="`name` to be '10' or '40', got '20'"):
            ModelNet(tmp_path, "20")
