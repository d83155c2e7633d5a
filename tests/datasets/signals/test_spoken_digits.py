"""Spoken digits as grids: padding, loudness, lengths, and what is left out of test recordings."""

import numpy as np
import pytest
import torch
from scipy.io import wavfile

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo import CCNN  # noqa: E402
from ccnn_geo.datasets import SpokenDigitsDataModule  # noqa: E402
from ccnn_geo.training.classifier import CCNNClassifier  # noqa: E402
from datasets_helpers import put_recordings, recording_arrays  # noqa: E402


def module(root, **options) -> SpokenDigitsDataModule:
    options = {"duration": 0.01, "val_fraction": 0.5, **options}
    data = SpokenDigitsDataModule(root=root, **options)
    data.setup()
    return data


class TestGrids:
    """The recordings of `put_recordings` have 40 to 120 samples; 0.01 seconds are 80."""

    def test_recordings_are_cropped_or_padded_and_as_loud_as_can_be(self, tmp_path):
        put_recordings(tmp_path)
        data = module(tmp_path)
        assert (data.num_features, data.size, data.dim) == (1, (80,), 1)
        assert data.split_sizes == {"train": 4, "val": 4, "test": 20}
        for number, sample in enumerate(data.test_dataset):
            name = f"{number // 10}_{'ann' if number % 10 < 5 else 'bob'}_{number % 5}.wav"
            samples = torch.from_numpy(wavfile.read(tmp_path / name)[1])[:80].float()
            expected = torch.zeros(80)
            expected[: len(samples)] = samples / samples.abs().max()
            assert sample.x.dtype == torch.float32
            torch.testing.assert_close(sample.x, expected[None, None])
            assert int(sample.y) == number // 10
            assert "length" not in sample
            assert "spacing" not in sample

    def test_or_as_loud_as_they_were(self, tmp_path):
        np.savez(tmp_path / "fsdd_train.npz", **recording_arrays())
        np.savez(tmp_path / "fsdd_test.npz", **recording_arrays())
        data = module(tmp_path, duration=4 / 8000, normalize=False)
        x = torch.cat([sample.x for sample in data.test_dataset])
        expected = torch.tensor([[5, -5, 7, 0], [1, 0, 0, 0], [2, -32768, 0, 0]]) / 32768
        assert torch.equal(x, expected.unsqueeze(1))

    def test_a_single_sample_is_kept_on_request(self, tmp_path):
        np.savez(tmp_path / "fsdd_train.npz", **recording_arrays())
        np.savez(tmp_path / "fsdd_test.npz", **recording_arrays())
        data = module(tmp_path, duration=1 / 8000)
        assert data.test_dataset[0].x.shape == (1, 1, 1)

    def test_silence_stays_silent(self, tmp_path):
        np.savez(tmp_path / "fsdd_train.npz", **recording_arrays(samples=np.zeros(6, np.int16)))
        np.savez(tmp_path / "fsdd_test.npz", **recording_arrays())
        assert module(tmp_path).train_dataset[0].x.eq(0).all()

    def test_lengths_can_be_kept(self, tmp_path):
        put_recordings(tmp_path)
        data = module(tmp_path, keep_lengths=True)
        for sample in data.test_dataset:
            length = int(sample.length)
            assert length == 80 or sample.x[..., length:].eq(0).all()
            assert sample.x[..., length - 1].ne(0).all()
        assert {int(sample.length) for sample in data.test_dataset} >= {40, 80}
        model = CCNNClassifier(
            CCNN.for_grid(1, 10, size=(80,), hidden_channels=4, num_blocks=1)
        ).eval()
        sample = next(sample for sample in data.test_dataset if int(sample.length) < 80)
        alone = model.network(sample.x[..., : int(sample.length)])
        torch.testing.assert_close(model(sample), alone, atol=1e-5, rtol=1e-5)

    def test_the_test_alone_takes_every_second_sample(self, tmp_path):
        put_recordings(tmp_path)
        whole, half = (
            module(tmp_path, keep_lengths=True),
            module(tmp_path, keep_lengths=True, subsample=2),
        )
        assert half.size == (80,)
        for split in ("train", "val"):
            samples, others = (getattr(data, f"{split}_dataset") for data in (whole, half))
            for sample, other in zip(samples, others, strict=True):
                assert torch.equal(sample.x, other.x)
                assert "spacing" not in other
        for sample, coarse in zip(whole.test_dataset, half.test_dataset, strict=True):
            assert torch.equal(coarse.x, sample.x[..., ::2])
            assert int(coarse.length) == -(-int(sample.length) // 2)
            assert coarse.spacing.tolist() == [2]

    def test_a_network_need_not_be_told(self, tmp_path):
        put_recordings(tmp_path)
        assert "spacing" not in module(tmp_path, subsample=2, rescale=False).test_dataset[0]

    def test_training_can_take_every_second_sample_too(self, tmp_path):
        put_recordings(tmp_path)
        data = module(tmp_path, subsample=2, train_subsample=2)
        assert data.size == (40,)
        assert data.val_dataset[0].x.shape == data.test_dataset[0].x.shape == (1, 1, 40)
        assert "spacing" not in data.test_dataset[0]
        assert module(tmp_path, train_subsample=2).test_dataset[0].spacing.tolist() == [0.5]

    def test_a_batch_is_classified_with_rescaled_kernels(self, tmp_path):
        put_recordings(tmp_path)
        data = module(tmp_path, subsample=2)
        model = CCNNClassifier(
            CCNN.for_grid(1, 10, size=data.size, hidden_channels=4, num_blocks=1)
        ).eval()
        batch = next(iter(data.test_dataloader()))
        expected = model.network(batch.x, spacing=2.0)
        assert torch.equal(model(batch), expected)
        assert not torch.allclose(model.network(batch.x), expected, rtol=1e-3)

    def test_handwritten_digits_are_read_row_by_row_from_no_file(self, tmp_path):
        data = SpokenDigitsDataModule("digits", tmp_path, subsample=2)
        data.setup()
        assert data.size == (64,)
        assert data.test_dataset[0].x.shape == (1, 1, 32)
        assert data.num_classes == 10
        assert 0 <= data.train_dataset[0].x.min() < data.train_dataset[0].x.max() <= 1
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"name": "fsdd"}, "`name` to be one of .*, got 'fsdd'"),
            ({"duration": 0}, "`duration` of a sample or more, got 0 seconds"),
            ({"duration": float("nan")}, "`duration` of a sample or more, got nan"),
            ({"duration": float("inf")}, "`duration` of a sample or more, got inf"),
            ({"subsample": 0}, "`subsample` >= 1, got 0"),
            ({"train_subsample": -1}, "`train_subsample` >= 1, got -1"),
            ({"batch_size": 0}, "`batch_size` >= 1"),
        ],
    )
    def test_refuses_arguments_out_of_range(self, options, message):
        with pytest.raises(ValueError, match=message):
            SpokenDigitsDataModule(**options)


def test_the_real_recordings_are_read_from_their_arrays(shared_data):
    data = SpokenDigitsDataModule(root=shared_data)
    data.setup()
    assert data.split_sizes == {"train": 2160, "val": 240, "test": 300}
    assert data.size == (8000,)
    assert np.bincount(data.test_dataset.signals.y).tolist() == [30] * 10
    peaks = np.abs(data.test_dataset.signals.x).max(axis=2)
    np.testing.assert_allclose(peaks, 1)
