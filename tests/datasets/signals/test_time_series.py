"""Time series: what the readers return, what a batch has, and files that are broken."""

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.datasets import TimeSeriesDataModule  # noqa: E402
from ccnn_geo.datasets.signals.time_series_files import (  # noqa: E402
    read_physionet,
    read_physionet_record,
    read_series,
    read_ts,
)

TS = """# A comment
@problemName Two
@timeStamps false
@classLabel true a b
@data
1,2,3:4,5,6:a
7,?:8,9:b
"""
RECORD = """Time,Parameter,Value
00:00,RecordID,1
00:00,Age,60
00:00,Height,-1
01:30,HR,80
01:30,HR,90
00:30,Temp,37.5
"""


def write_physionet(root, records=2, **changes):
    for letter in "ac":
        (root / f"set-{letter}").mkdir()
        rows = ["RecordID,SAPS-I,In-hospital_death"]
        for number in range(records):
            (root / f"set-{letter}" / f"{number}.txt").write_text(RECORD)
            rows.append(f"{number},5,{number % 2}")
        (root / f"Outcomes-{letter}.txt").write_text("\n".join(rows))
    for name, text in changes.items():
        (root / name.replace("__", "/").replace("_txt", ".txt")).write_text(text)


class TestReaders:
    def test_ts_files_have_series_of_unequal_length(self, tmp_path):
        path = tmp_path / "Two_TRAIN.ts"
        path.write_text(TS)
        series, classes = read_ts(path)
        assert classes == ["a", "b"]
        assert series.offsets.tolist() == [0, 3, 5] and series.y.tolist() == [0, 1]
        assert series.times.tolist() == [0, 1, 2, 0, 1]
        expected = [[1, 4], [2, 5], [3, 6], [7, 8], [np.nan, 9]]
        np.testing.assert_array_equal(series.x, np.array(expected, np.float32))

    def test_training_and_test_belong_together(self, tmp_path):
        (tmp_path / "Two_TRAIN.ts").write_text(TS)
        (tmp_path / "Two_TEST.ts").write_text(TS.replace("true a b", "true a b c"))
        with pytest.raises(ValueError, match=r"Two_TEST.ts: expected the classes \['a', 'b'\]"):
            read_series(tmp_path / "Two_TRAIN.ts")
        with pytest.raises(ValueError, match="expected a file `<problem>_TRAIN.ts`"):
            read_series(tmp_path / "Two_TEST.ts")

    @pytest.mark.parametrize(
        ("old", "new", "match"),
        [
            (":a", ":c", r"line 6: expected values and one of the classes \['a', 'b'\], got 'c'"),
            ("4,5,6", "4,5", r"line 6: expected 2 dimensions of one length, got 2 of \[2, 3\]"),
            ("7,?:8,9", "7,8", r"line 7: expected 2 dimensions of one length, got 1 of \[2\]"),
            ("7,?", "7,x", "line 7: expected numbers, got '7,x'"),
            ("@timeStamps false", "@timeStamps true", "line 3: expected series without time"),
            ("@data", "data", "expected series after `@data`"),
            (TS, "", "expected series after `@data`"),
        ],
    )
    def test_broken_ts_files_are_named(self, tmp_path, old, new, match):
        path = tmp_path / "Two_TRAIN.ts"
        path.write_text(TS.replace(old, new))
        with pytest.raises(ValueError, match=f"Two_TRAIN.ts.*{match}"):
            read_ts(path)

    def test_text_that_is_not_utf_8_is_named(self, tmp_path):
        (tmp_path / "Two_TRAIN.ts").write_bytes(b"\xff\xfe@data")
        with pytest.raises(ValueError, match="Two_TRAIN.ts: expected text in UTF-8"):
            read_ts(tmp_path / "Two_TRAIN.ts")

    def test_measurements_of_a_minute_are_one_row(self, tmp_path):
        write_physionet(tmp_path)
        train, test, classes = read_physionet(tmp_path)
        assert classes == ["survived", "died"]
        assert len(train) == len(test) == 2 and train.y.tolist() == [0, 1]
        assert train.offsets.tolist() == [0, 3, 6]
        assert train.times[:3].tolist() == [0.0, 0.5, 1.5]
        nan = np.nan  # Age, HR, Height (which is unknown), Temp
        expected = np.array([[60, nan, nan, nan], [nan, nan, nan, 37.5], [nan, 90, nan, nan]])
        np.testing.assert_array_equal(train.x[:3], expected.astype(np.float32))

    @pytest.mark.parametrize(
        ("name", "text", "error", "match"),
        [
            ("set-a__0_txt", "Time,Value\n", ValueError, "0.txt: expected the columns Time, Para"),
            ("set-a__0_txt", RECORD + "02:00,HR\n", ValueError, "0.txt, line 8: expected hh:mm"),
            ("set-a__0_txt", RECORD + "2,HR,5\n", ValueError, "0.txt, line 8: expected hh:mm"),
            ("Outcomes-a_txt", "RecordID\n0\n", ValueError, "Outcomes-a.txt: expected columns"),
            ("Outcomes-a_txt", "RecordID,In-hospital_death\n0,2\n", ValueError, "0 or 1 for 0"),
            ("Outcomes-a_txt", "RecordID,In-hospital_death\n", ValueError, "at least one record"),
            (
                "Outcomes-a_txt", "RecordID,In-hospital_death\n77,0\n", FileNotFoundError,
                "Expected the record .*77.txt of .*Outcomes-a.txt",
            ),
        ],
    )  # fmt: skip
    def test_broken_records_are_named(self, tmp_path, name, text, error, match):
        write_physionet(tmp_path, **{name: text})
        with pytest.raises(error, match=match):
            read_physionet(tmp_path)

    def test_missing_files_are_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="set-a, set-c, .*got no Outcomes-a.txt"):
            read_physionet(tmp_path)


