"""Texts of different lengths as sequences of symbols, and as signals of one length."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..dataset import Signals

__all__ = ["PADDING", "UNKNOWN", "Padding", "Texts", "Vocabulary", "pad_texts"]

Padding = Literal["left", "mask"]

# Token numbers that no symbol has.
PADDING = 0
UNKNOWN = 1


@dataclass(frozen=True, eq=False)
class Texts:
    """Labelled texts, or pairs of texts, of different lengths.

    Attributes:
        symbols: Bytes or token numbers of all texts, end to end, `[T]`.
        offsets: Where texts begin, and where the last one ends: text i is
            `symbols[offsets[i]:offsets[i + 1]]`. `[M + 1]`, for pairs `[2 M + 1]`.
        labels: Class indices, `[M]`.
    """

    symbols: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of samples, which are texts or pairs of texts."""
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the symbols of one text."""
        return self.symbols[self.offsets[index] : self.offsets[index + 1]]

    @property
    def num_texts(self) -> int:
        """Number of texts."""
        return len(self.offsets) - 1

    def first(self, length: int) -> "Texts":
        """Return texts without what is beyond a number of symbols."""
        sizes = np.minimum(np.diff(self.offsets), length)
        kept = [self[index][:size] for index, size in enumerate(sizes)]
        symbols = np.concatenate([self.symbols[:0], *kept])
        return Texts(symbols, np.concatenate([[0], np.cumsum(sizes)]), self.labels)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Token numbers of bytes: 0 is padding, 1 stands for all bytes without a number of their own.

    Attributes:
        characters: The bytes that have numbers, from 2 on, in ascending order.
    """

    characters: bytes

    @classmethod
    def of(cls, texts: Texts, *, least_count: int) -> "Vocabulary":
        """Return the vocabulary of the bytes that occur a number of times.

        Args:
            texts: Texts of bytes.
            least_count: Least number of occurrences.
        """
        counts = np.bincount(texts.symbols, minlength=256)
        return cls(bytes(np.flatnonzero(counts >= least_count).tolist()))

    def __len__(self) -> int:
        """Return the number of tokens, padding and unknown included."""
        return UNKNOWN + 1 + len(self.characters)

    def encode(self, texts: Texts) -> Texts:
        """Return texts of token numbers."""
        table = np.full(256, UNKNOWN, np.min_scalar_type(len(self)))
        table[list(self.characters)] = np.arange(UNKNOWN + 1, len(self))
        return replace(texts, symbols=table[texts.symbols])


def pad_texts(
    texts: Texts, length: int, *, padding: Padding = "left", num_embeddings: int
) -> Signals:
    """Return texts of token numbers as signals of one length, cut off at its end.

    Args:
        texts: M texts or pairs of texts.
        length: Length of the signals, L.
        padding: `"left"` puts padding before the text. `"mask"` puts it behind, and signals have
            a `length`; a text without symbols then is one padding token.
        num_embeddings: Number of tokens.

    Returns:
        Signals of tokens, `[M, 1, L]`, for pairs `[M, 2, L]`.
    """
    x = np.full((texts.num_texts, length), PADDING, texts.symbols.dtype)
    sizes = np.minimum(np.diff(texts.offsets), length)
    for index, (row, size) in enumerate(zip(x, sizes, strict=True)):
        start = length - size if padding == "left" else 0
        row[start : start + size] = texts[index][:size]
    pairs = texts.num_texts != len(texts)
    shape = (len(texts), 2 if pairs else 1)
    lengths = None
    if padding == "mask":
        lengths = np.maximum(sizes, 1).reshape(shape if pairs else -1)
    return Signals(
        x.reshape(*shape, length),
        texts.labels,
        lengths,
        num_embeddings=num_embeddings,
        pairs=pairs,
    )
