"""Speech Commands: one second of speech each, of which ten words are classified."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from torch_geometric.transforms import BaseTransform
from tqdm import tqdm

from ccnn_geo.transforms.grids import NormalizeChannels

from ..datamodule import check_choice
from ..io.npz import read_npz
from ..io.readers import visible_files
from ..io.releases import Release, find_release
from ..io.wav import read_wav
from ..splits import stratified_holdout
from .dataset import Signals
from .mfcc import mfcc
from .recordings import recordings_from_arrays
from .subsampling import SubsampledDataModule

__all__ = ["Clips", "SpeechCommandsDataModule", "read_speech_commands"]

_LOGGER = logging.getLogger(__name__)

CommandsName = Literal["speech_commands"]
Features = Literal["raw", "mfcc"]
CommandsSplit = Literal["paper", "official"]

SAMPLE_RATE = 16_000
_SAMPLES = 16_000
_WORDS = "yes no up down left right on off stop go".split()
_LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
_LISTED = re.compile(r"[^/\\]+/[^/\\]+\.wav")
_ARCHIVE = "speech_commands_v0.02.tar.gz"
_RELEASE = Release(
    _ARCHIVE,
    (
        f"https://storage.googleapis.com/download.tensorflow.org/data/{_ARCHIVE}",
        f"http://download.tensorflow.org/data/{_ARCHIVE}",
    ),
    ("speech_commands_v0.02", "SpeechCommands/speech_commands_v0.02"),  # the latter is torchaudio's
    tuple(f"{word}/" for word in _WORDS),
    sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
)
# Of all clips in the split of the paper, of which 70 % are for training.
_VAL_FRACTION = _TEST_FRACTION = 0.15
_CLIPS_AT_A_TIME = 250
_SPLITS = ("train", "test")
_ARRAYS = [f"{part}_{name}" for part in _SPLITS for name in ("samples", "offsets", "label")]


class SpeechCommandsDataModule(SubsampledDataModule):
    """Ten words of Speech Commands v0.02, as raw audio or as cepstral coefficients.

    The features are

    - `raw`: the samples, `x [1, 16000]`;
    - `mfcc`: 20 coefficients every 100 samples, `x [20, 161]`, see `mfcc`. They are computed when
      the data are set up, and need the extra `audio`.

    See `SubsampledDataModule` for tests at other sampling rates, `SignalDataModule` for the
    attributes after `setup`, and `read_speech_commands` for the sources and the splits. The
    recordings are under CC BY 4.0 (P. Warden, https://arxiv.org/abs/1804.03209).

    Args:
        name: `speech_commands`.
        root: Folder of the data set, to which it is downloaded if necessary, or an `.npz` file. By
            default `data/speech_commands`.
        features: Form of the input of a network.
        split: `paper`, 70 % for training, 15 % for validation and 15 % for testing, in which a
            speaker may be in all three; or `official`, by the lists of the data set, in which
            speakers are in one of the three only.
        normalize: If True, the mean over the training clips is subtracted from every channel, which
            is divided by their standard deviation.
        batch_size: Number of clips per batch and process.
        val_fraction: Fraction of the clips that are not for testing that is held out for
            validation; 15 / 85 by default. The official list takes precedence.
        download: If True, the official archive is downloaded if it is missing.
        loading: Sampling rates, workers, seeds and the other arguments of `SubsampledDataModule`.

    Raises:
        ValueError: If an argument is out of range or a file is broken; the message names it.
        OSError: If the clips are missing and cannot be downloaded; the message describes the manual
            download.
    """

    def __init__(
        self,
        name: CommandsName = "speech_commands",
        root: Path | None = None,
        *,
        features: Features = "raw",
        split: CommandsSplit = "paper",
        normalize: bool = True,
        batch_size: int = 20,
        val_fraction: float = _VAL_FRACTION / (1 - _TEST_FRACTION),
        download: bool = True,
        **loading: Any,
    ) -> None:
        check_choice("name", name, get_args(CommandsName))
        check_choice("features", features, get_args(Features))
        check_choice("split", split, get_args(CommandsSplit))
        super().__init__(
            Path("data") / name if root is None else Path(root),
            batch_size=batch_size,
            val_fraction=val_fraction,
            **loading,
        )
        self.name = name
        self.features: Features = features
        self.split: CommandsSplit = split
        self.normalize = normalize
        self.download = download
        self._normalization: list[BaseTransform] = []

    def read_whole(self) -> tuple[Signals, Signals, Sequence[str]]:
        """Return the features of the clips before subsampling; download them if necessary."""
        clips = read_speech_commands(self.root, self.split, fetch=self.download)
        self._validation = clips.validation
        train, test = (self._features(each) for each in (clips.train, clips.test))
        return train, test, clips.words

    def measure(self, train: Signals) -> None:
        """Measure the mean and the deviation of each channel, if they are to be normalized."""
        if self.normalize:
            self._normalization = [NormalizeChannels(*_channel_statistics(train))]

    def steps(self) -> list[BaseTransform]:
        """Return the normalization."""
        return [*self._normalization]

    def _features(self, clips: Signals) -> Signals:
        if self.features == "raw":
            return clips
        return Signals(mfcc(clips.x[:, 0], SAMPLE_RATE), clips.y)


@dataclass(frozen=True, eq=False)
class Clips:
    """Clips of 16,000 samples, int16, `[M, 1, 16000]` with `scale` 1 / 32768.

    Attributes:
        train: The clips that are not for testing.
        test: The clips for testing.
        words: The words, by label.
        validation: True for those of `train` that are for validation, `[M]`, or None if that is
            open.
    """

    train: Signals
    test: Signals
    words: list[str]
    validation: np.ndarray | None = None


def read_speech_commands(
    root: Path | str, split: CommandsSplit = "paper", *, fetch: bool = True
) -> Clips:
    """Read the clips of ten words that have exactly 16,000 samples.

    Args:
        root: An `.npz` file of recordings end to end, `train_samples`, int16 at 16 kHz,
            `train_offsets` and `train_label`, `test_samples` and so on, and the `words`, by label,
            see `recordings_from_arrays`; it has its own split. Or a folder, in which the first of
            these that exists is used:

            1. the folders of the words of v0.02, or a folder that holds them,
               `speech_commands_v0.02` or `SpeechCommands/speech_commands_v0.02`, as torchaudio
               extracts it;
            2. the official archive, which is extracted there;
            3. the same archive from its official host, which is downloaded to `root`.
        split: `paper`, a stratified part of the clips sorted by name, because the authors' own
            split depends on the order in which their file system listed the files; or `official`,
            by `validation_list.txt` and `testing_list.txt`.
        fetch: If True, the archive is downloaded if nothing is found.

    Raises:
        ValueError: If a file is broken, or a split is empty; the message names it.
        OSError: If the data set is missing and cannot be downloaded; the message describes the
            manual download.
    """
    root = Path(root)
    check_choice("split", split, get_args(CommandsSplit))
    if root.suffix == ".npz":
        return _read_arrays(root)
    _, folder = find_release(root, "Speech Commands v0.02", [_RELEASE], fetch=fetch)
    # Lists are read first, because reading the clips takes longer.
    lists = {part: _read_list(folder / _LISTS[part]) for part in _LISTS if split == "official"}
    paths = [path for word in _WORDS for path in visible_files(folder / word, {".wav"})]
    labels = np.array([_WORDS.index(path.parent.name) for path in paths])
    progress = tqdm(paths, desc="Reading clips", unit="clip", disable=None)
    clips, kept = _whole_clips(folder, (read_wav(each, SAMPLE_RATE) for each in progress), labels)
    if split == "paper":
        train, test = stratified_holdout(clips.y, _TEST_FRACTION, seed=0)
        return Clips(clips.select(train), clips.select(test), _WORDS)
    names = [f"{path.parent.name}/{path.name}" for path in paths]
    listed = {
        part: np.array([names[index] in entries for index in kept])
        for part, entries in lists.items()
    }
    for part, members in listed.items():
        if not members.any():
            raise ValueError(f"{folder / _LISTS[part]}: expected clips in {folder}, got none")
    train = np.flatnonzero(~listed["test"])
    return Clips(
        clips.select(train),
        clips.select(np.flatnonzero(listed["test"])),
        _WORDS,
        validation=listed["val"][train],
    )


def _whole_clips(
    source: Path, recordings: Iterable[np.ndarray], labels: np.ndarray
) -> tuple[Signals, np.ndarray]:
    """Return the recordings that have exactly 16,000 samples, and their indices."""
    x = np.empty((len(labels), 1, _SAMPLES), np.int16)
    kept: list[int] = []
    for index, samples in enumerate(recordings):
        if len(samples) == _SAMPLES:
            x[len(kept), 0] = samples
            kept.append(index)
    if not kept:
        raise ValueError(
            f"{source}: expected clips of {_SAMPLES:,} samples among {len(labels)}, got none"
        )
    if len(kept) < len(labels):
        _LOGGER.info(
            "%s: left out %d of %d clips, which do not have %d samples",
            source,
            len(labels) - len(kept),
            len(labels),
            _SAMPLES,
        )
    indices = np.array(kept)
    return Signals(x[: len(kept)], labels[indices], scale=1 / 2**15), indices


def _read_list(path: Path) -> set[str]:
    """Return the names of a list of clips, such as `yes/0a7c2a8d_nohash_0.wav`."""
    names = path.read_text("utf-8", "surrogateescape").splitlines()
    for number, name in enumerate(names, 1):
        if not _LISTED.fullmatch(name):
            raise ValueError(
                f"{path}, line {number}: expected a clip such as yes/0a7c2a8d_nohash_0.wav, got "
                f"{name[:100]!r}"
            )
    return set(names)


def _read_arrays(path: Path) -> Clips:
    arrays = read_npz(path, [*_ARRAYS, "words"], ["sample_rate"])
    rate = arrays.get("sample_rate", np.array(SAMPLE_RATE))
    if rate.shape != () or rate != SAMPLE_RATE:
        raise ValueError(f"{path}: expected `sample_rate` {SAMPLE_RATE}, got {rate}")
    words = arrays["words"]
    if words.ndim != 1 or words.dtype.kind != "U":
        raise ValueError(
            f"{path}: expected strings `words` of shape [C], got {words.dtype} of shape "
            f"{list(words.shape)}"
        )
    splits = []
    for part in _SPLITS:
        recordings = recordings_from_arrays(path, arrays, f"{part}_", len(words))
        splits.append(_whole_clips(path, recordings.samples, recordings.labels)[0])
    return Clips(splits[0], splits[1], words.tolist())


def _channel_statistics(signals: Signals) -> tuple[list[float], list[float]]:
    """Return the mean and the standard deviation of each channel."""
    count = len(signals) * signals.x[0, 0].size
    total = np.zeros(signals.x.shape[1])
    squares = np.zeros(signals.x.shape[1])
    for start in range(0, len(signals), _CLIPS_AT_A_TIME):
        x = signals.x[start : start + _CLIPS_AT_A_TIME].astype(np.float64) * signals.scale
        total += x.sum(axis=(0, 2))
        squares += np.square(x).sum(axis=(0, 2))
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return mean.tolist(), np.where(deviation > 0, deviation, 1).tolist()
