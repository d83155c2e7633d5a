"""LightningDataModule of the tasks of the Long Range Arena."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch_geometric.transforms import BaseTransform

from ccnn_geo.transforms.grids import NormalizeChannels

from ...datamodule import check_choice
from ...epochs import Split
from ...io.releases import Release, find_release
from ..cifar import GRAY_STATISTICS, read_cifar, to_gray
from ..dataset import SignalDataModule, Signals
from .listops import LISTOPS_TOKENS, encode_expression, generate_listops
from .pathfinder import generate_pathfinder
from .pathfinder_files import read_pathfinder_arrays, read_pathfinder_folder
from .release import find_official
from .text_files import (
    TextSplit,
    read_expression_table,
    read_pair_table,
    read_review_folder,
    read_text_arrays,
)
from .texts import Padding, Texts, Vocabulary, join_texts, pad_texts

__all__ = ["LRADataModule", "LRAName"]

LRAName = Literal[
    "listops",
    "text",
    "retrieval",
    "image",
    "pathfinder",
    "pathx",
    "image_2d",
    "pathfinder_2d",
]
ContourLength = Literal[6, 9, 14]
Resolution = Literal[32, 64, 128, 256]

_REVIEWS = Release(
    "aclImdb_v1.tar.gz",
    ("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",),
    ("aclImdb",),
    ("train/neg/", "train/pos/", "test/neg/", "test/pos/"),
    md5="7c2ac02c03563afcf9b574c7e56c153a",
    unused=("unsup",),
)
_EXPRESSIONS: dict[TextSplit, str] = {
    "train": "basic_train.tsv",
    "val": "basic_val.tsv",
    "test": "basic_test.tsv",
}
_PAIRS: dict[TextSplit, str] = {
    "train": "new_aan_pairs.train.tsv",
    "val": "new_aan_pairs.eval.tsv",
    "test": "new_aan_pairs.test.tsv",
}
_CONTOURS = {6: "curv_baseline", 9: "curv_contour_length_9", 14: "curv_contour_length_14"}
# Characters that are rarer share a token.
_LEAST_COUNT = 15
# Mean and deviation of the brightness of Pathfinder, which become -1 to 1.
_PATHFINDER_STATISTICS = ([0.5], [0.5])
# Lengths of texts are multiples of it.
_LENGTH_STEP = 64
# Of generated samples, one for validation and one for testing for as many training samples.
_TRAIN_PER_TEST = 8


@dataclass(frozen=True)
class _Task:
    """What is particular to a task.

    Attributes:
        title: Its name in messages.
        classes: Names of the classes.
        length: Largest length of texts, or pixels along each side.
        samples: Training samples of the published data if samples can be generated, else 0.
        most_tests: Largest number of generated validation or test samples.
    """

    title: str
    classes: tuple[str, ...]
    length: int
    samples: int = 0
    most_tests: int = 0


_JOINED = ("separate", "joined")
_IMAGE = _Task("Image", (), 32)
_PATHFINDER = _Task("Pathfinder", _JOINED, 32, 160_000, 20_000)
_TASKS: dict[LRAName, _Task] = {
    "listops": _Task("ListOps", tuple("0123456789"), 2048, 96_000, 2000),
    "text": _Task("Text", ("negative", "positive"), 4096),
    "retrieval": _Task("Retrieval", ("unrelated", "related"), 4000),
    "image": _IMAGE,
    "pathfinder": _PATHFINDER,
    "pathx": _Task("Path-X", _JOINED, 128, 160_000, 20_000),
    "image_2d": _IMAGE,
    "pathfinder_2d": _PATHFINDER,
}


class LRADataModule(SignalDataModule):
    """The Long Range Arena (`Tay et al. 2021 <https://arxiv.org/abs/2011.04006>`_).

    The tasks are

    - `listops`: the value, 0 to 9, of an expression of operations on lists of digits, of up to
      2,048 tokens;
    - `text`: whether a review of a film is positive, by its characters, up to 4,096;
    - `retrieval`: whether two papers cite each other, by the characters of both, up to 4,000 each;
    - `image`: CIFAR-10 in gray, as 1,024 pixels row by row; `image_2d` as images;
    - `pathfinder`: whether a path joins two dots, in 1,024 pixels row by row; `pathfinder_2d` as
      images;
    - `pathx`: the same in 16,384 pixels.

    Texts are token numbers, see `SignalDataModule`, where 0 is padding; `tokens` gives their names.
    Characters are bytes. Those that occur at least 15 times in the training split, before any of it
    is held out, have a token of their own, and all others share one. The brightness of pixels is
    normalized.

    Samples of ListOps, Pathfinder and Path-X can be generated, see `generate_listops` and
    `generate_pathfinder`. All others are read from the first of these that exists:

    1. `root` itself if it is an `.npz` file; see `read_text_arrays`, where texts of ListOps are
       expressions, `read_pathfinder_arrays` and `read_cifar`;
    2. the official files in `root`, or the folder that has them in the official archive:
       `listops-1000`, `tsv_data` and `pathfinder32/curv_contour_length_14` of `lra_release.gz`,
       `aclImdb`, and those that `read_cifar` reads;
    3. the official archive in `root`, of which the folder is extracted;
    4. for Text and Image, the official archive from its host, which is downloaded to `root`.

    The validation split is the official one of ListOps and Retrieval. Of the images of Pathfinder,
    80 % are for training and 10 % each for validation and testing. Of all other data,
    `val_fraction` of the training split is held out.

    See `SignalDataModule` for batches and attributes.

    Args:
        name: The task.
        root: Folder of the data set, or an `.npz` file. By default `data/lra`, for Image
            `data/cifar10`, and for Text `data/imdb`.
        generate: If True, samples are generated, and cached in the folder.
        num_samples: Number of training samples to generate; by default as many as are published,
            96,000 and 160,000. There are an eighth as many for validation and for testing, at most
            2,000 of ListOps and 20,000 of Pathfinder.
        padding: `"left"` puts padding before a text, and networks process it like everything else.
            `"mask"` puts it behind, and networks ignore it.
        sequence_length: Length of padded texts; longer ones lose their end. By default the longest
            of the data, rounded up to a multiple of 64, but at most the published length.
        min_length: Least number of tokens of generated expressions.
        max_length: Largest number of tokens of generated expressions.
        contour_length: Dashes of the paths of Pathfinder and Path-X; fewer are easier.
        resolution: Pixels along each side of the images of Pathfinder and Path-X, 32 and 128 by
            default.
        batch_size: Number of samples per batch and process.
        download: If True, archives of Text and Image are downloaded if they are missing.
        cache_dir: Folder of the caches of generated samples and of pixels; by default `.ccnn_geo`
            in `root`.
        num_processes: Number of processes that generate samples or read images; one per processor
            by default.
        loading: Workers, seeds, validation split and size of the training split, see
            `SignalDataModule`; `split_seed` is also the seed of generated samples.

    Raises:
        ValueError: If an argument is out of range or a file is broken; the message names it.
        OSError: If the data are missing; the message describes the manual download.
        ImportError: If images of Pathfinder are to be read and Pillow is not installed.
    """

    def __init__(
        self,
        name: LRAName = "listops",
        root: Path | None = None,
        *,
        generate: bool = False,
        num_samples: int | None = None,
        padding: Padding = "left",
        sequence_length: int | None = None,
        min_length: int = 500,
        max_length: int = 2000,
        contour_length: ContourLength = 14,
        resolution: Resolution | None = None,
        batch_size: int = 50,
        download: bool = True,
        cache_dir: Path | None = None,
        num_processes: int | None = None,
        **loading: Any,
    ) -> None:
        check_choice("name", name, get_args(LRAName))
        check_choice("padding", padding, get_args(Padding))
        self._task = _TASKS[name]
        folder = {"text": "imdb", "image": "cifar10", "image_2d": "cifar10"}.get(name, "lra")
        super().__init__(
            Path("data") / folder if root is None else Path(root),
            batch_size=batch_size,
            **loading,
        )
        if generate and not self._task.samples:
            can = [each for each, task in _TASKS.items() if task.samples]
            raise ValueError(f"Expected `generate` for {', '.join(can)} only, got {name}")
        if generate and self.root.suffix == ".npz":
            raise ValueError(f"Expected a folder as `root` of generated samples, got {self.root}")
        for argument, number in (
            ("num_samples", num_samples),
            ("sequence_length", sequence_length),
        ):
            if number is not None and number < 1:
                raise ValueError(f"Expected `{argument}` >= 1, got {number}")
        if contour_length not in _CONTOURS:
            raise ValueError(
                f"Expected `contour_length` to be one of {[*_CONTOURS]}, got {contour_length}"
            )
        self.name: LRAName = name
        self.generate = generate
        self.num_samples = self._task.samples if num_samples is None else num_samples
        self.padding: Padding = padding
        self.sequence_length = sequence_length
        self.min_length = min_length
        self.max_length = max_length
        self.contour_length = contour_length
        self.resolution = self._task.length if resolution is None else resolution
        self.download = download
        self.cache_dir = self.root / ".ccnn_geo" if cache_dir is None else Path(cache_dir)
        self.num_processes = num_processes
        self._tokens: list[str] | None = None

    @property
    def tokens(self) -> list[str] | None:
        """Names of the tokens by number, or None if samples are images."""
        return self._tokens

    def read(self) -> tuple[Signals, Signals, Sequence[str]]:
        """Return training samples, test samples and class names; generate them if wanted."""
        match self.name:
            case "listops" | "text" | "retrieval":
                return self._read_texts()
            case "image" | "image_2d":
                train, test, classes = read_cifar(self.root, fetch=self.download)
                return self._shaped(to_gray(train)), self._shaped(to_gray(test)), classes
            case _:
                whole, test = self._read_paths()
                return self._shaped(whole), self._shaped(test), self._task.classes

    def transform(self, split: Split) -> BaseTransform | None:
        """Return the transform that normalizes the brightness of pixels, or None for texts."""
        match self.name:
            case "listops" | "text" | "retrieval":
                return None
            case "image" | "image_2d":
                return NormalizeChannels(*GRAY_STATISTICS)
            case _:
                return NormalizeChannels(*_PATHFINDER_STATISTICS)

    def _shaped(self, images: Signals) -> Signals:
        """Return images as sequences of pixels, unless the task is one in 2-D."""
        if self.name.endswith("_2d"):
            return images
        x = images.x.reshape(*images.x.shape[:2], math.prod(images.x.shape[2:]))
        return Signals(x, images.y, scale=images.scale)

    def _read_texts(self) -> tuple[Signals, Signals, Sequence[str]]:
        texts = self._find_texts()
        if self.name == "listops":
            self._tokens = [*LISTOPS_TOKENS]
        else:
            vocabulary = Vocabulary.of(texts["train"], least_count=_LEAST_COUNT)
            texts = {split: vocabulary.encode(each) for split, each in texts.items()}
            self._tokens = vocabulary.tokens
        train, test = texts["train"], texts["test"]
        if "val" in texts:
            self._validation = np.arange(len(texts["val"]) + len(train)) < len(texts["val"])
            train = join_texts(texts["val"], train)
        length = self.sequence_length
        if length is None:
            steps = math.ceil(max(train.longest, test.longest, 1) / _LENGTH_STEP)
            length = min(steps * _LENGTH_STEP, self._task.length)
        pad = partial(
            pad_texts, length=length, padding=self.padding, num_embeddings=len(self._tokens)
        )
        return pad(train), pad(test), self._task.classes

    def _find_texts(self) -> dict[TextSplit, Texts]:
        """Return expressions as token numbers, and all other texts as bytes."""
        length = max(self._task.length, self.sequence_length or 0)
        if self.generate:
            return self._generate_expressions()
        if self.root.suffix == ".npz":
            return read_text_arrays(
                self.root,
                len(self._task.classes),
                pairs=self.name == "retrieval",
                encode=encode_expression if self.name == "listops" else None,
            )
        if self.name == "listops":
            folder = self._official("listops-1000", [*_EXPRESSIONS.values()])
            return {
                split: read_expression_table(folder / name) for split, name in _EXPRESSIONS.items()
            }
        if self.name == "retrieval":
            folder = self._official("tsv_data", [*_PAIRS.values()])
            return {split: read_pair_table(folder / name, length) for split, name in _PAIRS.items()}
        _, folder = find_release(self.root, "aclImdb", [_REVIEWS], fetch=self.download)
        return {
            "train": read_review_folder(folder / "train", length),
            "test": read_review_folder(folder / "test", length),
        }

    def _read_paths(self) -> tuple[Signals, Signals]:
        if self.generate:
            return self._generate_paths()
        if self.root.suffix == ".npz":
            return read_pathfinder_arrays(self.root, self.resolution)
        name = _CONTOURS[self.contour_length]
        folder = self._official(f"pathfinder{self.resolution}/{name}", ["imgs", "metadata"])
        whole, self._validation, test = read_pathfinder_folder(
            folder, self.resolution, cache_dir=self.cache_dir, num_processes=self.num_processes
        )
        return whole, test

    def _official(self, folder: str, content: Sequence[str]) -> Path:
        instead = ", or use `generate`=True, which needs no download" if self._task.samples else ""
        return find_official(self.root, self._task.title, folder, content, instead=instead)

    def _generate_expressions(self) -> dict[TextSplit, Texts]:
        generate = partial(
            generate_listops,
            min_length=self.min_length,
            max_length=self.max_length,
            folder=self.cache_dir,
            num_processes=self.num_processes,
        )
        if self.max_length > (limit := self.sequence_length or self._task.length):
            raise ValueError(
                f"Expected `max_length` of at most {limit}, the length of padded expressions, got "
                f"{self.max_length}"
            )
        count = self._num_generated
        self._validation = np.arange(count + self.num_samples) < count
        return {
            "train": generate(count + self.num_samples, seed=2 * self.split_seed),
            "test": generate(count, seed=2 * self.split_seed + 1),
        }

    def _generate_paths(self) -> tuple[Signals, Signals]:
        generate = partial(
            generate_pathfinder,
            resolution=self.resolution,
            contour_length=self.contour_length,
            folder=self.cache_dir,
            num_processes=self.num_processes,
        )
        count = self._num_generated
        self._validation = np.arange(count + self.num_samples) < count
        return (
            generate(count + self.num_samples, seed=2 * self.split_seed),
            generate(count, seed=2 * self.split_seed + 1),
        )

    @property
    def _num_generated(self) -> int:
        """Number of generated samples for validation, and for testing."""
        return min(max(self.num_samples // _TRAIN_PER_TEST, 1), self._task.most_tests)
