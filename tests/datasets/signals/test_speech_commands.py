"""Speech Commands: every form of the files, the two splits, broken files, and the features."""

import dataclasses
import hashlib
import logging
import shutil
import tarfile

import numpy as np
import pytest
import torch
from scipy.io import wavfile

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.datasets import SpeechCommandsDataModule  # noqa: E402
from ccnn_geo.datasets.io import wav  # noqa: E402
from ccnn_geo.datasets.signals import speech_commands  # noqa: E402
from ccnn_geo.datasets.signals.speech_commands import read_speech_commands  # noqa: E402

WORDS = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
CLIPS_A_WORD = 4


@pytest.fixture(autouse=True)
def _scipy_reads(monkeypatch):
    monkeypatch.setattr(wav, "_soundfile", lambda: None)


def put_clip(path, level: int = 1, samples: int = 16_000, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, np.full(samples, level, np.int16))


@pytest.fixture
def folder(tmp_path):
    """Four clips of each word, whose samples are all 10 * label + number."""
    folder = tmp_path / "speech_commands_v0.02"
    for label, word in enumerate(WORDS):
        for number in range(CLIPS_A_WORD):
            put_clip(folder / word / f"{number}a_nohash_0.wav", 10 * label + number)
    put_clip(folder / "backward" / "0a_nohash_0.wav")
    put_clip(folder / "_background_noise_" / "pink_noise.wav", samples=100)
    return folder


@pytest.fixture
def lists(folder):
    """The clips of number 1 are for validation, those of number 3 for testing."""
    for name, number in (("validation_list.txt", 1), ("testing_list.txt", 3)):
        clips = [f"{word}/{number}a_nohash_0.wav" for word in ["backward", *WORDS]]
        (folder / name).write_text("\n".join(clips) + "\n")
    return folder


def levels(signals) -> list[int]:
    return signals.x[:, 0, 0].tolist()


