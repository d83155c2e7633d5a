"""Recordings of spoken digits, from every form there is of them; broken ones are named."""

import hashlib
import zipfile

import numpy as np
import pytest
from scipy.io import wavfile

from ccnn_geo.datasets.io import wav
from ccnn_geo.datasets.signals import recordings
from ccnn_geo.datasets.signals.recordings import find_recordings
from datasets_helpers import put_recordings, recording_arrays


@pytest.fixture(autouse=True)
def _scipy_reads(monkeypatch):
    monkeypatch.setattr(wav, "_soundfile", lambda: None)


class TestFolder:
    @pytest.mark.parametrize(
        "inside", ["", "recordings", "free-spoken-digit-dataset-1.0.10/recordings"]
    )
    def test_numbers_0_to_4_are_the_test_split(self, tmp_path, inside):
        put_recordings(tmp_path / inside, digits=(3, 1), numbers=range(12))
        train, test = find_recordings(tmp_path, fetch=False)
        assert train.labels.tolist() == [1] * 14 + [3] * 14
        assert test.labels.tolist() == [1] * 10 + [3] * 10
        path = tmp_path / inside / "3_bob_11.wav"
        np.testing.assert_array_equal(train.samples[-1], wavfile.read(path)[1])

    def test_refuses_a_name_that_says_no_digit(self, tmp_path):
        put_recordings(tmp_path)
        (tmp_path / "1_ann_3.wav").rename(tmp_path / "one_ann_3.wav")
        with pytest.raises(ValueError, match="one_ann_3.wav: expected a name such as 7_jackson_32"):
            find_recordings(tmp_path)

    def test_names_the_broken_recording(self, tmp_path):
        put_recordings(tmp_path)
        path = tmp_path / "1_bob_6.wav"
        path.write_bytes(path.read_bytes()[:-7])
        with pytest.raises(ValueError, match=r"1_bob_6.wav: .* it is cut short"):
            find_recordings(tmp_path)

    @pytest.mark.parametrize(("numbers", "split"), [(range(5), "training"), (range(5, 9), "test")])
    def test_refuses_an_empty_split(self, tmp_path, numbers, split):
        put_recordings(tmp_path, numbers=numbers)
        with pytest.raises(ValueError, match=f"expected {split} recordings among .*, got none"):
            find_recordings(tmp_path)

    def test_says_what_to_put_where_when_there_is_nothing(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match=r"1.0.10.zip \(from https://.*\) or fsdd_train"
        ):
            find_recordings(tmp_path, fetch=False)


class TestArchive:
    @pytest.fixture
    def archive(self, tmp_path):
        folder = put_recordings(tmp_path / "made", numbers=range(4, 7))
        path = tmp_path / "archive.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("free-spoken-digit-dataset-1.0.10/README.md", "Spoken digits.")
            for each in folder.iterdir():
                file.write(each, f"free-spoken-digit-dataset-1.0.10/recordings/{each.name}")
        return path

    @pytest.fixture
    def served(self, archive, monkeypatch):
        checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
        monkeypatch.setattr(recordings, "_URLS", (archive.as_uri(),))
        monkeypatch.setattr(recordings, "_SHA256", checksum)

    def test_one_that_is_there_is_extracted(self, tmp_path, archive):
        root = tmp_path / "root"
        root.mkdir()
        archive.rename(root / "free-spoken-digit-dataset-1.0.10.zip")
        train, test = find_recordings(root, fetch=False)
        assert (len(train.samples), len(test.samples)) == (8, 4)

    def test_is_downloaded_and_checked(self, tmp_path, served):
        train, test = find_recordings(tmp_path / "root")
        assert (len(train.samples), len(test.samples)) == (8, 4)
        assert (tmp_path / "root" / "free-spoken-digit-dataset-1.0.10.zip").is_file()

    def test_refuses_a_wrong_checksum(self, tmp_path, served, monkeypatch):
        monkeypatch.setattr(recordings, "_SHA256", "0" * 64)
        with pytest.raises(OSError, match=r"expected a file with sha256 0{64}, got"):
            find_recordings(tmp_path / "root")
        assert not (tmp_path / "root" / "free-spoken-digit-dataset-1.0.10.zip").exists()

    def test_refuses_one_that_is_cut(self, tmp_path, archive):
        root = tmp_path / "root"
        root.mkdir()
        content = archive.read_bytes()
        (root / "free-spoken-digit-dataset-1.0.10.zip").write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match=r"1.0.10.zip: expected a valid zip file"):
            find_recordings(root)


