"""CIFAR-10 and CIFAR-100: every official form, broken files, and what a network sees."""

import dataclasses
import hashlib
import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.datasets import CIFARDataModule  # noqa: E402
from ccnn_geo.datasets.signals import cifar  # noqa: E402
from ccnn_geo.datasets.signals.cifar import read_cifar, read_cifar_file, to_gray  # noqa: E402
from ccnn_geo.datasets.signals.dataset import Signals  # noqa: E402
from datasets_helpers import make_tar, python2_pickle  # noqa: E402

NAMES = ("cifar10", "cifar100")
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Fifty training and twenty test images."""
    generator = np.random.default_rng(0)
    content = {}
    for split, count in (("train", 50), ("test", 20)):
        content[f"{split}_x"] = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        content[f"{split}_y"] = (np.arange(count) % 10).astype(np.uint8)
    return content


def batches(name: str, arrays: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images, red, green and blue in turn, and labels by names of official files."""
    train, test = (
        (arrays[f"{split}_x"].transpose(0, 3, 1, 2).reshape(-1, 3072), arrays[f"{split}_y"])
        for split in ("train", "test")
    )
    if name == "cifar100":
        return {"train": train, "test": test}
    parts = zip(*(np.split(array, 5) for array in train), strict=True)
    return {**dict(zip(BATCHES, parts, strict=True)), "test_batch": test}


