"""The eight tasks as batches: from official files, from arrays, and generated."""

import shutil
import tarfile

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo import CCNN  # noqa: E402
from ccnn_geo.datasets import LRADataModule  # noqa: E402
from ccnn_geo.datasets.signals.lra import datamodule, pathfinder_files  # noqa: E402
from ccnn_geo.datasets.signals.lra.listops import LISTOPS_TOKENS  # noqa: E402
from ccnn_geo.training import CCNNClassifier  # noqa: E402
from lra_helpers import put_expressions, put_pairs, put_paths, put_reviews, value  # noqa: E402


def module(name: str, root, **options) -> LRADataModule:
    data = LRADataModule(name, root, batch_size=4, num_processes=1, **options)
    data.setup()
    return data


def put_cifar(root):
    """Makes an .npz file of CIFAR-10, of ten training and ten test images."""
    x = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3)).astype(np.uint8)
    y = np.arange(10) % 5
    np.savez(root / "cifar.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    return root / "cifar.npz"


@pytest.fixture
def roots(tmp_path):
    """Official files of every task, small ones."""
    put_expressions(tmp_path / "listops-1000")
    put_pairs(tmp_path / "tsv_data")
    put_reviews(tmp_path / "aclImdb")
    put_paths(tmp_path / "pathfinder32/curv_contour_length_14")
    put_paths(tmp_path / "pathfinder128/curv_contour_length_14", count=20, resolution=128)
    put_paths(tmp_path / "pathfinder64/curv_baseline", count=20, resolution=64)
    paths = dict.fromkeys(
        ("listops", "retrieval", "text", "pathfinder", "pathfinder_2d", "pathx"), tmp_path
    )
    return {**paths, **dict.fromkeys(("image", "image_2d"), put_cifar(tmp_path))}


class TestOfficialFiles:
    @pytest.mark.parametrize(
        ("name", "sizes", "size", "classes"),
        [
            ("listops", (20, 6, 7), (64,), 10),
            ("text", (18, 2, 6), (64,), 2),
            ("retrieval", (40, 3, 2), (64,), 2),
            ("image", (5, 5, 10), (1024,), 10),
            ("image_2d", (5, 5, 10), (32, 32), 10),
            ("pathfinder", (32, 4, 4), (1024,), 2),
            ("pathfinder_2d", (32, 4, 4), (32, 32), 2),
            ("pathx", (16, 2, 2), (16384,), 2),
        ],
    )
    def test_of_every_task_become_batches_for_a_network(self, roots, name, sizes, size, classes):
        data = module(name, roots[name], download=False)
        assert data.split_sizes == dict(zip(("train", "val", "test"), sizes, strict=True))
        assert (data.size, data.dim, data.num_features) == (size, len(size), 1)
        assert len(set(data.class_names)) == data.num_classes == classes
        texts = name in ("listops", "text", "retrieval")
        assert data.pairs == (name == "retrieval")
        assert data.num_embeddings == (len(data.tokens) if texts else None)
        batch = next(iter(data.test_dataloader()))
        count = batch.num_graphs
        assert batch.x.shape == (count * (1 + data.pairs), 1, *size)
        assert batch.x.dtype == (torch.int64 if texts else torch.float32)
        network = CCNN.for_grid(
            1, classes, size=size, hidden_channels=4, num_blocks=1, kernel_channels=4,
            num_embeddings=data.num_embeddings, pairs=data.pairs,
        )  # fmt: skip
        assert CCNNClassifier(network)(batch).shape == (count, classes)

    def test_a_level_and_a_resolution_choose_the_folder(self, roots):
        data = module("pathfinder_2d", roots["pathfinder"], contour_length=6, resolution=64)
        assert data.size == (64, 64)
        with pytest.raises(FileNotFoundError, match="pathfinder32/curv_contour_length_9 with them"):
            module("pathfinder", roots["pathfinder"], contour_length=9)

    def test_are_extracted_from_the_archive_as_far_as_needed(self, roots, tmp_path):
        root = tmp_path / "only"
        root.mkdir()
        with tarfile.open(root / "lra_release.gz", "w:gz") as file:
            for name in ("listops-1000", "pathfinder32"):
                file.add(tmp_path / name, f"lra_release/lra_release/{name}")
        assert module("listops", root).split_sizes["train"] == 20
        assert not list(root.rglob("*.png"))
        assert module("pathfinder", root).split_sizes["test"] == 4

    @pytest.mark.parametrize("name", ["listops", "pathfinder", "pathx", "retrieval"])
    def test_that_are_missing_are_named_and_what_can_be_done(self, tmp_path, name):
        hint = "and put it there" + ("$" if name == "retrieval" else ", or use `generate`=True")
        with pytest.raises(FileNotFoundError, match=rf"lra_release.gz \(8 GB\) {hint}"):
            module(name, tmp_path)

    def test_of_text_are_downloaded_if_wanted(self, roots, host, tmp_path, monkeypatch):
        with tarfile.open(tmp_path / "made.tar.gz", "w:gz") as file:
            put_reviews(tmp_path / "aclImdb" / "train" / "unsup")
            file.add(tmp_path / "aclImdb", "aclImdb")
        host.files["made.tar.gz"] = (tmp_path / "made.tar.gz").read_bytes()
        release = datamodule._REVIEWS
        monkeypatch.setattr(
            datamodule,
            "_REVIEWS",
            type(release)(
                release.archive,
                (f"{host.url}/made.tar.gz",),
                release.folders,
                release.content,
                unused=release.unused,
            ),
        )
        with pytest.raises(FileNotFoundError, match="aclImdb_v1.tar.gz"):
            module("text", tmp_path / "new", download=False)
        assert module("text", tmp_path / "new").split_sizes["test"] == 6
        assert not (tmp_path / "new" / "aclImdb" / "train" / "unsup").exists()

    def test_of_text_have_the_known_checksum(self):
        assert datamodule._REVIEWS.md5 == "7c2ac02c03563afcf9b574c7e56c153a"

    def test_need_pillow_for_pathfinder_alone(self, roots, monkeypatch):
        def missing(module, purpose, *, extra):
            raise ImportError(f"{module} {purpose}: {extra}")

        monkeypatch.setattr(pathfinder_files, "import_extra", missing)
        module("listops", roots["listops"])
        with pytest.raises(ImportError, match="PIL.Image to read images: train"):
            module("pathfinder", roots["pathfinder"])


class TestTexts:
    def test_expressions_keep_their_values(self, roots):
        data = module("listops", roots["listops"])
        assert data.tokens == [*LISTOPS_TOKENS]
        for dataset in (data.train_dataset, data.val_dataset, data.test_dataset):
            for sample in dataset:
                words = [LISTOPS_TOKENS[token] for token in sample.x.flatten() if token]
                assert value(words) == sample.y

    def test_official_validation_is_kept_whatever_is_used_for_training(self, roots):
        data = module("listops", roots["listops"], train_size=12, val_fraction=0.5, split_seed=3)
        assert data.split_sizes == {"train": 12, "val": 6, "test": 7}
        whole = module("listops", roots["listops"])
        assert np.array_equal(data.val_dataset.signals.x, whole.val_dataset.signals.x)

    def test_vocabulary_is_of_the_training_split(self, roots, tmp_path):
        data = module("text", roots["text"])
        # The reviews consist of few words, and the exclamation marks of the later ones.
        frequent = {"!", "<", "/", ">", "\\xe9", *"badgood filmr"}
        assert {*data.tokens[2:]} == {*frequent}
        path = tmp_path / "aclImdb" / "test" / "neg" / "0_7.txt"
        path.write_bytes(b"z" * 100)
        changed = module("text", roots["text"], split_seed=1)
        assert changed.tokens == data.tokens
        (unknown,) = set(changed.test_dataset[0].x.flatten().tolist()) - {0}
        assert data.tokens[unknown] == "<unknown>"

    def test_vocabulary_of_pairs_is_without_validation(self, roots, tmp_path):
        (tmp_path / "tsv_data" / "new_aan_pairs.eval.tsv").write_bytes(
            b"1\ta\tb\t" + b"z" * 50 + b"\tabc"
        )
        data = module("retrieval", roots["retrieval"])
        assert "a" in data.tokens
        assert "z" not in data.tokens

    @pytest.mark.parametrize("name", ["listops", "text", "retrieval"])
    def test_padding_may_be_masked(self, roots, name):
        left, masked = (module(name, roots[name], padding=each) for each in ("left", "mask"))
        for plain, sample in zip(left.test_dataset, masked.test_dataset, strict=True):
            assert "length" not in plain
            assert len(sample.length) == len(sample.x) == (2 if name == "retrieval" else 1)
            for row, other, length in zip(plain.x, sample.x, sample.length, strict=True):
                assert torch.equal(row[0, row.size(1) - length :], other[0, :length])
                assert not row[0, : row.size(1) - length].any()
                assert not other[0, length:].any()

    def test_length_follows_from_the_data_up_to_the_published_one(self, roots, tmp_path):
        assert module("text", roots["text"], sequence_length=8).size == (8,)
        path = tmp_path / "aclImdb" / "test" / "pos" / "0_7.txt"
        for length, expected in ((64, 64), (65, 128), (5000, 4096)):
            path.write_bytes(b"good" * length)
            path.write_bytes(path.read_bytes()[:length])
            assert module("text", roots["text"]).size == (expected,)
        assert module("text", roots["text"], sequence_length=5000).size == (5000,)


class TestImages:
    def test_brightness_is_normalized_as_published(self, roots, tmp_path):
        image = module("image_2d", roots["image"])
        row = module("image", roots["image"])
        with np.load(roots["image"]) as file:
            gray = file["test_x"] @ np.array([0.299, 0.587, 0.114])
        expected = torch.from_numpy((gray - 122.6) / 61).float()
        x = torch.stack([sample.x[0, 0] for sample in image.test_dataset])
        assert torch.allclose(x, expected, atol=0.51 / 61)
        assert torch.equal(row.test_dataset[3].x[0, 0], x[3].flatten())

    def test_paths_are_from_minus_1_to_1_row_by_row(self, roots):
        row, image = (module(name, roots[name]) for name in ("pathfinder", "pathfinder_2d"))
        for first, second in zip(row.train_dataset, image.train_dataset, strict=True):
            assert torch.equal(first.x[0, 0], second.x[0, 0].flatten())
            number = round(float((second.x[0, 0, 0, 0] + 1) / 2 * 255))
            assert number % 2 == second.y

    def test_caches_may_be_elsewhere(self, roots, tmp_path):
        module("pathfinder", roots["pathfinder"], cache_dir=tmp_path / "caches")
        assert list((tmp_path / "caches").rglob("images.npy"))
        assert not list((tmp_path / ".ccnn_geo").rglob("images.npy"))


class TestGenerated:
    OPTIONS = {"generate": True, "num_samples": 100}

    def test_expressions_are_in_three_splits(self, tmp_path):
        lengths = {"min_length": 4, "max_length": 40}
        data = module("listops", tmp_path, **self.OPTIONS, **lengths)
        assert data.split_sizes == {"train": 100, "val": 12, "test": 12}
        assert data.size == (64,)
        for sample in data.test_dataset:
            words = [LISTOPS_TOKENS[token] for token in sample.x.flatten() if token]
            assert value(words) == sample.y
        more = module("listops", tmp_path, generate=True, num_samples=110, **lengths)
        assert more.split_sizes == {"train": 110, "val": 13, "test": 13}
        assert np.array_equal(
            more.val_dataset.signals.x[:12, 0, -40:], data.val_dataset.signals.x[:, 0, -40:]
        )
        # The two streams of samples are different.
        assert not np.array_equal(data.test_dataset.signals.x, data.val_dataset.signals.x)
        other = module("listops", tmp_path, split_seed=1, **self.OPTIONS, **lengths)
        everything = [
            row.tobytes()
            for each in (data, other)
            for dataset in (each.train_dataset, each.test_dataset)
            for row in dataset.signals.x[:, :, -40:]
            if row[0, 20]
        ]
        assert len(set(everything)) > 0.95 * len(everything)

    @pytest.mark.parametrize(
        ("name", "size", "options"),
        [
            ("pathfinder", (1024,), {}),
            ("pathfinder_2d", (32, 32), {}),
            ("pathfinder_2d", (64, 64), {"resolution": 64}),
            ("pathx", (16384,), {}),
        ],
    )
    def test_paths_are_in_three_splits(self, tmp_path, name, size, options):
        data = module(name, tmp_path, contour_length=6, **self.OPTIONS, **options)
        assert data.split_sizes == {"train": 100, "val": 12, "test": 12}
        assert data.size == size
        x = data.train_dataset[0].x
        assert (x.min(), x.max()) == (-1, 1)
        # Nothing is copied from the cache.
        assert np.shares_memory(data.train_dataset.signals.x, data.val_dataset.signals.x.base)
        shutil.rmtree(tmp_path / ".ccnn_geo")

    def test_as_many_as_published_by_default_and_no_more_for_testing(self, tmp_path):
        assert LRADataModule("listops", generate=True).num_samples == 96_000
        assert LRADataModule("pathfinder", generate=True).num_samples == 160_000
        lengths = {"min_length": 4, "max_length": 12}
        data = module("listops", tmp_path, generate=True, num_samples=16_080, **lengths)
        assert data.split_sizes == {"train": 16_080, "val": 2000, "test": 2000}
        data = module("listops", tmp_path, generate=True, num_samples=3, **lengths)
        assert data.split_sizes == {"train": 3, "val": 1, "test": 1}


class TestArrays:
    def test_real_expressions(self, shared_data):
        data = module("listops", shared_data / "listops_lra.npz")
        assert data.split_sizes == {"train": 2400, "val": 300, "test": 675}
        assert data.size == (2048,)
        data = module("listops", shared_data / "listops_d20s.npz")
        assert data.split_sizes == {"train": 6299, "val": 701, "test": 2249}
        assert data.size == (960,)

    def test_real_reviews(self, shared_data):
        data = module("text", shared_data / "imdb.npz", sequence_length=1024)
        assert data.split_sizes == {"train": 3600, "val": 400, "test": 1500}
        assert 90 < data.num_embeddings < 140
        assert {"a", "Z", "<", "\\xe2"} <= set(data.tokens)
        rows = data.test_dataset.signals.x
        assert (rows[:, 0, -1] != 0).all()
        assert (rows == 1).mean() < 1e-3

    def test_real_images_and_paths(self, shared_data):
        data = module("image", shared_data / "cifar10_png.npz")
        assert data.split_sizes == {"train": 2700, "val": 300, "test": 750}
        data = module("pathfinder", shared_data / "pathfinder32_hard.npz")
        assert data.split_sizes == {"train": 1440, "val": 160, "test": 600}
        data = module("pathx", shared_data / "pathfinder128_easy.npz")
        assert data.size == (16384,)

    def test_of_another_task_are_refused(self, shared_data):
        for name, file, message in (
            ("listops", "pathfinder32_hard", "an array `train_text` and `train_offsets`"),
            ("pathfinder", "listops_lra", "an array `train_x` and `train_y`"),
            ("pathfinder", "pathfinder128_easy", r"of shape \[M, 32, 32\]"),
            ("image", "pathfinder32_hard", "expected images `train_x` of shape"),
            ("listops", "imdb", "imdb.npz: expected a digit, operator or bracket"),
            ("retrieval", "imdb", r"`train_offsets` of shape \[8001\], for 8000 parts"),
        ):
            with pytest.raises(ValueError, match=message):
                module(name, shared_data / f"{file}.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifar"}, "Expected `name` to be one of .*'listops', .* got 'cifar'"),
        ({"padding": "right"}, r"`padding` to be one of \('left', 'mask'\), got 'right'"),
        ({"num_samples": 0}, "Expected `num_samples` >= 1, got 0"),
        ({"sequence_length": 0}, "Expected `sequence_length` >= 1, got 0"),
        ({"contour_length": 7}, r"`contour_length` to be one of \[6, 9, 14\], got 7"),
        (
            {"name": "text", "generate": True},
            "`generate` for listops, pathfinder, pathx, pathfinder_2d only, got text",
        ),
        ({"generate": True, "root": "a.npz"}, "Expected a folder as `root` of .*, got a.npz"),
        ({"batch_size": 0}, "Expected `batch_size` >= 1"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        LRADataModule(**options)


def test_expressions_that_would_be_cut_are_not_generated(tmp_path):
    for options, limit in (({"max_length": 3000}, 2048), ({"sequence_length": 100}, 100)):
        with pytest.raises(ValueError, match=f"Expected `max_length` of at most {limit}, the len"):
            module("listops", tmp_path, generate=True, num_samples=8, **options)
