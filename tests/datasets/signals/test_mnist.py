"""Handwritten digits: the files they come from, and the forms in which a network sees them."""

import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.datasets import MNISTDataModule  # noqa: E402
from ccnn_geo.datasets.signals import mnist as mnist_module  # noqa: E402
from ccnn_geo.datasets.signals.mnist import read_digits, read_idx, read_mnist  # noqa: E402

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


def idx(array: np.ndarray) -> bytes:
    """The array as an idx file, written byte by byte as the format is described."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Twenty training and ten test digits of 6 x 5 pixels."""
    generator = np.random.default_rng(0)
    content = {}
    for split, count in (("train", 20), ("test", 10)):
        lit = generator.random((count, 6, 5)) < 0.5
        content[f"{split}_x"] = (generator.integers(1, 256, lit.shape) * lit).astype(np.uint8)
        content[f"{split}_y"] = (np.arange(count) % 10).astype(np.uint8)
    return content


@pytest.fixture
def files(arrays) -> dict[str, bytes]:
    """The same as the four official files."""
    names = {"train": "train", "test": "t10k"}
    content = {}
    for split, name in names.items():
        content[f"{name}-images-idx3-ubyte.gz"] = gzip.compress(idx(arrays[f"{split}_x"]))
        content[f"{name}-labels-idx1-ubyte.gz"] = gzip.compress(idx(arrays[f"{split}_y"]))
    return content


@pytest.fixture
def folder(files, tmp_path):
    root = tmp_path / "mnist"
    root.mkdir()
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def npz(arrays, tmp_path):
    path = tmp_path / "digits.npz"
    np.savez_compressed(path, **arrays)
    return path


def module(root, **options) -> MNISTDataModule:
    data = MNISTDataModule("mnist", root, batch_size=4, **options)
    data.setup()
    return data