RISING = "`train_offsets` that rise from 0 to 12"


def arrays(**changes):
    content = {
        "train_x": np.arange(24, dtype=np.float32).reshape(2, 12),
        "train_offsets": np.array([0, 3, 5, 9, 12]), "train_y": np.array([0, 1, 0, 1]),
        "test_x": np.ones((2, 4), np.float32), "test_offsets": np.array([0, 2, 4]),
        "test_y": np.array([0, 1]), "classes": np.array(["a", "b"]),
    }  # fmt: skip
    return {name: value for name, value in {**content, **changes}.items() if value is not None}


@pytest.fixture
def make(tmp_path):
    """Makes a data module of two classes of series."""

    def make_module(changes=None, **options):
        np.savez(tmp_path / "series.npz", **arrays(**(changes or {})))
        data = TimeSeriesDataModule(root=tmp_path / "series.npz", val_fraction=0.25, **options)
        data.setup()
        return data

    return make_module


class TestDataModule:
    def test_batches_are_clouds_of_standardised_values(self, make):
        data = make(batch_size=4)
        assert (data.dim, data.num_features, data.num_classes) == (1, 2, 2)
        assert data.split_sizes == {"train": 2, "val": 2, "test": 2}
        batch = next(iter(data.train_dataloader()))
        assert batch.pos.shape == (len(batch.x), 1) and batch.num_graphs == 2
        torch.testing.assert_close(batch.x.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
        torch.testing.assert_close(batch.x.std(0, correction=0), torch.ones(2))
        assert batch.pos.max() == 1.0  # in units of the longest series

    def test_many_large_values_are_standardised_exactly(self, make):
        long = 1_000_000
        x = 1000 + np.random.default_rng(0).standard_normal((1, 4 * long)).astype(np.float32)
        data = make(
            {
                "train_x": x, "train_offsets": np.arange(5) * long,
                "test_x": x[:, : 2 * long], "test_offsets": np.arange(3) * long,
            }
        )  # fmt: skip
        values = data.train_dataset[0].x
        assert abs(float(values.mean())) < 0.01 and abs(float(values.std()) - 1) < 0.01

    def test_missing_values_are_zero_and_marked(self, make):
        x = arrays()["train_x"]
        x[1, ::2] = np.nan
        data = make({"train_x": x})
        assert data.num_features == 4
        sample = data.train_dataset[0]
        assert torch.equal(sample.x[:, 1] == 0, sample.x[:, 3] == 0)
        assert bool((sample.x[:, 2] == 1).all()) and bool((sample.x[:, 3] == 0).any())
        assert bool(sample.x.isfinite().all())

    def test_series_of_equal_length_need_no_offsets(self, make):
        changes = {
            "train_x": np.random.default_rng(0).standard_normal((4, 2, 5)).astype(np.float32),
            "test_x": np.zeros((2, 2, 5), np.float32), "train_offsets": None, "test_offsets": None,
        }  # fmt: skip
        assert make(changes).test_dataset[0].pos.shape == (5, 1)

    def test_fewer_even_and_weighted_times(self, make):
        long = {"test_x": np.ones((2, 40), np.float32), "test_offsets": np.array([0, 30, 40])}
        whole = make(long).test_dataset[0]
        part = make(long, keep=0.5).test_dataset[0]
        assert (len(whole.pos), len(part.pos)) == (30, 15)
        assert len(make(long, keep=0.5).train_dataset[0].pos) == len(make().train_dataset[0].pos)
        even = make(long, keep=0.5, times="even").test_dataset[0]
        gaps = even.pos.diff(dim=0)
        torch.testing.assert_close(gaps, gaps[:1].expand_as(gaps))
        weights = make(long, weights=True)
        torch.testing.assert_close(weights.test_dataset[0].weight, torch.ones(30))
        assert make(long, weights=True, keep=0.5).test_dataset[0].weight.mean() > 1.5
        assert "weight" not in whole

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            (
                {"train_offsets": np.array([0, 3, 3, 9, 12])},
                RISING,
            ),
            (
                {"train_offsets": np.array([0, 3, 5, 9, 11])},
                RISING,
            ),
            (
                {"train_offsets": np.array([0, 9, 3, 10, 12], np.uint32)},
                RISING,
            ),
            ({"train_y": np.zeros(0, int)}, "as labels, at least one, got int64 of shape .0."),
            ({"train_x": np.full((2, 12), np.inf)}, "finite `train_x`, NaN if missing"),
            ({"train_y": np.array([0, 1, 2, 1])}, "labels from 0 to 1, got 0 to 2"),
            (
                {"train_y": np.array([0.0, 1, 0, 1])},
                "as labels, at least one, got float64",
            ),
            ({"train_x": np.zeros((2, 12), bool)}, "numbers `train_x` of 2 axes, got bool"),
            ({"train_x": np.zeros((3, 2, 5)), "train_offsets": None}, "4 series `train_x`, got 3"),
            ({"classes": None}, "expected an array `classes`"),
        ],
    )
    def test_broken_arrays_are_named(self, make, changes, match):
        with pytest.raises(ValueError, match=f"series.npz: .*{match}"):
            make(changes)

    def test_arguments_out_of_range_are_named(self):
        with pytest.raises(ValueError, match="Expected `root`, the file or folder"):
            TimeSeriesDataModule()
        with pytest.raises(ValueError, match="`keep` above 0"):
            TimeSeriesDataModule(root="x.npz", keep=0)
        with pytest.raises(ValueError, match="Expected `times` to be one of"):
            TimeSeriesDataModule(root="x.npz", times="odd")


