"""Cepstral coefficients against the published formulas, written out with torch and NumPy."""

import math
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from ccnn_geo.datasets.signals.mfcc import mfcc

RATE = 16_000

needs_librosa = pytest.mark.skipif(
    find_spec("librosa") is None, reason="librosa, of the extra `audio`, is missing"
)


def expected(signals: np.ndarray) -> np.ndarray:
    """The coefficients of samples in [-1, 1], as torchaudio documents them, in float64."""
    spectrum = torch.stft(
        torch.from_numpy(signals).double(), 200, 100, window=torch.hann_window(200).double(),
        center=True, pad_mode="reflect", return_complex=True,
    ).abs() ** 2  # fmt: skip

    def mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    edges = 700 * (10 ** (np.linspace(0, mel(RATE / 2), 66) / 2595) - 1)
    bins = np.linspace(0, RATE / 2, 101)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    filters = np.maximum(np.minimum(rising, falling), 0)
    logarithms = np.log(filters @ spectrum.numpy() + 1e-6)
    steps = np.arange(64)
    cosines = np.cos(np.pi / 64 * np.arange(20)[:, None] * (steps + 0.5)) * math.sqrt(2 / 64)
    cosines[0] /= math.sqrt(2)
    return cosines @ logarithms


@needs_librosa
class TestCoefficients:
    def test_are_the_published_ones(self):
        generator = np.random.default_rng(0)
        signals = 0.1 * generator.standard_normal((3, 1640)).astype(np.float32)
        found = mfcc(signals, RATE)
        assert found.dtype == np.float32
        assert found.shape == (3, 20, 17)
        np.testing.assert_allclose(found, expected(signals), atol=2e-3)

    def test_of_a_second_are_161_vectors_of_20(self):
        assert mfcc(np.zeros((1, 16000), np.int16), RATE).shape == (1, 20, 161)

    def test_of_16_bit_samples_are_those_of_samples_in_minus_one_to_one(self):
        samples = np.random.default_rng(0).integers(-3000, 3000, (2, 800)).astype(np.int16)
        found = mfcc(samples, RATE)
        np.testing.assert_allclose(found, expected(samples / 32768), atol=2e-3)

    def test_of_silence_are_the_floor(self):
        found = mfcc(np.zeros((1, 400), np.int16), RATE)
        np.testing.assert_allclose(found[0, 0], 8 * math.log(1e-6), rtol=1e-5)
        np.testing.assert_allclose(found[0, 1:], 0, atol=1e-4)

    def test_do_not_depend_on_the_other_clips(self):
        signals = np.random.default_rng(0).standard_normal((120, 400)).astype(np.float32)
        together = mfcc(signals, RATE)
        for index in (0, 49, 50, 119):
            alone = mfcc(signals[index : index + 1], RATE)[0]
            np.testing.assert_allclose(together[index], alone, atol=1e-4)

    def test_of_real_speech_are_the_published_ones(self, shared_data):
        with np.load(shared_data / "speech_commands.npz") as arrays:
            clips = arrays["test_samples"][:48000].reshape(3, 16000)
        np.testing.assert_allclose(mfcc(clips, RATE), expected(clips / 32768), atol=5e-3)


def test_without_librosa_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(ImportError, match=r"Expected librosa for features of speech: .*geo\[audio"):
        mfcc(np.zeros((1, 400), np.int16), RATE)