def binary_files(name: str, arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    content = {}
    for file, (x, y) in batches(name, arrays).items():
        labels = y[:, None]
        if name == "cifar100":
            labels = np.hstack([np.full_like(labels, 19), labels])  # coarse labels first
        content[f"{file}.bin"] = np.hstack([labels, x]).tobytes()
    return content


def pickles(name: str, arrays: dict[str, np.ndarray]) -> dict[str, bytes]:
    content = {}
    for file, (x, y) in batches(name, arrays).items():
        labels = {b"labels": y.tolist()}
        if name == "cifar100":
            labels = {b"coarse_labels": [19] * len(y), b"fine_labels": y.tolist()}
        content[file] = python2_pickle({b"data": x, **labels, b"batch_label": b"a batch"})
    return content


FORMS = {"binary": binary_files, "pickles": pickles}
ARCHIVES = {
    ("cifar10", "binary"): ("cifar-10-binary.tar.gz", "cifar-10-batches-bin"),
    ("cifar10", "pickles"): ("cifar-10-python.tar.gz", "cifar-10-batches-py"),
    ("cifar100", "binary"): ("cifar-100-binary.tar.gz", "cifar-100-binary"),
    ("cifar100", "pickles"): ("cifar-100-python.tar.gz", "cifar-100-python"),
}


def put_files(folder, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.fixture
def npz(arrays, tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
class TestOfficialForms:
    def check(self, root, name, arrays, **options) -> None:
        train, test, classes = read_cifar(root, name, **options)
        for split, signals in (("train", train), ("test", test)):
            assert signals.x.dtype == np.uint8
            assert signals.scale == 1 / 255
            np.testing.assert_array_equal(signals.x, np.moveaxis(arrays[f"{split}_x"], 3, 1))
            np.testing.assert_array_equal(signals.y, arrays[f"{split}_y"])
        assert len(classes) == len(set(classes)) == int(name.removeprefix("cifar"))
        assert classes == sorted(classes)

    @pytest.mark.parametrize("inside", [True, False])
    def test_extracted_files_are_read(self, tmp_path, arrays, name, form, inside):
        folder = tmp_path / ARCHIVES[name, form][1] if inside else tmp_path
        put_files(folder, FORMS[form](name, arrays))
        self.check(tmp_path, name, arrays, fetch=False)

    def test_an_archive_is_extracted(self, tmp_path, arrays, name, form):
        archive, folder = ARCHIVES[name, form]
        files = FORMS[form](name, arrays)
        make_tar(tmp_path / archive, {f"{folder}/{file}": files[file] for file in files})
        self.check(tmp_path, name, arrays, fetch=False)

    def test_a_missing_file_is_named(self, tmp_path, arrays, name, form):
        files = FORMS[form](name, arrays)
        missing, _ = files.popitem()
        put_files(tmp_path, files)
        with pytest.raises(FileNotFoundError, match=f"expected all of CIFAR-1.*got no {missing};"):
            read_cifar(tmp_path, name)

    def test_a_file_that_is_cut_short_is_named(self, tmp_path, arrays, name, form):
        files = FORMS[form](name, arrays)
        put_files(tmp_path, files)
        last = [*files][-1]
        for length in (0, 1, 1000, len(files[last]) - 1):
            (tmp_path / last).write_bytes(files[last][:length])
            with pytest.raises(ValueError, match=f"{last}: expected "):
                read_cifar(tmp_path, name)

    def test_files_of_the_other_data_set_are_refused(self, tmp_path, arrays, name, form):
        other = NAMES[name == NAMES[0]]
        for file, content in FORMS[form](other, arrays).items():
            (tmp_path / file).write_bytes(content)
            with pytest.raises(ValueError, match=f"{file}: expected .* as in CIFAR-{name[5:]}, "):
                read_cifar_file(tmp_path / file, name)

    def test_labels_out_of_range_are_refused(self, tmp_path, arrays, name, form):
        most = int(name.removeprefix("cifar"))
        arrays["test_y"][3] = most
        put_files(tmp_path, FORMS[form](name, arrays))
        with pytest.raises(
            ValueError, match=f"test.*`labels` from 0 to {most - 1}, got 0 to {most}"
        ):
            read_cifar(tmp_path, name)


class TestFiles:
    @pytest.mark.parametrize("name", NAMES)
    def test_are_downloaded_and_checked(self, host, tmp_path, arrays, monkeypatch, name):
        archive, folder = ARCHIVES[name, "binary"]
        files = binary_files(name, arrays)
        made = make_tar(tmp_path / "made.gz", {f"{folder}/{file}": files[file] for file in files})
        content = made.read_bytes()
        host.files[archive] = content
        releases = [
            dataclasses.replace(
                release,
                urls=tuple(url.replace(cifar._HOST, host.url) for url in release.urls),
                md5=hashlib.md5(content).hexdigest(),
            )
            for release in cifar._RELEASES[name]
        ]
        monkeypatch.setitem(cifar._RELEASES, name, releases)
        host.break_after = [1000]
        train, _, _ = read_cifar(tmp_path / "root", name)
        np.testing.assert_array_equal(train.y, arrays["train_y"])
        assert host.ranges == [None, "bytes=1000-"]
        host.files[archive] = content + b"\0"
        with pytest.raises(OSError, match="expected a file with md5"):
            read_cifar(tmp_path / "other", name)

    def test_arrays_are_read(self, npz, arrays):
        train, test, _ = read_cifar(npz)
        np.testing.assert_array_equal(train.x, np.moveaxis(arrays["train_x"], 3, 1))
        np.testing.assert_array_equal(test.y, arrays["test_y"])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"train_y": None}, "expected an array `train_y`, got none"),
            ({"train_x": np.zeros((50, 28, 28, 3), np.uint8)}, r"\[M, 32, 32, 3\].*50, 28, 28, 3"),
            ({"train_x": np.zeros((50, 3, 32, 32), np.uint8)}, r"\[M, 32, 32, 3\].*50, 3, 32, 32"),
            ({"train_x": np.zeros((50, 32, 32), np.uint8)}, r"got uint8 of shape \[50, 32, 32\]"),
            ({"train_x": np.zeros((50, 32, 32, 3))}, "uint8, got float64"),
            ({"train_x": np.zeros((0, 32, 32, 3), np.uint8)}, r"got uint8 of shape \[0, 32"),
            ({"train_y": np.full(50, 10)}, "labels `train_y` from 0 to 9, got 10 to 10"),
            ({"train_y": np.zeros(49, int)}, r"numbers `train_y` of shape \[50\], got int64 of"),
            ({"train_y": np.zeros(50)}, "whole numbers `train_y` .* got float64"),
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, npz, arrays, changes, message):
        content = {
            name: array for name, array in {**arrays, **changes}.items() if array is not None
        }
        np.savez(npz, **content)
        with pytest.raises(ValueError, match=f"images.npz: .*{message}"):
            read_cifar(npz)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "a dict of b'data' and b'labels' as in CIFAR-10, got other data"),
            ({b"data": b"abc", b"labels": [1]}, r"shape \[M, 3072\], got bytes"),
            ({b"data": np.zeros((1, 9), np.uint8), b"labels": [1]}, r"3072\], got \[1, 9\]"),
            ({b"data": np.zeros((1, 3072), np.uint8), b"labels": 1}, "a list b'labels' of whole"),
            ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [True]}, "a list b'labels' of"),
            ({b"data": np.zeros((1, 3072), np.uint8), b"labels": []}, r"`labels` of shape \[1\]"),
            ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [2**99]}, "got object"),
        ],
        ids=["list", "bytes", "pixels", "label", "bool", "empty", "huge"],
    )
    def test_pickles_of_other_content_are_refused(self, tmp_path, content, message):
        (tmp_path / "test_batch").write_bytes(pickle.dumps(content, 2))
        with pytest.raises(ValueError, match=f"test_batch: expected .*{message}"):
            read_cifar_file(tmp_path / "test_batch", "cifar10")

    def test_without_a_download_one_is_told_what_to_put_where(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="cifar-10-binary.tar.gz .from https://www.cs"):
            read_cifar(tmp_path, fetch=False)


