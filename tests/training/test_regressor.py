"""Training networks that predict numbers: normalisation, losses, metrics and tiny runs."""

import math

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo import CCNN  # noqa: E402
from ccnn_geo.training import CCNNRegressor  # noqa: E402
from training_helpers import Record, trainer  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]

TINY = {"hidden_channels": 4, "num_blocks": 1, "kernel_channels": 4, "num_neighbors": 4}
NAN = math.nan
UNITS = {"target_mean": [1.0, -2.0], "target_scale": [2.0, 0.5]}


def network(targets: int = 2, **options) -> CCNN:
    """The same network whenever asked for."""
    torch.manual_seed(0)
    return CCNN(3, targets, **{"dim": 3, **TINY, **options})


def regressor(targets: int = 2, readout="mean", **options) -> CCNNRegressor:
    return CCNNRegressor(network(targets, readout=readout), **{"warmup_epochs": 0, **options})


def clouds(targets: int = 2, per_point: bool = False, count: int = 4) -> list[Data]:
    """The same clouds whenever asked for, whose targets are sums of their coordinates."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        pos = (1 + number) / count * torch.rand(12, 3, generator=generator)
        values = pos[:, :targets].cumsum(dim=1)
        made.append(Data(x=pos, pos=pos, y=values if per_point else values.mean(0, keepdim=True)))
    return made


def batch_of(y) -> Batch:
    return Batch(y=torch.as_tensor(y))


class TestLoss:
    def test_is_the_mean_squared_error_of_normalised_targets(self):
        model = regressor(**UNITS)
        output = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
        target = [[3.0, -2.0], [1.0, -1.0]]
        # Normalised: (1, 0), (0, 2).
        expected = ((0 - 1) ** 2 + (1 - 0) ** 2 + (2 - 0) ** 2 + (-1 - 2) ** 2) / 4
        assert float(model.loss(output, batch_of(target))) == pytest.approx(expected)
        assert float(model.training_loss(output, batch_of(target))) == pytest.approx(expected)

    def test_of_grids_is_the_mean_over_their_cells(self):
        model = regressor(target_mean=[1.0, 0.0], target_scale=[1.0, 4.0])
        output, target = torch.randn(3, 2, 5), torch.randn(3, 2, 5)
        shift, scale = torch.tensor([1.0, 0.0])[:, None], torch.tensor([1.0, 4.0])[:, None]
        expected = (output - (target - shift) / scale).square().mean()
        torch.testing.assert_close(model.loss(output, batch_of(target)), expected)

    @pytest.mark.parametrize("missing", [NAN, math.inf])
    def test_leaves_out_targets_that_are_missing(self, missing):
        output = torch.tensor([[0.0, 1.0], [2.0, -1.0]], requires_grad=True)
        loss = regressor().loss(output, batch_of([[1.0, missing], [missing, 1.0]]))
        assert float(loss.detach()) == pytest.approx((1 + 4) / 2)
        loss.backward()
        assert output.grad.tolist() == [[-1.0, 0.0], [0.0, -2.0]]

    def test_is_zero_if_all_targets_are_missing(self):
        model = regressor()
        batch = Batch.from_data_list(clouds())
        batch.y = torch.full_like(batch.y, NAN)
        loss = model.loss(model(batch), batch)
        loss.backward()
        assert float(loss.detach()) == 0
        for name, parameter in model.named_parameters():
            assert not parameter.grad.any(), name

    def test_a_single_target_needs_no_axis(self):
        model = regressor(1, target_mean=[1.0], target_scale=[2.0])
        output = torch.tensor([[0.0], [1.0]])
        for target in ([3.0, 3.0], [[3.0], [3.0]]):
            assert float(model.loss(output, batch_of(target))) == pytest.approx((1 + 0) / 2)

    @pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 1), (3, 2), (4, 2, 1)])
    def test_targets_of_another_shape_are_refused(self, shape):
        message = rf"targets `y` of shape \[4, 2\], got \[{', '.join(map(str, shape))}\]"
        with pytest.raises(ValueError, match=message):
            regressor().loss(torch.zeros(4, 2), batch_of(torch.zeros(shape)))


class TestPredictions:
    def test_have_the_units_of_the_targets(self):
        output = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
        found = regressor(**UNITS).predictions(output, batch_of(output))
        assert found.tolist() == [[1.0, -1.5], [5.0, -2.5]]

    def test_of_grids_have_the_units_of_the_targets(self):
        output = torch.randn(3, 2, 4, 5)
        found = regressor(**UNITS).predictions(output, batch_of(output))
        torch.testing.assert_close(found[:, 0], 1 + 2 * output[:, 0])
        torch.testing.assert_close(found[:, 1], -2 + 0.5 * output[:, 1])

    def test_are_the_targets_where_the_loss_is_zero(self):
        model = regressor(**UNITS)
        target = torch.randn(6, 2)
        output = (target - torch.tensor([1.0, -2.0])) / torch.tensor([2.0, 0.5])
        assert float(model.loss(output, batch_of(target))) == 0
        torch.testing.assert_close(model.predictions(output, batch_of(target)), target)


class TestMetrics:
    def scores(self, model, predictions, target) -> dict[str, float]:
        model.val_metrics.reset()
        model.update_metrics(model.val_metrics, torch.tensor(predictions), batch_of(target))
        return {name: float(value) for name, value in model.val_metrics.compute().items()}

    def test_are_in_the_units_of_the_targets(self):
        model = regressor(target_mean=[5.0, 5.0], target_scale=[9.0, 9.0])
        target = [[0.0, 10.0], [2.0, 20.0], [4.0, 30.0]]
        guess = [[1.0, 10.0], [2.0, 23.0], [2.0, 30.0]]
        errors = [1, 0, 0, 3, 2, 0]
        shares = [1 - (1 + 4) / (4 + 4), 1 - 9 / (100 + 100)]
        assert self.scores(model, guess, target) == {
            "val/mae": pytest.approx(sum(errors) / 6),
            "val/rmse": pytest.approx(math.sqrt(sum(error**2 for error in errors) / 6)),
            "val/r2": pytest.approx(sum(shares) / 2),
        }

    def test_of_grids_are_means_over_their_cells(self):
        target = torch.randn(2, 2, 4)
        guess = target + torch.tensor([1.0, -3.0])[:, None]
        scores = self.scores(regressor(), guess.tolist(), target)
        assert scores["val/mae"] == pytest.approx(2.0, rel=1e-5)
        assert scores["val/rmse"] == pytest.approx(math.sqrt(5), rel=1e-5)

    def test_leave_out_rows_without_targets(self):
        target = [[1.0, 1.0], [NAN, NAN], [3.0, 5.0]]
        scores = self.scores(regressor(), [[0.0, 1.0], [9.0, 9.0], [3.0, 5.0]], target)
        assert scores["val/mae"] == pytest.approx(1 / 4)
        assert scores["val/rmse"] == pytest.approx(1 / 2)

    def test_a_single_target_needs_no_axis(self):
        scores = self.scores(regressor(1), [[1.0], [2.0]], [2.0, 4.0])
        assert scores["val/mae"] == pytest.approx(1.5)


class TestTraining:
    @pytest.mark.parametrize("per_point", [False, True], ids=["clouds", "points"])
    def test_the_loss_falls_on_a_fixed_batch(self, per_point):
        data = clouds(per_point=per_point)
        target = torch.cat([cloud.y for cloud in data])
        options = {
            "target_mean": target.mean(0).tolist(),
            "target_scale": target.std(0).tolist(),
            "readout": None if per_point else "mean",
        }
        record = Record()
        fit = trainer(max_epochs=20, callbacks=record)
        fit.fit(regressor(**options), DataLoader(data, batch_size=4))
        assert record.losses[-1] < 0.7 * record.losses[0]

    @pytest.mark.parametrize("per_point", [False, True], ids=["clouds", "points"])
    def test_a_run_reports_metrics_in_the_units_of_the_targets(self, per_point):
        data = clouds(per_point=per_point)
        model = regressor(
            readout=None if per_point else "mean",
            target_mean=[100.0, 200.0],
            target_scale=[10.0, 20.0],
        )
        loader = DataLoader(data, batch_size=2)
        fit = trainer(max_epochs=1)
        fit.fit(model, loader, loader)
        names = {"loss", "mae", "rmse", "r2"}
        reported = set(fit.callback_metrics)
        assert {f"{split}/{name}" for split in ("train", "val") for name in names} <= reported
        (scores,) = fit.test(model, loader, verbose=False)
        batch = Batch.from_data_list(data)
        with torch.no_grad():
            output = model.eval()(batch)
        guess = torch.tensor([100.0, 200.0]) + torch.tensor([10.0, 20.0]) * output
        errors = guess - batch.y
        assert scores["test/mae"] == pytest.approx(float(errors.abs().mean()), rel=1e-5)
        assert scores["test/rmse"] == pytest.approx(float(errors.square().mean().sqrt()), rel=1e-5)
        variance = (batch.y - batch.y.mean(0)).square().sum(0)
        shares = 1 - errors.square().sum(0) / variance
        assert scores["test/r2"] == pytest.approx(float(shares.mean()), rel=1e-3)

    def test_grids_are_predicted_cell_by_cell(self):
        torch.manual_seed(0)
        made = CCNN.for_grid(1, 2, size=(8,), readout=None, hidden_channels=4, num_blocks=1,
                             kernel_channels=4)  # fmt: skip
        model = CCNNRegressor(made, warmup_epochs=0)
        signals = torch.randn(4, 1, 8)
        data = [Data(x=x[None], y=torch.cat([x, -x])[None]) for x in signals]
        record = Record()
        fit = trainer(max_epochs=20, callbacks=record)
        loader = DataLoader(data, batch_size=4)
        fit.fit(model, loader, loader)
        assert record.losses[-1] < 0.7 * record.losses[0]
        batch = Batch.from_data_list(data)
        with torch.no_grad():
            output = model.eval()(batch)
        assert output.shape == batch.y.shape == (4, 2, 8)
        (scores,) = fit.test(model, loader, verbose=False)
        errors = output - batch.y
        assert scores["test/loss"] == pytest.approx(float(errors.square().mean()), rel=1e-5)
        assert scores["test/mae"] == pytest.approx(float(errors.abs().mean()), rel=1e-5)

    def test_a_checkpoint_gives_back_network_and_units(self, tmp_path):
        model = regressor(target_mean=[1.0, 2.0], target_scale=[3.0, 4.0])
        fit = trainer(max_steps=1)
        fit.fit(model, DataLoader(clouds(), batch_size=4))
        fit.save_checkpoint(tmp_path / "model.ckpt")
        loaded = CCNNRegressor.load_from_checkpoint(tmp_path / "model.ckpt")
        batch = Batch.from_data_list(clouds())
        output, expected = loaded.eval()(batch), model.eval()(batch)
        assert torch.equal(output, expected)
        assert torch.equal(loaded.predictions(output, batch), model.predictions(expected, batch))


class PerPoint(torch.nn.Linear):
    """A network that is no CCNN, but called like one."""

    def forward(self, x, pos, batch, *, batch_size):
        return super().forward(x)


def test_other_networks_can_be_trained():
    model = CCNNRegressor(PerPoint(3, 2), 2)
    batch = Batch.from_data_list(clouds(per_point=True))
    torch.testing.assert_close(
        model.loss(model(batch), batch), (model(batch) - batch.y).square().mean()
    )


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (network(), {"num_targets": 3}, "Expected a network with 3 outputs, got 2"),
        (PerPoint(3, 2), {}, "Expected `num_targets` for a network that is not a CCNN, got none"),
        (PerPoint(3, 2), {"num_targets": 0}, "Expected `num_targets` >= 1, got 0"),
        (network(), {"target_mean": [1.0]}, r"`target_mean` to be 2 finite numbers, got \[1.0\]"),
        (
            network(),
            {"target_mean": [1.0, NAN]},
            r"`target_mean` to be 2 finite numbers, got \[1.0, nan\]",
        ),
        (network(), {"target_scale": [1.0] * 3}, "`target_scale` to be 2 finite numbers, got"),
        (network(), {"target_scale": [1.0, 0.0]}, r"positive `target_scale`, got \[1.0, 0.0\]"),
        (network(), {"target_scale": [1.0, -1.0]}, r"positive `target_scale`, got \[1.0, -1.0\]"),
        (network(), {"learning_rate": 0.0}, "Expected `learning_rate` > 0, got 0.0"),
    ],
)
def test_networks_and_options_that_do_not_fit_are_refused(made, options, message):
    with pytest.raises(ValueError, match=message):
        CCNNRegressor(made, **options)


def test_metrics_count_known_targets_beside_missing_ones():
    model = regressor()
    target = [[1.0, NAN], [2.0, 5.0], [4.0, 7.0]]
    guess = torch.tensor([[4.0, 9.0], [2.0, 5.0], [4.0, 7.0]])
    model.update_metrics(model.val_metrics, guess, batch_of(target))
    assert float(model.val_metrics.compute()["val/mae"]) == pytest.approx(3 / 5)


def test_a_split_of_one_sample_can_be_evaluated():
    model = regressor()
    loader = DataLoader(clouds(count=1))
    (scores,) = trainer().validate(model, loader, verbose=False)
    assert scores["val/mae"] >= 0
