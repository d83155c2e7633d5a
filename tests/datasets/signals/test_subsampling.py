"""Sequences at other sampling rates than those of training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.datasets.signals.dataset import Signals  # noqa: E402
from ccnn_geo.datasets.signals.subsampling import SubsampledDataModule, every  # noqa: E402
from ccnn_geo.transforms import NormalizeChannels  # noqa: E402


def signals(count: int = 12, **options) -> Signals:
    x = np.arange(count * 2 * 7, dtype=np.int16).reshape(count, 2, 7)
    return Signals(x, np.arange(count) % 2, **options)


class Module(SubsampledDataModule):
    def __init__(self, *, subsample: int = 1, train_subsample: int = 1, rescale: bool = True):
        super().__init__(
            "nowhere", subsample=subsample, train_subsample=train_subsample, rescale=rescale,
            batch_size=5, num_workers=0, seed=0, split_seed=0, val_fraction=0.5, train_size=None,
        )  # fmt: skip

    def read_whole(self):
        return signals(), signals(6), ["a", "b"]

    def steps(self):
        return [NormalizeChannels([1.0, 2.0], [2.0, 4.0])]


def module(**options) -> Module:
    data = Module(**options)
    data.setup()
    return data


class TestEvery:
    @pytest.mark.parametrize("step", [1, 2, 3, 7, 9])
    def test_keeps_every_nth_sample_and_what_is_known_of_the_signals(self, step):
        whole = signals(3, length=np.array([1, 6, 7]), scale=0.5)
        part = every(whole, step)
        np.testing.assert_array_equal(part.x, whole.x[..., ::step])
        assert part.length.tolist() == [len(range(0, length, step)) for length in (1, 6, 7)]
        unchanged = replace(part, x=whole.x, length=whole.length)
        assert vars(unchanged) == vars(whole)
        assert np.shares_memory(part.x, whole.x)


class TestDataModule:
    @pytest.mark.parametrize("rescale", [True, False])
    @pytest.mark.parametrize("subsample", [1, 2, 3])
    def test_one_that_is_set_up_gives_the_test_at_any_rate(self, subsample, rescale):
        expected = module(subsample=subsample, rescale=rescale).test_dataloader()
        for configured in (1, 2):
            loader = module(subsample=configured).test_dataloader_at(subsample, rescale=rescale)
            batches = list(zip(expected, loader, strict=True))
            assert [len(first.y) for first, _ in batches] == [5, 1]
            for first, second in batches:
                assert torch.equal(first.x, second.x)
                assert torch.equal(first.y, second.y)
                assert ("spacing" in first) == ("spacing" in second) == (rescale and subsample > 1)
                if "spacing" in first:
                    assert first.spacing.tolist() == second.spacing.tolist()

    def test_spacing_is_relative_to_training(self):
        data = module(train_subsample=2)
        assert data.size == (4,)
        spacings = [next(iter(data.test_dataloader_at(step))).get("spacing") for step in (1, 2, 4)]
        assert spacings[0].tolist() == [0.5] * 5
        assert spacings[1] is None
        assert spacings[2].tolist() == [2] * 5

    def test_every_split_is_transformed(self):
        data = module(subsample=2)
        for split in ("train", "val", "test"):
            dataset = getattr(data, f"{split}_dataset")
            x = torch.from_numpy(dataset.signals.x[0]).float()
            expected = torch.stack([(x[0] - 1) / 2, (x[1] - 2) / 4])
            torch.testing.assert_close(dataset[0].x[0], expected)

    @pytest.mark.parametrize("argument", ["subsample", "train_subsample"])
    def test_refuses_a_step_below_one(self, argument):
        with pytest.raises(ValueError, match=f"Expected `{argument}` >= 1, got 0"):
            Module(**{argument: 0})
        with pytest.raises(ValueError, match="Expected `subsample` >= 1, got -1"):
            module().test_dataloader_at(-1)

    def test_refuses_to_load_before_it_is_set_up(self):
        with pytest.raises(RuntimeError, match="`setup..` to be called first"):
            Module().test_dataloader_at(2)
