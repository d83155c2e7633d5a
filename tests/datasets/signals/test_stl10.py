"""STL-10: official files, arrays, broken ones, and what a network sees."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.datasets import STL10DataModule  # noqa: E402
from ccnn_geo.datasets.signals import stl10  # noqa: E402
from ccnn_geo.datasets.signals.stl10 import read_stl10, read_stl10_images  # noqa: E402
from datasets_helpers import make_tar  # noqa: E402

COUNTS = {"train": 20, "test": 10}


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    """Training and test images, `[M, 96, 96, 3]`."""
    generator = np.random.default_rng(0)
    return {
        split: generator.integers(0, 256, (count, 96, 96, 3), dtype=np.uint8)
        for split, count in COUNTS.items()
    }


@pytest.fixture
def files(images) -> dict[str, bytes]:
    """The same as official files: channels, then columns, then rows; labels from 1."""
    content = {}
    for split, x in images.items():
        content[f"{split}_X.bin"] = x.transpose(0, 3, 2, 1).tobytes()
        content[f"{split}_y.bin"] = bytes(1 + number % 10 for number in range(len(x)))
    return content


@pytest.fixture
def folder(tmp_path, files):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def archive(tmp_path, files):
    members = {**files, "class_names.txt": "airplane\n", "unlabeled_X.bin": b"many"}
    return make_tar(
        tmp_path / "served.gz", {f"stl10_binary/{name}": members[name] for name in members}
    )


class TestFiles:
    @pytest.mark.parametrize("inside", [True, False])
    def test_are_read_with_the_right_orientation(self, folder, images, inside):
        train, test, classes = read_stl10(folder.parent if inside else folder, fetch=False)
        for split, signals in (("train", train), ("test", test)):
            assert signals.x.dtype == np.uint8
            assert signals.scale == 1 / 255
            np.testing.assert_array_equal(signals.x, np.moveaxis(images[split], 3, 1))
            assert signals.y.tolist() == [number % 10 for number in range(COUNTS[split])]
        assert classes[0] == "airplane"
        assert len(classes) == 10

    def test_are_downloaded_without_the_unlabelled_ones(
        self, host, archive, images, tmp_path, monkeypatch
    ):
        content = archive.read_bytes()
        host.files["stl10.tar.gz"] = content
        release = dataclasses.replace(
            stl10._RELEASE,
            urls=(f"{host.url}/stl10.tar.gz",),
            md5=hashlib.md5(content).hexdigest(),
        )
        monkeypatch.setattr(stl10, "_RELEASE", release)
        _, test, _ = read_stl10(tmp_path / "root")
        np.testing.assert_array_equal(test.x, np.moveaxis(images["test"], 3, 1))
        found = {path.name for path in (tmp_path / "root" / "stl10_binary").iterdir()}
        assert found == {*release.content, "class_names.txt"}
        host.files["stl10.tar.gz"] = content[:-1] + b"\1"
        with pytest.raises(OSError, match="expected a file with md5"):
            read_stl10(tmp_path / "other")

    def test_without_a_download_one_is_told_what_to_put_where(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="stl10_binary.tar.gz .from http://ai.stanford"):
            read_stl10(tmp_path, fetch=False)

    def test_a_missing_file_is_named(self, folder):
        (folder / "test_y.bin").unlink()
        with pytest.raises(FileNotFoundError, match="all of STL-10, got no test_y.bin;"):
            read_stl10(folder)

    @pytest.mark.parametrize("size", [0, 1, 3073 * 10])
    def test_images_that_are_cut_short_or_of_another_set_are_named(self, folder, size):
        (folder / "train_X.bin").write_bytes(bytes(size))
        message = f"train_X.bin: expected images of 27,648 bytes as in STL-10, got {size:,} bytes"
        with pytest.raises(ValueError, match=message):
            read_stl10(folder)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (bytes(10), "labels `labels` from 1 to 10, got 0 to 0"),
            (bytes([11] * 10), "labels `labels` from 1 to 10, got 11 to 11"),
            (b"\1" * 9, r"`labels` of shape \[10\], got uint8 of shape \[9\]"),
            (b"", r"`labels` of shape \[10\], got uint8 of shape \[0\]"),
        ],
    )
    def test_labels_that_do_not_fit_are_named(self, folder, labels, message):
        (folder / "test_y.bin").write_bytes(labels)
        with pytest.raises(ValueError, match=f"test_y.bin: expected .*{message}"):
            read_stl10(folder)


class TestArrays:
    @pytest.fixture
    def arrays(self, images):
        return {"x": images["train"], "y": np.arange(20) % 4, "groups": np.array(list("abcd"))}

    def read(self, tmp_path, arrays):
        np.savez(tmp_path / "some.npz", **arrays)
        return read_stl10(tmp_path / "some.npz")

    def test_a_fifth_of_every_class_is_for_testing(self, tmp_path, arrays):
        train, test, classes = self.read(tmp_path, arrays)
        assert classes == ["a", "b", "c", "d"]
        assert np.bincount(train.y).tolist() == [4] * 4
        assert np.bincount(test.y).tolist() == [1] * 4
        found = {image.tobytes() for split in (train, test) for image in split.x}
        assert found == {np.moveaxis(image, 2, 0).tobytes() for image in arrays["x"]}

    def test_classes_are_the_official_ones_if_they_have_no_names(self, tmp_path, arrays):
        del arrays["groups"]
        assert self.read(tmp_path, arrays)[2][3] == "cat"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"x": np.zeros((20, 32, 32, 3), np.uint8)}, r"\[M, 96, 96, 3\], .* \[20, 32, 32, 3\]"),
            ({"x": np.zeros((20, 96, 96, 3))}, "uint8, got float64"),
            ({"y": np.full(20, 4)}, "labels `y` from 0 to 3, got 4 to 4"),
            ({"y": np.zeros(3, int)}, r"`y` of shape \[20\], got int64 of shape \[3\]"),
        ],
    )
    def test_that_do_not_fit_are_refused(self, tmp_path, arrays, changes, message):
        with pytest.raises(ValueError, match=f"some.npz: expected .*{message}"):
            self.read(tmp_path, {**arrays, **changes})


def module(root, **options) -> STL10DataModule:
    data = STL10DataModule(root=root, batch_size=4, **options)
    data.setup()
    return data


class TestDataModule:
    def test_gives_normalized_images(self, folder, images):
        data = module(folder)
        assert (data.size, data.dim, data.num_features, data.num_classes) == ((96, 96), 2, 3, 10)
        assert data.split_sizes == {"train": 10, "val": 10, "test": 10}
        pixel = torch.from_numpy(images["test"][7, 3, 5] / 255)
        mean, deviation = [0.44671, 0.43981, 0.40665], [0.26034, 0.25658, 0.27127]
        expected = (pixel - torch.tensor(mean)) / torch.tensor(deviation)
        sample = data.test_dataset[7]
        assert sample.x.shape == (1, 3, 96, 96)
        torch.testing.assert_close(sample.x[0, :, 3, 5], expected.float())

    def test_keeps_bytes_in_memory(self, folder):
        assert module(folder, size=256).train_dataset.signals.x.dtype == np.uint8

    def test_resizes_every_split(self, folder):
        data = module(folder, size=128, augment=True)
        assert data.size == (128, 128)
        for split in ("train", "val", "test"):
            assert getattr(data, f"{split}_dataset")[0].x.shape == (1, 3, 128, 128)

    def test_only_training_images_are_augmented_and_only_on_request(self, folder):
        plain, augmented = module(folder), module(folder, augment=True)
        for split, same in (("val", True), ("test", True), ("train", False)):
            images, others = (getattr(data, f"{split}_dataset") for data in (plain, augmented))
            pairs = zip(images, others, strict=True)
            assert all(torch.equal(image.x, other.x) for image, other in pairs) == same

    def test_augmented_images_are_turned_a_little_and_mirrored(self, tmp_path):
        """A bright spot near the right border stays near that border or the other one."""
        x = np.zeros((20, 96, 96, 3), np.uint8)
        x[:, 44:52, 78:86] = 255
        np.savez(tmp_path / "spots.npz", x=x, y=np.zeros(20, int))
        data = module(tmp_path / "spots.npz", augment=True, normalize=False)
        centres = []
        for epoch in range(200):
            spot = data.train_dataset[epoch, 0].x[0, 0]
            rows, columns = (spot.sum(axis) for axis in (1, 0))
            steps = torch.arange(96.0)
            centres.append([(rows @ steps / rows.sum()), (columns @ steps / columns.sum())])
        rows, columns = torch.tensor(centres).T
        # 37 pixels from the centre, 15 degrees are 10 pixels up or down; a crop moves by 3 more.
        assert 8 < float((rows - 47.5).abs().max()) < 14
        sides = columns.gt(47.5).float().mean()
        assert 0.35 < float(sides) < 0.65
        assert float((columns - 47.5).abs().min()) > 30

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"name": "stl"}, "`name` to be one of .*, got 'stl'"),
         ({"size": 0}, "`size` to be at least 1, got 0")],
    )  # fmt: skip
    def test_refuses_arguments_out_of_range(self, options, message):
        with pytest.raises(ValueError, match=message):
            STL10DataModule(**options)


class TestRealFiles:
    def test_of_the_official_layout_hold_the_images_of_the_arrays(self, shared_data):
        images = read_stl10_images(shared_data / "original/stl10_binary/unlabeled_X_head.bin")
        assert images.shape == (20, 3, 96, 96)
        with np.load(shared_data / "stl10_246.npz") as arrays:
            known = {np.moveaxis(image, 2, 0).tobytes() for image in arrays["x"]}
        # The others are kept back elsewhere.
        assert sum(image.tobytes() in known for image in images) >= 10

    def test_images_have_the_published_statistics(self, shared_data):
        data = module(shared_data / "stl10_246.npz")
        assert sum(data.split_sizes.values()) == 184
        assert data.num_classes == 26
        x = torch.cat([sample.x for sample in data.test_dataset])
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=0.3, rtol=0)
        torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=0.2, rtol=0)