def test_real_series_are_read(shared_data):
    data = TimeSeriesDataModule(root=shared_data / "ts_JapaneseVowels.npz")
    data.setup()
    assert data.split_sizes == {"train": 243, "val": 27, "test": 278}
    assert (data.num_features, data.num_classes) == (12, 9)
    series, classes = read_ts(shared_data / "original" / "ucr" / "JapaneseVowels_TRAIN.ts")
    stored = np.load(shared_data / "ts_JapaneseVowels.npz")
    assert len(series) == 270 and len(classes) == 9
    np.testing.assert_allclose(series.x.T, stored["train_x"], rtol=1e-6)
    np.testing.assert_array_equal(series.offsets, stored["train_offsets"])


def test_real_records_are_read(shared_data):
    folder = shared_data / "original" / "physionet2012"
    train, test, _ = read_physionet(folder)
    assert (len(train), len(test)) == (15, 5)
    stored = np.load(shared_data / "physionet2012.npz")
    record = int(sorted(path.stem for path in (folder / "set-a").glob("*.txt"))[0])
    index = int(np.flatnonzero(stored["train_record"] == record)[0])
    rows = slice(*stored["train_offsets"][index : index + 2])
    minutes, names, values = read_physionet_record(folder / "set-a" / f"{record}.txt")
    np.testing.assert_array_equal(minutes, stored["train_minute"][rows])
    np.testing.assert_allclose(values, stored["train_value"][rows], rtol=1e-6)
    assert names == [str(stored["variables"][i]) for i in stored["train_variable"][rows]]
    series, _, _ = read_physionet(shared_data / "physionet2012.npz")
    assert len(series) == 3996 and series.x.shape[1] == 41