class TestFolders:
    @pytest.mark.parametrize("inside", ["", "SpeechCommands"])
    def test_are_found(self, folder, tmp_path, inside):
        target = tmp_path / "root" / inside / folder.name
        target.parent.mkdir(parents=True)
        folder.rename(target)
        for root in (tmp_path / "root", target):
            assert len(read_speech_commands(root, fetch=False).train) == 30

    def test_hold_ten_words_of_16000_samples(self, folder):
        clips = read_speech_commands(folder)
        assert clips.words == WORDS
        for signals in (clips.train, clips.test):
            assert signals.x.shape[1:] == (1, 16_000)
            assert signals.x.dtype == np.int16
            assert signals.scale == 1 / 32768
            assert (np.array(levels(signals)) // 10 == signals.y).all()

    def test_an_archive_is_downloaded_checked_and_extracted(
        self, host, lists, tmp_path, monkeypatch
    ):
        with tarfile.open(tmp_path / "made.gz", "w:gz") as file:
            file.add(lists, ".")
        content = (tmp_path / "made.gz").read_bytes()
        host.files["commands"] = content
        release = dataclasses.replace(
            speech_commands._RELEASE,
            urls=(f"{host.url}/absent", f"{host.url}/commands"),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        monkeypatch.setattr(speech_commands, "_RELEASE", release)
        root = tmp_path / "root"
        for split in ("paper", "official"):
            assert len(read_speech_commands(root, split).test) == 10
        assert len(host.ranges) == 2
        assert (root / "speech_commands_v0.02" / "backward").is_dir()
        host.files["commands"] = content[:-1] + b"\1"
        with pytest.raises(OSError, match="expected a file with sha256"):
            read_speech_commands(tmp_path / "other")

    def test_clips_of_other_lengths_are_left_out_and_counted(self, folder, caplog):
        put_clip(folder / "no" / "9z_nohash_0.wav", samples=15_999)
        put_clip(folder / "go" / "9z_nohash_0.wav", samples=16_001)
        with caplog.at_level(logging.INFO, "ccnn_geo.datasets.signals.speech_commands"):
            clips = read_speech_commands(folder)
        assert len(clips.train) + len(clips.test) == 40
        assert "left out 2 of 42 clips, which do not have 16000 samples" in caplog.text

    def test_hidden_files_and_others_are_no_clips(self, folder):
        (folder / "yes" / "._0a_nohash_0.wav").write_bytes(b"what macOS leaves")
        (folder / "yes" / "notes.txt").write_text("notes")
        assert len(read_speech_commands(folder).train) == 30

    @pytest.mark.parametrize(
        ("samples", "rate", "got"),
        [(np.zeros(16_000, np.int16), 8000, "int16 of 1 at 8000"),
         (np.zeros((16_000, 2), np.int16), 16_000, "int16 of 2 at 16000"),
         (np.zeros(16_000, np.float32), 16_000, "float32 of 1 at 16000")],
        ids=["rate", "channels", "type"],
    )  # fmt: skip
    def test_clips_of_another_kind_are_refused(self, folder, samples, rate, got):
        wavfile.write(folder / "up" / "2a_nohash_0.wav", rate, samples)
        message = f"up/2a_nohash_0.wav: expected int16 of one channel at 16000 Hz, got {got}"
        with pytest.raises(ValueError, match=message):
            read_speech_commands(folder)

    @pytest.mark.parametrize("size", [0, 30, 44, 32_000])
    def test_clips_that_are_cut_short_are_named(self, folder, size):
        path = folder / "up" / "2a_nohash_0.wav"
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match="up/2a_nohash_0.wav: expected "):
            read_speech_commands(folder)

    def test_a_missing_word_is_named(self, folder):
        shutil.rmtree(folder / "stop")
        with pytest.raises(
            FileNotFoundError, match="expected all of Speech Commands v0.02, got no stop/;"
        ):
            read_speech_commands(folder)

    def test_words_without_clips_are_named(self, tmp_path):
        for word in WORDS:
            (tmp_path / word).mkdir()
        with pytest.raises(ValueError, match="expected clips of 16,000 samples among 0, got none"):
            read_speech_commands(tmp_path)

    def test_without_a_download_one_is_told_what_to_put_where(self, tmp_path):
        message = "speech_commands_v0.02.tar.gz .from https://storage.googleapis.com"
        with pytest.raises(FileNotFoundError, match=message):
            read_speech_commands(tmp_path, fetch=False)


class TestSplits:
    def test_of_the_paper_are_parts_of_every_word_whatever_the_order_of_the_files(
        self, folder, tmp_path
    ):
        clips = read_speech_commands(folder)
        assert np.bincount(clips.train.y).tolist() == [3] * 10
        assert np.bincount(clips.test.y).tolist() == [1] * 10
        assert clips.validation is None
        assert {*levels(clips.train), *levels(clips.test)} == {
            10 * label + number for label in range(10) for number in range(4)
        }
        copied = tmp_path / "copied"
        for path in sorted(folder.rglob("*.wav"), reverse=True):
            (copied / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied / path.parent.name / path.name)
        assert levels(read_speech_commands(copied).test) == levels(clips.test)

    def test_of_the_paper_are_70_15_15_percent(self, tmp_path):
        for word in WORDS:
            for number in range(20):
                put_clip(tmp_path / word / f"{number}.wav", samples=16_000)
        data = SpeechCommandsDataModule(root=tmp_path)
        data.setup()
        assert data.split_sizes == {"train": 140, "val": 30, "test": 30}

    def test_official_ones_follow_the_lists(self, lists):
        clips = read_speech_commands(lists, "official")
        assert {level % 10 for level in levels(clips.test)} == {3}
        assert len(clips.test) == 10
        assert [level % 10 == 1 for level in levels(clips.train)] == clips.validation.tolist()
        data = SpeechCommandsDataModule(root=lists, split="official", val_fraction=0.5)
        data.setup()
        assert data.split_sizes == {"train": 20, "val": 10, "test": 10}
        assert {level % 10 for level in levels(data.train_dataset.signals)} == {0, 2}
        assert {level % 10 for level in levels(data.val_dataset.signals)} == {1}

    def test_a_subset_of_official_training_clips_leaves_the_validation_alone(self, lists):
        data = SpeechCommandsDataModule(root=lists, split="official", train_size=10)
        data.setup()
        assert data.split_sizes == {"train": 10, "val": 10, "test": 10}
        assert np.bincount(data.train_dataset.signals.y).tolist() == [1] * 10

    @pytest.mark.parametrize("name", ["validation_list.txt", "testing_list.txt"])
    def test_a_missing_list_is_named(self, lists, name):
        (lists / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            read_speech_commands(lists, "official")
        assert len(read_speech_commands(lists).test) == 10

    @pytest.mark.parametrize("name", ["validation_list.txt", "testing_list.txt"])
    @pytest.mark.parametrize(
        ("content", "message"),
        [("", "expected clips in .*speech_commands_v0.02, got none"),
         ("yes/absent.wav\n", "expected clips in .*, got none"),
         ("yes/0a_nohash_0.wav\n0a_nohash_0.wav\n", "line 2: expected a clip .*got '0a_nohash"),
         ("<html>Gone</html>", "line 1: expected a clip such as .*got '<html>")],
        ids=["empty", "absent", "bare", "html"],
    )  # fmt: skip
    def test_a_list_of_something_else_is_named(self, lists, name, content, message):
        (lists / name).write_text(content)
        with pytest.raises(ValueError, match=f"{name}.* {message}"):
            read_speech_commands(lists, "official")


class TestArrays:
    @pytest.fixture
    def arrays(self):
        content = {"words": np.array(["a", "b"]), "sample_rate": np.array(16_000)}
        for part, count in (("train", 6), ("test", 4)):
            content[f"{part}_samples"] = np.repeat(np.arange(count, dtype=np.int16), 16_000)
            content[f"{part}_offsets"] = 16_000 * np.arange(count + 1)
            content[f"{part}_label"] = np.arange(count, dtype=np.uint8) % 2
        return content

    def read(self, tmp_path, arrays, **changes):
        arrays = {**arrays, **changes}
        content = {name: array for name, array in arrays.items() if array is not None}
        np.savez(tmp_path / "some.npz", **content)
        return read_speech_commands(tmp_path / "some.npz")

    @pytest.mark.parametrize("changes", [{}, {"sample_rate": None}], ids=["rate", "no rate"])
    def test_have_their_own_words_and_split(self, tmp_path, arrays, changes):
        clips = self.read(tmp_path, arrays, **changes)
        assert clips.words == ["a", "b"]
        assert levels(clips.train) == [0, 1, 2, 3, 4, 5]
        assert clips.test.y.tolist() == [0, 1, 0, 1]

    def test_recordings_of_other_lengths_are_left_out(self, tmp_path, arrays):
        offsets = arrays["test_offsets"].copy()
        offsets[1] -= 1
        assert levels(self.read(tmp_path, arrays, test_offsets=offsets).test) == [2, 3]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"words": None}, "expected an array `words`, got none"),
            ({"words": np.arange(2)}, r"strings `words` of shape \[C\], got int64 of shape \[2\]"),
            ({"sample_rate": np.array(8000)}, "expected `sample_rate` 16000, got 8000"),
            ({"test_label": np.array([0, 1, 2, 0])}, "`test_label` from 0 to 1, got 0 to 2"),
            ({"test_offsets": np.arange(5)}, "`test_offsets` that rise from 0 to 64000"),
            ({"test_samples": np.zeros(64_000)}, r"int16 `test_samples` of shape \[N\]"),
            ({"test_samples": np.zeros(8, np.int16), "test_offsets": 2 * np.arange(5)},
             "clips of 16,000 samples among 4, got none"),
        ],
        ids=["no words", "words", "rate", "label", "offsets", "type", "lengths"],
    )  # fmt: skip
    def test_that_do_not_fit_are_refused(self, tmp_path, arrays, changes, message):
        with pytest.raises(ValueError, match=f"some.npz: .*{message}"):
            self.read(tmp_path, arrays, **changes)


