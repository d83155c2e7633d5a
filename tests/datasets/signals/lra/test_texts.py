"""Texts: vocabularies, and signals of one length."""

import numpy as np
import pytest

from ccnn_geo.datasets.signals.lra.texts import Texts, Vocabulary, join_texts, pad_texts

THREE = Texts.of([b"abcab", b"", b"za"], [0, 1, 1])


def test_lie_end_to_end():
    assert THREE.offsets.tolist() == [0, 5, 5, 7]
    assert [THREE[index].tobytes() for index in range(3)] == [b"abcab", b"", b"za"]
    assert (len(THREE), THREE.longest, THREE.pairs) == (3, 5, False)
    assert (len(Texts.of([], [])), Texts.of([], []).longest) == (0, 0)
    assert Texts.of([b"a", b"b"], [1]).pairs


def test_two_sets_are_joined_in_order():
    both = join_texts(THREE, Texts.of([b"new"], [3]))
    assert [both[index].tobytes() for index in range(4)] == [b"abcab", b"", b"za", b"new"]
    assert both.labels.tolist() == [0, 1, 1, 3]


def test_frequent_characters_have_numbers_and_all_others_share_one():
    vocabulary = Vocabulary.of(THREE, least_count=2)
    assert vocabulary.characters == b"ab"
    assert vocabulary.tokens == ["<pad>", "<unknown>", "a", "b"]
    assert vocabulary.encode(THREE).symbols.tolist() == [2, 3, 1, 2, 3, 1, 2]
    assert vocabulary.encode(Texts.of([b"\xff!"], [0])).symbols.tolist() == [1, 1]


def test_every_byte_may_have_a_number():
    everything = Texts.of([bytes(range(256))], [0])
    vocabulary = Vocabulary.of(everything, least_count=1)
    assert vocabulary.encode(everything).symbols.tolist() == list(range(2, 258))
    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == 258
    assert all(name.isprintable() for name in vocabulary.tokens)


@pytest.mark.parametrize(
    ("padding", "length", "expected", "lengths"),
    [
        ("left", 6, [[0, 97, 98, 99, 97, 98], [0] * 6, [0, 0, 0, 0, 122, 97]], None),
        ("left", 3, [[97, 98, 99], [0] * 3, [0, 122, 97]], None),
        ("mask", 6, [[97, 98, 99, 97, 98, 0], [0] * 6, [122, 97, 0, 0, 0, 0]], [5, 1, 2]),
        ("mask", 3, [[97, 98, 99], [0] * 3, [122, 97, 0]], [3, 1, 2]),
    ],
)
def test_are_padded_to_one_length(padding, length, expected, lengths):
    signals = pad_texts(THREE, length, padding=padding, num_embeddings=200)
    assert signals.x.tolist() == [[row] for row in expected]
    assert signals.y.tolist() == [0, 1, 1]
    assert (None if signals.length is None else signals.length.tolist()) == lengths
    assert (signals.num_embeddings, signals.pairs) == (200, False)
    assert signals.x.dtype == np.uint8


def test_pairs_are_two_channels():
    pairs = Texts.of([b"a", b"bc", b"def", b""], [1, 0])
    left = pad_texts(pairs, 2, padding="left", num_embeddings=200)
    assert left.x.tolist() == [[[0, 97], [98, 99]], [[100, 101], [0, 0]]]
    assert left.pairs
    masked = pad_texts(pairs, 2, padding="mask", num_embeddings=200)
    assert masked.x.tolist() == [[[97, 0], [98, 99]], [[100, 101], [0, 0]]]
    assert masked.length.tolist() == [[1, 2], [2, 1]]
    sample = masked.sample(0)
    assert (list(sample.x.shape), sample.length.tolist()) == ([2, 1, 2], [1, 2])