class TestGray:
    def test_is_the_brightness_as_pillow_rounds_it(self, arrays):
        image = pytest.importorskip("PIL.Image", reason="Pillow is missing")
        x = arrays["train_x"]
        gray = to_gray(Signals(np.moveaxis(x, 3, 1), arrays["train_y"], scale=0.5))
        assert gray.scale == 0.5
        for found, colours in zip(gray.x, x, strict=True):
            expected = image.fromarray(colours).convert("L")
            np.testing.assert_array_equal(found[0], np.asarray(expected))

    def test_white_stays_white(self):
        white = Signals(np.full((1, 3, 2, 2), 255, np.uint8), np.zeros(1, np.int64))
        assert (to_gray(white).x == 255).all()


def module(root, **options) -> CIFARDataModule:
    data = CIFARDataModule(root=root, batch_size=4, **options)
    data.setup()
    return data


class TestDataModule:
    def test_gives_normalized_images(self, npz, arrays):
        data = module(npz)
        assert (data.size, data.dim, data.num_features, data.num_classes) == ((32, 32), 2, 3, 10)
        assert data.split_sizes == {"train": 40, "val": 10, "test": 20}
        pixel = torch.from_numpy(arrays["test_x"][7, 3, 5] / 255)
        mean, deviation = [0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]
        expected = (pixel - torch.tensor(mean)) / torch.tensor(deviation)
        sample = data.test_dataset[7]
        assert sample.x.shape == (1, 3, 32, 32)
        torch.testing.assert_close(sample.x[0, :, 3, 5], expected.float())
        assert sample.y.tolist() == [7]

    def test_or_brightness_from_0_to_1(self, npz, arrays):
        x = module(npz, normalize=False).test_dataset[0].x[0]
        torch.testing.assert_close(x.permute(1, 2, 0), torch.from_numpy(arrays["test_x"][0]) / 255)

    def test_cifar_100_has_its_own_statistics(self, npz, arrays):
        data = module(npz, name="cifar100")
        assert data.num_classes == 100
        pixel = arrays["test_x"][0, 0, 0, 0] / 255
        assert float(data.test_dataset[0].x[0, 0, 0, 0]) == pytest.approx((pixel - 0.5071) / 0.2675)

    def test_sequences_are_the_pixels_row_by_row(self, npz):
        data = module(npz, form="sequential")
        assert (data.size, data.dim, data.num_features) == ((1024,), 1, 3)
        image = module(npz).test_dataset[0].x
        assert torch.equal(data.test_dataset[0].x, image.reshape(1, 3, 1024))
        assert data.test_dataset[0].x[0, 1, 33] == image[0, 1, 1, 1]

    def test_gray_ones_have_one_channel_and_the_statistics_of_the_arena(self, npz, arrays):
        data = module(npz, gray=True, form="sequential")
        assert (data.size, data.num_features) == ((1024,), 1)
        red, green, blue = arrays["test_x"][0, 0, 0].astype(float)
        gray = round(0.299 * red + 0.587 * green + 0.114 * blue)
        assert float(data.test_dataset[0].x[0, 0, 0]) == pytest.approx((gray - 122.6) / 61)

    @pytest.mark.parametrize("form", ["image", "sequential"])
    def test_only_training_images_are_augmented_and_only_on_request(self, npz, form):
        plain, augmented = module(npz, form=form), module(npz, form=form, augment=True)
        assert augmented.size == plain.size
        for split, same in (("val", True), ("test", True), ("train", False)):
            pairs = zip(
                getattr(plain, f"{split}_dataset"),
                getattr(augmented, f"{split}_dataset"),
                strict=True,
            )
            assert all(torch.equal(a.x, b.x) for a, b in pairs) == same

    def test_augmented_images_are_crops_after_symmetric_padding_mirrored_or_not(self, npz, arrays):
        data = module(npz, augment=True, normalize=False)
        image = data.train_dataset.signals.x[0] / np.float32(255)
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4)), mode="symmetric")
        seen = set()
        for epoch in range(40):
            x = data.train_dataset[epoch, 0].x[0].numpy()
            found = {
                (row, column, flip)
                for row in range(9)
                for column in range(9)
                for flip in (1, -1)
                if np.allclose(padded[:, row : row + 32, column : column + 32][..., ::flip], x)
            }
            assert len(found) == 1
            seen |= found
        rows, columns, flips = map(set, zip(*seen, strict=True))
        assert rows == columns == set(range(9))
        assert flips == {1, -1}

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"name": "cifar20"}, "`name` to be one of .*, got 'cifar20'"),
         ({"form": "cloud"}, "`form` to be one of .*, got 'cloud'")],
    )  # fmt: skip
    def test_refuses_arguments_out_of_range(self, options, message):
        with pytest.raises(ValueError, match=message):
            CIFARDataModule(**options)