class TestDataModule:
    @pytest.fixture
    def npz(self, tmp_path):
        generator = np.random.default_rng(0)
        content = {"words": np.array(["a", "b"])}
        for part, count in (("train", 8), ("test", 4)):
            samples = generator.normal(300, 1000, count * 16_000)
            content[f"{part}_samples"] = samples.astype(np.int16)
            content[f"{part}_offsets"] = 16_000 * np.arange(count + 1)
            content[f"{part}_label"] = np.arange(count) % 2
        np.savez(tmp_path / "clips.npz", **content)
        return tmp_path / "clips.npz"

    def module(self, root, **options) -> SpeechCommandsDataModule:
        data = SpeechCommandsDataModule(root=root, batch_size=2, **options)
        data.setup()
        return data

    def test_raw_samples_are_normalized_by_the_training_clips_alone(self, npz):
        data = self.module(npz)
        assert (data.size, data.dim, data.num_features, data.num_classes) == ((16_000,), 1, 1, 2)
        assert data.split_sizes == {"train": 6, "val": 2, "test": 4}
        assert data.train_dataset.signals.x.dtype == np.int16
        train = data.train_dataset.signals.x / 32768
        for split in ("train", "val", "test"):
            dataset = getattr(data, f"{split}_dataset")
            expected = (dataset.signals.x[1] / 32768 - train.mean()) / train.std()
            np.testing.assert_allclose(dataset[1].x[0], expected, rtol=1e-4, atol=1e-5)

    def test_or_left_as_they_are(self, npz):
        data = self.module(npz, normalize=False)
        x = data.test_dataset.signals.x[0] / np.float32(32768)
        np.testing.assert_array_equal(data.test_dataset[0].x[0], x)

    def test_coefficients_are_normalized_one_by_one(self, npz):
        pytest.importorskip("librosa", reason="librosa, of the extra `audio`, is missing")
        data = self.module(npz, features="mfcc")
        assert (data.size, data.num_features) == ((161,), 20)
        x = torch.cat([sample.x for sample in data.train_dataset])
        torch.testing.assert_close(x.mean((0, 2)), torch.zeros(20), atol=1e-4, rtol=0)
        torch.testing.assert_close(x.std((0, 2)), torch.ones(20), atol=2e-3, rtol=0)
        raw = self.module(npz, features="mfcc", normalize=False)
        first, second = (each.test_dataset[0].x[0, 0] for each in (raw, data))
        assert float(torch.corrcoef(torch.stack([first, second]))[0, 1]) == pytest.approx(1)
        assert first.mean() < -10

    def test_constant_channels_do_not_divide_by_zero(self, tmp_path, folder):
        for path in folder.rglob("*.wav"):
            put_clip(path, level=0)
        assert self.module(folder).train_dataset[0].x.eq(0).all()

    @pytest.mark.parametrize("features", ["raw", "mfcc"])
    def test_the_test_alone_takes_every_second_vector(self, npz, features):
        if features == "mfcc":
            pytest.importorskip("librosa", reason="librosa, of the extra `audio`, is missing")
        whole, half = (self.module(npz, features=features, subsample=step) for step in (1, 2))
        assert whole.size == half.size
        assert torch.equal(half.test_dataset[0].x, whole.test_dataset[0].x[..., ::2])
        assert torch.equal(half.val_dataset[0].x, whole.val_dataset[0].x)
        assert half.test_dataset[0].spacing.tolist() == [2]
        plain = self.module(npz, features=features, subsample=2, rescale=False)
        assert "spacing" not in plain.test_dataset[0]

    @pytest.mark.parametrize(
        ("options", "message"),
        [({"name": "speech"}, "`name` to be one of .*, got 'speech'"),
         ({"features": "mel"}, "`features` to be one of .*, got 'mel'"),
         ({"split": "random"}, "`split` to be one of .*, got 'random'"),
         ({"subsample": 0}, "`subsample` >= 1, got 0")],
    )  # fmt: skip
    def test_refuses_arguments_out_of_range(self, options, message):
        with pytest.raises(ValueError, match=message):
            SpeechCommandsDataModule(**options)


