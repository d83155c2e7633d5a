"""Files of ListOps, Text and Retrieval: tables, folders of texts, and arrays."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from ...io.npz import read_npz
from ...io.readers import visible_files
from ..ragged import check_ragged
from .listops import encode_expression
from .texts import Texts

__all__ = [
    "TextSplit",
    "read_expression_table",
    "read_pair_table",
    "read_review_folder",
    "read_text_arrays",
]

TextSplit = Literal["train", "val", "test"]

_SPLITS: tuple[TextSplit, ...] = ("train", "val", "test")
_DIGIT = re.compile(rb"\d")
_RELATED = {b"0": 0, b"0.0": 0, b"1": 1, b"1.0": 1}
_COLUMNS = ("Source", "Target")
_PAIR_COLUMNS = 5


def read_expression_table(path: Path) -> Texts:
    """Read expressions of ListOps, as numbers of `LISTOPS_TOKENS`.

    Args:
        path: A table with columns separated by tabs, whose first line names them. `Source` holds
            expressions, see `encode_expression`, and `Target` their values.

    Raises:
        ValueError: If a column is missing, or an expression or value is none; the message names the
            file and the line.
        OSError: If it cannot be read.
    """
    lines = _lines(path)
    header = [name.strip().decode(errors="replace") for name in next(lines, b"").split(b"\t")]
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise ValueError(
            f"{path}: expected columns {' and '.join(_COLUMNS)} in the first line, got {header}"
        )
    source, target = (header.index(name) for name in _COLUMNS)
    texts, labels = [], []
    for number, line in enumerate(lines, start=2):
        fields = line.split(b"\t")
        if len(fields) != len(header):
            raise ValueError(
                f"{path}, line {number}: expected {len(header)} columns, got {len(fields)}"
            )
        if _DIGIT.fullmatch(fields[target].strip()) is None:
            raise ValueError(
                f"{path}, line {number}: expected a value from 0 to 9, got {fields[target][:20]!r}"
            )
        try:
            texts.append(encode_expression(fields[source]))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        labels.append(int(fields[target]))
    return _checked(path, Texts.of(texts, labels))


def read_pair_table(path: Path, length: int) -> Texts:
    """Read pairs of texts of Retrieval, as bytes.

    Args:
        path: A table with columns separated by tabs and without a header: whether the texts belong
            together, 0 or 1, the names of both, and both texts.
        length: Number of bytes that are kept of each text.

    Raises:
        ValueError: If a line has other columns; the message names the file and the line.
        OSError: If it cannot be read.
    """
    texts, labels = [], []
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split(b"\t")
        if len(fields) != _PAIR_COLUMNS:
            raise ValueError(
                f"{path}, line {number}: expected {_PAIR_COLUMNS} columns, a label, two names and "
                f"two texts, got {len(fields)}"
            )
        if fields[0] not in _RELATED:
            raise ValueError(
                f"{path}, line {number}: expected a label 0 or 1, got {fields[0][:20]!r}"
            )
        texts += [text[:length] for text in fields[3:]]
        labels.append(_RELATED[fields[0]])
    return _checked(path, Texts.of(texts, labels))


def read_review_folder(folder: Path, length: int) -> Texts:
    """Read texts of two classes, as bytes, from the folders `neg` and `pos` of a folder.

    Args:
        folder: The folder of a split of aclImdb.
        length: Number of bytes that are kept of each text.

    Raises:
        ValueError: If a class has no text or a text is empty; the message names the folder or file.
        OSError: If a file cannot be read.
    """
    texts, labels = [], []
    for label, name in enumerate(("neg", "pos")):
        paths = visible_files(folder / name, {".txt"})
        if not paths:
            raise ValueError(f"{folder / name}: expected .txt files, got none")
        for path in paths:
            with open(path, "rb") as file:
                texts.append(file.read(length))
            if not texts[-1]:
                raise ValueError(f"{path}: expected a text, got an empty file")
            labels.append(label)
    return Texts.of(texts, labels)


def read_text_arrays(
    path: Path, num_classes: int, *, pairs: bool, encode: Callable[[bytes], bytes] | None = None
) -> dict[TextSplit, Texts]:
    """Read texts from an `.npz` file.

    Args:
        path: A file of bytes end to end, `train_text [T]`, uint8, where text i is
            `train_text[train_offsets[i]:train_offsets[i + 1]]` and has the label `train_label[i]`;
            in the same way `test_text` and so on, and optionally `val_text` and so on. Pairs are
            consecutive texts with one label.
        num_classes: Number of classes.
        pairs: If True, texts form pairs.
        encode: Returns the symbols of a text; the bytes themselves by default.

    Returns:
        The texts of each split that there is.

    Raises:
        ValueError: If the file is broken; the message names it.
        OSError: If it cannot be read.
    """
    names = {split: (f"{split}_text", f"{split}_offsets", f"{split}_label") for split in _SPLITS}
    arrays = read_npz(path, [*names["train"], *names["test"]], names["val"])
    splits: dict[TextSplit, Texts] = {}
    for split, parts in names.items():
        there = [name for name in parts if name in arrays]
        if there and len(there) < len(parts):
            raise ValueError(f"{path}: expected arrays {', '.join(parts)}, got {', '.join(there)}")
        if there:
            checked = check_ragged(
                path, arrays, parts, np.uint8, num_classes, per_label=2 if pairs else 1
            )
            texts = Texts(*checked)
            splits[split] = texts if encode is None else _encoded(path, texts, split, encode)
    return splits


def _encoded(path: Path, texts: Texts, split: str, encode: Callable[[bytes], bytes]) -> Texts:
    symbols = []
    for index in range(len(texts)):
        try:
            symbols.append(encode(texts[index].tobytes()))
        except ValueError as error:
            raise ValueError(f"{path}: {error}, in text {index} of `{split}_text`") from error
    return Texts.of(symbols, texts.labels)


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file without their ends, except for empty ones at its end."""
    empty = 0
    with open(path, "rb") as file:
        for line in file:
            content = line.rstrip(b"\r\n")
            if not content:
                empty += 1
                continue
            yield from [b""] * empty
            empty = 0
            yield content


def _checked(path: Path, texts: Texts) -> Texts:
    if len(texts) == 0:
        raise ValueError(f"{path}: expected at least one line of data, got none")
    return texts
