"""Reading .wav files; broken ones and those of another form are named."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.io import wavfile

from ccnn_geo.datasets.io import wav as wav_module
from ccnn_geo.datasets.io.wav import read_wav
from datasets_helpers import NOT_UTF8, needs_bytes


@pytest.fixture(autouse=True)
def _scipy_reads(monkeypatch):
    monkeypatch.setattr(wav_module, "_soundfile", lambda: None)


@pytest.fixture
def wav(tmp_path):
    """A file of 400 samples."""
    path = tmp_path / "7_ann_12.wav"
    wavfile.write(path, 8000, np.arange(-200, 200, dtype=np.int16))
    return path


class TestWav:
    def test_gives_the_samples_as_they_are(self, wav):
        samples = read_wav(wav, 8000)
        assert samples.dtype == np.int16
        np.testing.assert_array_equal(samples, np.arange(-200, 200))

    def test_soundfile_reads_where_it_is_installed(self, wav, monkeypatch):
        def read(file, dtype, always_2d):
            rate, samples = wavfile.read(file)
            return samples.astype(dtype)[:, None], rate

        def info(file):
            file.read(44)  # the header
            return SimpleNamespace(subtype=subtypes.pop(0))

        subtypes = ["PCM_16", "PCM_24"]
        fake = SimpleNamespace(info=info, read=read)
        monkeypatch.setattr(wav_module, "_soundfile", lambda: fake)
        np.testing.assert_array_equal(read_wav(wav, 8000), np.arange(-200, 200))
        with pytest.raises(ValueError, match="got float64 of 1 at 8000 Hz"):
            read_wav(wav, 8000)

    @needs_bytes
    def test_names_need_not_be_utf8(self, wav):
        path = wav.rename(wav.with_name(f"{NOT_UTF8}.wav"))
        np.testing.assert_array_equal(read_wav(path, 8000), np.arange(-200, 200))

    def test_comments_in_a_file_are_passed_over(self, wav):
        content = bytearray(wav.read_bytes())
        content[36:36] = b"note" + (4).to_bytes(4, "little") + b"abcd"
        content[4:8] = (len(content) - 8).to_bytes(4, "little")
        wav.write_bytes(content)
        np.testing.assert_array_equal(read_wav(wav, 8000), np.arange(-200, 200))

    def test_refuses_an_empty_file(self, wav):
        wav.write_bytes(b"")
        with pytest.raises(ValueError, match="7_ann_12.wav: expected a .wav file, got an empty"):
            read_wav(wav, 8000)

    @pytest.mark.parametrize("size", [12, 30, 44, 100, 843])
    def test_refuses_a_file_that_is_cut(self, wav, size):
        wav.write_bytes(wav.read_bytes()[:size])
        with pytest.raises(ValueError, match=rf"7_ann_12.wav: expected 844 bytes, got {size}: .*"):
            read_wav(wav, 8000)

    def test_refuses_what_is_no_wav_file(self, wav):
        wav.write_bytes(b"ID3" + bytes(100))
        with pytest.raises(ValueError, match=r"7_ann_12.wav: expected a .wav file, got .* b'ID3"):
            read_wav(wav, 8000)

    def test_refuses_a_broken_header(self, wav):
        content = wav.read_bytes()
        wav.write_bytes(content[:12] + b"x" * len(content[12:]))
        with pytest.raises(ValueError, match="7_ann_12.wav: expected a valid .wav file"):
            read_wav(wav, 8000)

    @pytest.mark.parametrize(
        ("rate", "samples", "got"),
        [
            (16000, np.ones(8, np.int16), "int16 of 1 at 16000"),
            (8000, np.ones((8, 2), np.int16), "int16 of 2 at 8000"),
            (8000, np.ones(8, np.float32), "float32 of 1 at 8000"),
            (8000, np.ones(8, np.uint8), "uint8 of 1 at 8000"),
        ],
    )
    def test_refuses_another_rate_or_type_or_channels(self, wav, rate, samples, got):
        wavfile.write(wav, rate, samples)
        with pytest.raises(
            ValueError, match=f"expected int16 of one channel at 8000 Hz, got {got}"
        ):
            read_wav(wav, 8000)

    def test_refuses_a_recording_without_samples(self, wav):
        wavfile.write(wav, 8000, np.ones(0, np.int16))
        with pytest.raises(ValueError, match="7_ann_12.wav: expected at least one sample"):
            read_wav(wav, 8000)