class TestFiles:
    def test_official_ones_hold_the_same_as_arrays(self, folder, npz, arrays):
        for root in (folder, npz):
            for split, signals in zip(("train", "test"), read_mnist(root), strict=True):
                assert np.array_equal(signals.x[:, 0], arrays[f"{split}_x"])
                assert np.array_equal(signals.y, arrays[f"{split}_y"])

    def test_official_ones_may_be_uncompressed(self, folder, files, arrays):
        for name, content in files.items():
            (folder / name).unlink()
            (folder / name).with_suffix("").write_bytes(gzip.decompress(content))
        train, _ = read_mnist(folder, fetch=False)
        assert np.array_equal(train.x[:, 0], arrays["train_x"])

    def test_embedded_digits_are_ten_classes_of_8_x_8(self):
        train, test = read_digits()
        assert train.x.shape == (1437, 1, 8, 8)
        assert test.x.shape == (360, 1, 8, 8)
        for signals in (train, test):
            assert signals.x.max() * signals.scale == 1
            assert np.bincount(signals.y).min() >= 33

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda c: c[:-9], "expected a valid gzip file .*delete it and download it again"),
            (lambda c: b"<html>" + c, "expected a valid gzip file"),
            (lambda c: c[:20] + bytes([c[20] ^ 255]) + c[21:], "expected a valid gzip file"),
            (lambda c: gzip.compress(b""), "begins with 00 00 08, got nothing"),
            (lambda c: gzip.compress(b"\0\0\x0d\3" + bytes(20)), "got 00 00 0d"),
            (lambda c: gzip.compress(b"\0\0\x08\3" + bytes(5)), "16 bytes of header, got 9"),
            (
                lambda c: gzip.compress(gzip.decompress(c)[:-1]),
                r"600 bytes for .*20, 6, 5.*got 599",
            ),
            (lambda c: gzip.compress(gzip.decompress(c) + b"\0"), "600 bytes .* got 601"),
            (lambda c: gzip.compress(idx(np.zeros((3, 4)))), r"images `train_x` .* shape \[3, 4\]"),
        ],
    )
    def test_broken_images_are_named(self, folder, files, spoil, message):
        (folder / IMAGES).write_bytes(spoil(files[IMAGES]))
        with pytest.raises(ValueError, match=f"(?s){folder.name}.*{message}"):
            read_mnist(folder)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.zeros(19), r"numbers `train_y` of shape \[20\], got uint8 of shape \[19\]"),
            (np.full(20, 10), r"labels `train_y` from 0 to 9, got 10 to 10"),
            (np.zeros((20, 2)), r"got uint8 of shape \[20, 2\]"),
        ],
    )
    def test_labels_that_do_not_fit_are_refused(self, folder, labels, message):
        (folder / LABELS).write_bytes(gzip.compress(idx(labels)))
        with pytest.raises(ValueError, match=message):
            read_mnist(folder)

    def test_broken_arrays_are_named(self, npz, arrays):
        content = npz.read_bytes()
        npz.write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="expected an .npz file of plain arrays"):
            read_mnist(npz)
        flipped = bytearray(content)
        flipped[len(content) // 4] ^= 255
        npz.write_bytes(flipped)
        with pytest.raises(ValueError, match="expected a plain array `train_x`"):
            read_mnist(npz)
        del arrays["test_y"]
        np.savez(npz, **arrays)
        with pytest.raises(ValueError, match="expected an array `test_y`, got none"):
            read_mnist(npz)
        np.savez(npz, **{**arrays, "train_x": arrays["train_x"] / 255, "test_y": np.arange(10)})
        with pytest.raises(ValueError, match="images `train_x` of shape .*, uint8, got float64"):
            read_mnist(npz)
        for digit in (-1, 10):
            np.savez(npz, **{**arrays, "test_y": np.full(len(arrays["test_x"]), digit)})
            with pytest.raises(
                ValueError, match=f"labels `test_y` from 0 to 9, got {digit} to {digit}"
            ):
                read_mnist(npz)

    def test_an_idx_file_of_any_shape_is_read(self, tmp_path):
        array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
        (tmp_path / "a").write_bytes(idx(array))
        assert np.array_equal(read_idx(tmp_path / "a"), array)


class TestDownload:
    @pytest.fixture
    def mirrors(self, host, files, monkeypatch):
        host.files |= {f"mnist/{name}": content for name, content in files.items()}
        urls = (f"{host.url}/nothing", f"{host.url}/mnist")
        monkeypatch.setattr(mnist_module, "_MIRRORS", urls)
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        monkeypatch.setattr(mnist_module, "_SHA256", sums)
        return host

    def test_fetches_what_is_missing_and_nothing_else(self, mirrors, folder, files, arrays):
        (folder / IMAGES).unlink()
        train, _ = read_mnist(folder)
        assert np.array_equal(train.x[:, 0], arrays["train_x"])
        assert len(mirrors.ranges) == 2  # one for each mirror
        read_mnist(folder)
        assert len(mirrors.ranges) == 2

    def test_goes_on_after_a_broken_connection(self, mirrors, tmp_path, arrays):
        mirrors.break_after = [100]
        train, test = read_mnist(tmp_path / "new")
        assert np.array_equal(train.x[:, 0], arrays["train_x"])
        assert np.array_equal(test.y, arrays["test_y"])
        assert "bytes=100-" in mirrors.ranges

    def test_refuses_a_wrong_checksum(self, mirrors, tmp_path, files):
        mirrors.files[f"mnist/{LABELS}"] = files[IMAGES]
        with pytest.raises(OSError, match=f"(?s){LABELS}.*expected a file with sha256"):
            read_mnist(tmp_path)
        assert not (tmp_path / LABELS).exists()

    def test_can_be_switched_off(self, mirrors, tmp_path):
        data = MNISTDataModule("mnist", tmp_path, download=False)
        with pytest.raises(FileNotFoundError, match=f"Expected {IMAGES} in .*got no such file"):
            data.setup()
        assert mirrors.ranges == []


class TestForms:
    def test_have_their_shapes(self, npz):
        shapes = {
            "image": ([4, 1, 6, 5], 2, (6, 5)),
            "masked": ([4, 1, 6, 5], 2, (6, 5)),
            "sequential": ([4, 1, 30], 1, (30,)),
            "permuted": ([4, 1, 30], 1, (30,)),
        }
        for form, (shape, dim, size) in shapes.items():
            data = module(npz, form=form)
            batch = next(iter(data.test_dataloader()))
            assert list(batch.x.shape) == shape
            assert (data.num_features, data.dim, data.size) == (1, dim, size)
            assert (data.num_classes, batch.num_graphs, batch.pos) == (10, 4, None)

    def test_image_has_brightness_from_0_to_1(self, npz, arrays):
        x = torch.cat([batch.x for batch in module(npz).test_dataloader()])
        assert torch.allclose(x[:, 0], torch.from_numpy(arrays["test_x"]) / 255)

    def test_sequences_are_rows_of_the_image_and_a_permutation_of_them(self, npz):
        image, rows, permuted, other = (
            next(iter(module(npz, **options).test_dataloader())).x
            for options in (
                {},
                {"form": "sequential"},
                {"form": "permuted", "seed": 5},
                {"form": "permuted", "permutation_seed": 1},
            )
        )
        assert torch.equal(rows, image.flatten(2))
        order = np.random.default_rng(0).permutation(30)
        assert torch.equal(permuted, rows[..., order])
        assert not torch.equal(other, permuted)

    def test_cloud_has_the_lit_pixels_of_the_image(self, npz):
        data = module(npz, form="cloud")
        cloud, image = (
            next(iter(each.test_dataloader())) for each in (data, module(npz, form="masked"))
        )
        assert (data.num_features, data.dim, data.size) == (1, 2, (6, 5))
        assert cloud.num_graphs == 4
        assert len(cloud.pos) == int(image.mask.sum())
        rows, columns = cloud.pos.long().unbind(1)
        assert torch.equal(image.x[cloud.batch, 0, rows, columns], cloud.x[:, 0])
        assert float(cloud.x.min()) > 0

    def test_training_images_alone_are_shifted(self, npz):
        plain, shifted = module(npz), module(npz, max_shift=1)
        assert torch.equal(plain.test_dataset[0].x, shifted.test_dataset[0].x)
        assert torch.equal(plain.val_dataset[0].x, shifted.val_dataset[0].x)
        assert torch.equal(plain.train_dataset[0, 0].x, plain.train_dataset[1, 0].x)
        moved = [shifted.train_dataset[epoch, 0].x for epoch in range(4)]
        assert any(not torch.equal(moved[0], each) for each in moved[1:])
        assert torch.equal(shifted.train_dataset[0, 0].x, moved[0])

    def test_need_no_file_for_the_embedded_digits(self):
        data = MNISTDataModule("digits")
        data.setup()
        assert data.split_sizes == {"train": 1295, "val": 142, "test": 360}
        assert (data.size, data.class_names) == ((8, 8), list("0123456789"))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"name": "cifar"}, r"`name` to be one of \('digits', 'mnist'\), got 'cifar'"),
            ({"form": "voxels"}, "Expected `form` to be one of"),
            ({"max_shift": -1}, "Expected `max_shift` >= 0, got -1"),
            ({"batch_size": 0}, "Expected `batch_size` >= 1"),
        ],
    )
    def test_bad_arguments_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            MNISTDataModule(**options)


def test_reads_the_real_digits(shared_data):
    train, test = read_mnist(shared_data / "mnist_10k.npz")
    assert train.x.shape == (7000, 1, 28, 28)
    assert test.x.shape == (1500, 1, 28, 28)
    assert np.bincount(test.y, minlength=10).min() > 100
