"""Texts of different lengths as sequences of symbols, and as signals of one length."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..dataset import Signals

__all__ = ["Padding", "Texts", "Vocabulary", "join_texts", "pad_texts"]

Padding = Literal["left", "mask"]

# Token numbers that no character has.
_PADDING = 0
_UNKNOWN = 1


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

    @classmethod
    def of(cls, texts: Iterable[bytes], labels: Iterable[int]) -> "Texts":
        """Put texts end to end.

        Args:
            texts: The texts, or the texts of all pairs one after the other.
            labels: Class index of each text or pair.
        """
        content = list(texts)
        offsets = np.concatenate([[0], np.cumsum([len(text) for text in content], dtype=np.int64)])
        symbols = np.frombuffer(b"".join(content), np.uint8)
        return cls(symbols, offsets, np.array(list(labels), np.int64))

    def __len__(self) -> int:
        """Return the number of samples, which are texts or pairs of texts."""
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return the symbols of one text."""
        return self.symbols[self.offsets[index] : self.offsets[index + 1]]

    @property
    def pairs(self) -> bool:
        """True if samples are pairs of texts."""
        return len(self.offsets) - 1 == 2 * len(self.labels) > 0

    @property
    def longest(self) -> int:
        """Largest number of symbols of a text."""
        return int(np.diff(self.offsets).max(initial=0))


def join_texts(first: Texts, second: Texts) -> Texts:
    """Return the samples of both, the first one's before the second one's."""
    return Texts(
        np.concatenate([first.symbols, second.symbols]),
        np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        np.concatenate([first.labels, second.labels]),
    )


@dataclass(frozen=True)
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

    @property
    def tokens(self) -> list[str]:
        """Names of the tokens by number; characters that cannot be printed are written out."""
        return ["<pad>", "<unknown>", *(ascii(chr(byte))[1:-1] for byte in self.characters)]

    def encode(self, texts: Texts) -> Texts:
        """Return texts of token numbers."""
        table = np.full(256, _UNKNOWN, np.min_scalar_type(_UNKNOWN + len(self.characters)))
        table[list(self.characters)] = _UNKNOWN + 1 + np.arange(len(self.characters))
        return replace(texts, symbols=table[texts.symbols])


def pad_texts(texts: Texts, length: int, *, padding: Padding, num_embeddings: int) -> Signals:
    """Return texts of token numbers as signals of one length; longer ones lose their end.

    Args:
        texts: M texts or pairs of texts.
        length: Length of the signals, L.
        padding: `"left"` puts padding, token 0, before the text. `"mask"` puts it behind, and the
            signals have a `length`; a text without symbols is one padding token then.
        num_embeddings: Number of tokens.

    Returns:
        Signals of tokens, `[M, 1, L]`, for pairs `[M, 2, L]`.
    """
    sizes = np.minimum(np.diff(texts.offsets), length)
    x = np.full((len(sizes), length), _PADDING, texts.symbols.dtype)
    for index, (row, size) in enumerate(zip(x, sizes, strict=True)):
        start = length - size if padding == "left" else 0
        row[start : start + size] = texts[index][:size]
    lengths = None
    if padding == "mask":
        lengths = np.maximum(sizes, 1).reshape((-1, 2) if texts.pairs else -1)
    return Signals(
        x.reshape(len(texts), -1, length) if len(texts) else x[:, None],
        texts.labels,
        lengths,
        num_embeddings=num_embeddings,
        pairs=texts.pairs,
    )
