"""Mel-frequency cepstral coefficients of speech."""

import warnings

import numpy as np

from ccnn_geo.extras import import_extra

__all__ = ["mfcc"]

_WINDOW = 200
_HOP = 100
_MELS = 64
_COEFFICIENTS = 20
_FLOOR = 1e-6
_CLIPS_AT_A_TIME = 50  # bounds the memory of their spectrograms


def mfcc(signals: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return mel-frequency cepstral coefficients, 20 every 100 samples.

    They are those of `torchaudio.transforms.MFCC(n_mfcc=20, log_mels=True)` with a spectrogram of
    `n_fft=200`, `hop_length=100` and `n_mels=64`, with which the paper's results were obtained:
    power spectrograms with a periodic Hann window, of signals reflected at their ends; triangular
    filters on the HTK mel scale that are not normalized; the natural logarithm of mels + 1e-6; and
    the orthonormal cosine transform of type II. At 16 kHz, the lowest filters are narrower than the
    resolution of 80 Hz, and some are empty.

    Args:
        signals: Samples in [-1, 1], `[M, N]`, or 16-bit samples, of which 32,768 is 1.
        sample_rate: Number of samples per second.

    Returns:
        The coefficients, float32, `[M, 20, 1 + N // 100]`.

    Raises:
        ImportError: If librosa is missing.
    """
    features = import_extra("librosa", "for features of speech", extra="audio").feature
    scale = np.float32(1 / 2**15 if signals.dtype == np.int16 else 1)
    coefficients = np.empty(
        (len(signals), _COEFFICIENTS, 1 + signals.shape[1] // _HOP), dtype=np.float32
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Empty filters detected", UserWarning)
        for start in range(0, len(signals), _CLIPS_AT_A_TIME):
            part = slice(start, start + _CLIPS_AT_A_TIME)
            mels = features.melspectrogram(
                y=signals[part].astype(np.float32) * scale,
                sr=sample_rate,
                n_fft=_WINDOW,
                hop_length=_HOP,
                n_mels=_MELS,
                pad_mode="reflect",
                htk=True,
                norm=None,
            )
            coefficients[part] = features.mfcc(S=np.log(mels + _FLOOR), n_mfcc=_COEFFICIENTS)
    return coefficients