class TestRealFiles:
    def test_wav_files_are_read_by_both_splits(self, shared_data, tmp_path):
        folder = tmp_path / "clips"
        shutil.copytree(shared_data / "original" / "speech_commands_test_set_v0.02", folder)
        clips = read_speech_commands(folder)
        assert np.bincount(clips.train.y).tolist() == [2] * 10
        assert np.bincount(clips.test.y).tolist() == [1] * 10
        listed = (folder / "testing_list.txt").read_text().splitlines()
        (folder / "testing_list.txt").chmod(0o644)
        (folder / "validation_list.txt").write_text("\n".join(listed[0::3]))
        (folder / "testing_list.txt").write_text("\n".join(listed[1::3]))
        official = read_speech_commands(folder, "official")
        assert np.bincount(official.test.y).tolist() == [1] * 10
        assert official.validation.sum() == 10
        assert len(official.train) == 20

    def test_of_the_arrays_are_the_same_clips(self, shared_data):
        folder = shared_data / "original" / "speech_commands_test_set_v0.02"
        clips = read_speech_commands(shared_data / "speech_commands.npz")
        assert (len(clips.train), len(clips.test)) == (800, 270)
        assert clips.words == WORDS
        known = {signal.tobytes() for each in (clips.train, clips.test) for signal in each.x}
        original = read_speech_commands(folder)
        found = [signal.tobytes() in known for signal in original.train.x]
        assert any(found)