class TestArrays:
    def put(self, root, **changes):
        np.savez(root / "fsdd_train.npz", **recording_arrays())
        np.savez(root / "fsdd_test.npz", **recording_arrays(**changes))

    def test_recordings_lie_between_the_offsets(self, tmp_path):
        self.put(tmp_path, speaker=None)
        for split in find_recordings(tmp_path):
            assert [samples.tolist() for samples in split.samples] == [[5, -5, 7], [1], [2, -32768]]
            assert split.labels.tolist() == [0, 9, 9]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"label": None, "offsets": None}, "an array `offsets` and `label`, got none"),
            ({"samples": np.zeros(6)}, r"int16 `samples` of shape \[N\], got float64"),
            ({"samples": np.zeros((6, 1), np.int16)}, r"got int16 of shape \[6, 1\]"),
            ({"samples": np.zeros(5, np.int16)}, "rise from 0 to 5"),
            ({"offsets": np.array([0, 3, 6])}, r"`offsets` of shape \[4\], .* shape \[3\]"),
            ({"offsets": np.array([0.0, 3, 4, 6])}, "whole numbers `offsets` .* got float64"),
            ({"offsets": np.array([0, 4, 3, 6])}, "rise from 0 to 6"),
            ({"offsets": np.array([0, 3, 3, 6])}, "rise from 0 to 6"),
            ({"offsets": np.array([1, 3, 4, 6])}, "rise from 0 to 6"),
            ({"label": np.array([0, 9, 10])}, "labels `label` from 0 to 9, got 0 to 10"),
            ({"label": np.array([0.0, 9, 9])}, "whole numbers `label` .* got float64"),
            ({"label": np.zeros(0, int)}, r"`label` of shape \[M\], got int64 of shape \[0\]"),
            ({"speaker": np.array(["ann"])}, r"`speaker` of shape \[3\], got \[1\]"),
            ({"label": np.array([0, 9, 9], object)}, "plain array `label`"),
        ],
    )
    def test_refuses_arrays_that_do_not_fit(self, tmp_path, changes, message):
        self.put(tmp_path, **changes)
        with pytest.raises(ValueError, match=rf"fsdd_test.npz: expected .*{message}"):
            find_recordings(tmp_path)

    def test_refuses_a_file_that_is_cut(self, tmp_path):
        self.put(tmp_path)
        path = tmp_path / "fsdd_test.npz"
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(ValueError, match="fsdd_test.npz: expected an .npz file"):
            find_recordings(tmp_path)

    def test_refuses_half_of_the_pair(self, tmp_path):
        np.savez(tmp_path / "fsdd_train.npz", **recording_arrays())
        with pytest.raises(FileNotFoundError, match="fsdd_test.npz"):
            find_recordings(tmp_path)


def test_hidden_files_are_no_recordings_and_the_case_of_a_suffix_is_no_matter(tmp_path):
    folder = put_recordings(tmp_path)
    expected = [len(split.labels) for split in find_recordings(tmp_path, fetch=False)]
    (folder / "._0_jackson_0.wav").write_bytes(b"what macOS leaves")
    for path in sorted(folder.glob("[0-9]*.wav")):
        path.rename(path.with_suffix(".WAV"))
    found = [len(split.labels) for split in find_recordings(tmp_path, fetch=False)]
    assert found == expected