class TestRealFiles:
    @pytest.fixture
    def original(self, shared_data):
        return shared_data / "original"

    def test_of_both_official_forms_hold_the_same_first_images(self, original):
        parts = [
            read_cifar_file(original / "cifar-10-batches-bin" / "data_batch_1.bin", "cifar10"),
            read_cifar_file(original / "cifar-10-batches-py" / "data_batch_1", "cifar10"),
        ]
        reference, _, classes = read_cifar(original.parent / "cifar10_png.npz")
        for part in parts:
            assert part.y[:20].tolist() == [
                6,
                9,
                9,
                4,
                1,
                1,
                2,
                7,
                8,
                3,
                4,
                7,
                7,
                2,
                9,
                9,
                9,
                3,
                2,
                6,
            ]
            np.testing.assert_array_equal(part.x, reference.x[:300])
            np.testing.assert_array_equal(part.y, reference.y[:300])
        names = (original / "cifar-10-batches-bin" / "batches.meta.txt").read_text().split()
        assert classes == names

    def test_images_are_not_mirrored_or_rotated(self, original):
        image = pytest.importorskip("PIL.Image", reason="Pillow is missing")
        _, test, classes = read_cifar(original.parent / "cifar10_jpg.npz")
        count = 0
        for path in sorted((original / "cifar10_images" / "test").rglob("*.jpg")):
            pixels = np.asarray(image.open(path)).transpose(2, 0, 1)
            matches = np.flatnonzero((test.x == pixels).all(axis=(1, 2, 3)))
            count += len(matches)
            assert all(classes[test.y[match]] == path.parent.name for match in matches)
        assert count > 0

    def test_statistics_fit_the_images(self, shared_data):
        data = module(shared_data / "cifar10_png.npz")
        assert data.split_sizes == {"train": 2700, "val": 300, "test": 750}
        x = torch.cat([data.train_dataset[index].x for index in range(500)])
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=0.1, rtol=0)
        torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=0.1, rtol=0)
