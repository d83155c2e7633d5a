"""Training: parameter groups, schedule, losses and metrics, and two processes that make one."""

import math
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch.utils.data import DistributedSampler
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import global_mean_pool

pl = pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo import CCNN, collect_kernel_norms, kernel_penalty  # noqa: E402
from ccnn_geo.nn import (  # noqa: E402
    GaussianWindow,
    KernelNetwork,
    S4Block,
    frequency_penalty,
)
from ccnn_geo.ops import nyquist_frequency  # noqa: E402
from ccnn_geo.training.classifier import CCNNClassifier, ClassMeanAccuracy  # noqa: E402
from ccnn_geo.training.optim import parameter_groups, warmup_cosine  # noqa: E402
from training_helpers import (  # noqa: E402
    CLASSES,
    TINY,
    Record,
    tiny_classifier,
    tiny_network,
    trainer,
)

pytestmark = [
    # Clouds in memory need no workers; Lightning itself uses what torch has deprecated.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]


def clouds(count: int, points: int = 16) -> list[Data]:
    """The same clouds whenever asked for, whose class shows in the spread of their points."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    positions = (
        torch.rand(count, points, 3, generator=generator) * (1 + labels[:, None, None]) / CLASSES
    )
    return [
        Data(x=pos, pos=pos, y=label[None]) for pos, label in zip(positions, labels, strict=True)
    ]


class TestParameterGroups:
    model = tiny_network()

    def groups(self, **options):
        groups = parameter_groups(self.model, learning_rate=0.1, **options)
        return {group["name"]: group for group in groups}

    def test_every_parameter_is_in_exactly_one_group(self):
        grouped = list(chain.from_iterable(g["params"] for g in self.groups().values()))
        assert len(grouped) == len(set(grouped))
        assert set(grouped) == set(self.model.parameters())

    def test_windows_have_a_learning_rate_of_their_own(self):
        groups = self.groups(window_lr_ratio=0.25)
        windows = [m.log_width for m in self.model.modules() if isinstance(m, GaussianWindow)]
        assert len(windows) == 2
        assert set(groups["windows"]["params"]) == set(windows)
        assert {name: group["lr"] for name, group in groups.items()} == {
            "weights": 0.1, "kernels": 0.1, "vectors": 0.1, "windows": 0.025,
        }  # fmt: skip

    def test_only_matrices_outside_the_kernel_networks_decay(self):
        groups = self.groups(weight_decay=0.01)
        decays = {name: group["weight_decay"] for name, group in groups.items()}
        assert decays == {"weights": 0.01, "kernels": 0.0, "vectors": 0.0, "windows": 0.0}
        networks = [m for m in self.model.modules() if isinstance(m, KernelNetwork)]
        kernels = set(chain.from_iterable(network.parameters() for network in networks))
        assert set(groups["kernels"]["params"]) == kernels
        matrices = {p for p in self.model.parameters() if p.dim() > 1} - kernels
        assert set(groups["weights"]["params"]) == matrices
        assert all(p.dim() == 1 for p in groups["vectors"]["params"])

    def test_frozen_parameters_and_empty_groups_are_left_out(self):
        model = torch.nn.Linear(2, 2)
        model.bias.requires_grad_(False)
        (group,) = parameter_groups(model, learning_rate=0.1)
        assert group["name"] == "weights"
        assert group["params"] == [model.weight]


class TestSchedule:
    def test_rises_linearly_then_falls_along_a_cosine_to_zero(self):
        factors = [warmup_cosine(step, 4, 10) for step in range(12)]
        third, half = math.cos(math.pi / 6), math.cos(math.pi / 3)
        falling = [1.0, 1 + third, 1 + half, 1.0, 1 - half, 1 - third]
        expected = [0.25, 0.5, 0.75, 1.0, 1.0, *(x / 2 for x in falling[1:]), 0.0, 0.0]
        assert factors == pytest.approx(expected, abs=1e-12)

    def test_needs_no_warmup(self):
        assert [warmup_cosine(step, 0, 2) for step in range(3)] == pytest.approx([1.0, 0.5, 0.0])

    def test_every_step_of_a_training_follows_it(self):
        record = Record()
        fit = trainer(max_epochs=4, accumulate_grad_batches=2, callbacks=record)
        options = {"learning_rate": 0.1, "window_lr_ratio": 0.5, "warmup_epochs": 1}
        fit.fit(tiny_classifier(**options), DataLoader(clouds(6), batch_size=2))
        # Three batches are two steps: two batches together, and the one that is left.
        steps = [warmup_cosine(step, 2, 8) for step in range(8)]
        expected = [
            steps[step] for epoch in range(4) for step in (2 * epoch, 2 * epoch, 2 * epoch + 1)
        ]
        assert [rates["weights"] for rates in record.rates] == pytest.approx(
            [0.1 * factor for factor in expected]
        )
        assert [rates["windows"] for rates in record.rates] == pytest.approx(
            [0.05 * factor for factor in expected]
        )

    def test_warmup_takes_at_most_half_of_the_training(self):
        record = Record()
        fit = trainer(max_epochs=4, callbacks=record)
        fit.fit(tiny_classifier(learning_rate=1e-3, warmup_epochs=10), DataLoader(clouds(2)))
        expected = [1e-3 * warmup_cosine(step, 4, 8) for step in range(8)]
        assert [rates["weights"] for rates in record.rates] == pytest.approx(expected)

    def test_endless_training_is_refused(self):
        with pytest.raises(ValueError, match="`max_epochs` or `max_steps`"):
            trainer(max_epochs=-1).fit(tiny_classifier(), DataLoader(clouds(2)))


class TestLoss:
    batch = Batch.from_data_list(clouds(6))

    def first_step(self, **options) -> tuple[float, CCNNClassifier]:
        """The loss of the first step, and the model with its gradients."""
        model = tiny_classifier(**options)
        fit = trainer(max_steps=1)
        fit.fit(model, DataLoader(self.batch.to_data_list(), batch_size=6))
        return float(fit.callback_metrics["train/loss"]), model

    def test_is_cross_entropy_with_label_smoothing(self):
        logits = tiny_classifier()(self.batch).detach()
        for smoothing in (0.0, 0.3):
            expected = torch.nn.functional.cross_entropy(
                logits, self.batch.y, label_smoothing=smoothing
            )
            loss, _ = self.first_step(label_smoothing=smoothing)
            assert loss == pytest.approx(float(expected), rel=1e-6)

    def test_grows_by_the_weighted_kernel_penalty(self):
        with collect_kernel_norms() as norms:
            tiny_classifier()(self.batch)
        penalty = float(kernel_penalty(norms).detach())
        without, _ = self.first_step()
        with_penalty, _ = self.first_step(kernel_l2=0.5)
        assert penalty > 0.1
        assert with_penalty - without == pytest.approx(0.5 * penalty, rel=1e-4)

    def test_grows_by_the_weighted_penalty_on_frequencies_the_points_do_not_resolve(self):
        nyquist = nyquist_frequency(self.batch.pos, self.batch.batch)
        excess = float(frequency_penalty(tiny_classifier().network, nyquist).detach())
        without, _ = self.first_step()
        with_penalty, _ = self.first_step(frequency_penalty=0.5)
        assert excess > 0.1
        assert with_penalty - without == pytest.approx(0.5 * excess, rel=1e-4)

    def test_penalty_reaches_kernels_and_windows(self):
        _, plain = self.first_step()
        _, penalised = self.first_step(kernel_l2=0.5)
        gradients = dict(penalised.named_parameters())
        for name, parameter in plain.named_parameters():
            if "kernel" in name or "window" in name:
                assert not torch.equal(parameter.grad, gradients[name].grad), name

    def test_falls_on_a_fixed_batch(self):
        record = Record()
        loader = DataLoader(self.batch.to_data_list(), batch_size=6)
        trainer(max_epochs=24, callbacks=record).fit(tiny_classifier(kernel_l2=1e-4), loader)
        assert record.losses[-1] < 0.5 * record.losses[0]


class TestMetrics:
    def test_class_mean_leaves_out_classes_without_clouds(self):
        metric = ClassMeanAccuracy(4)
        metric.update(torch.tensor([0, 0, 1, 3]), torch.tensor([0, 0, 0, 1]))
        assert float(metric.compute()) == pytest.approx((2 / 3 + 0) / 2)

    def test_are_means_over_clouds_and_over_classes(self):
        data = clouds(7)
        model = tiny_classifier().eval()
        with torch.no_grad():
            logits = model(Batch.from_data_list(data))
        labels = torch.cat([cloud.y for cloud in data])
        right = (logits.argmax(-1) == labels).float()
        expected = {
            "loss": torch.nn.functional.cross_entropy(logits, labels).item(),
            "accuracy": right.mean().item(),
            "class_accuracy": torch.stack([right[labels == c].mean() for c in range(3)]).mean(),
        }
        loader = DataLoader(data, batch_size=4)
        test = trainer()
        for split, measure in (("val", test.validate), ("test", test.test)):
            (scores,) = measure(model, loader, verbose=False)
            for name, value in expected.items():
                assert scores[f"{split}/{name}"] == pytest.approx(float(value), rel=1e-5)


class TestCheckpoint:
    @pytest.fixture
    def saved(self, tmp_path) -> tuple[CCNNClassifier, Path]:
        """A classifier after two steps, and its checkpoint."""
        network = tiny_network(omega_0=20.0, extent=(1.0, 2.0, 0.5), block=S4Block)
        model = CCNNClassifier(network, label_smoothing=0.1, learning_rate=0.01)
        fit = trainer(max_steps=2)
        fit.fit(model, DataLoader(clouds(4)))
        fit.save_checkpoint(tmp_path / "model.ckpt")
        return model, tmp_path / "model.ckpt"

    def test_gives_back_the_model_from_the_file_alone(self, saved):
        model, path = saved
        loaded = CCNNClassifier.load_from_checkpoint(path)
        batch = Batch.from_data_list(clouds(3))
        assert loaded.hparams == model.hparams
        assert loaded.network.config == model.network.config
        assert torch.equal(loaded.eval()(batch), model.eval()(batch))

    def test_weights_can_be_loaded_into_a_given_network(self, saved):
        model, path = saved
        network = tiny_network(omega_0=20.0, extent=(1.0, 2.0, 0.5), block=S4Block)
        loaded = CCNNClassifier.load_from_checkpoint(path, network=network)
        assert loaded.network is network
        for name, tensor in model.network.state_dict().items():
            assert torch.equal(network.state_dict()[name], tensor)

    def test_of_another_network_needs_it_as_an_argument(self, tmp_path):
        model = CCNNClassifier(Mean(), CLASSES)
        fit = trainer(max_steps=1)
        fit.fit(model, DataLoader(clouds(4)))
        fit.save_checkpoint(tmp_path / "model.ckpt")
        with pytest.raises(ValueError, match="model.ckpt: expected the checkpoint of a CCNN"):
            CCNNClassifier.load_from_checkpoint(tmp_path / "model.ckpt")
        loaded = CCNNClassifier.load_from_checkpoint(tmp_path / "model.ckpt", network=Mean())
        assert torch.equal(loaded(clouds(1)[0]), model(clouds(1)[0]))

    def test_classifies_a_single_cloud(self):
        model = tiny_classifier().eval()
        first, second = clouds(2)
        alone = torch.cat([model(first), model(second)])
        together = model(Batch.from_data_list([first, second]))
        assert torch.allclose(alone, together, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "Expected `learning_rate` > 0, got 0.0"),
        ({"window_lr_ratio": -1.0}, "Expected `window_lr_ratio` >= 0, got -1.0"),
        ({"warmup_epochs": -1}, "Expected `warmup_epochs` >= 0, got -1"),
        ({"weight_decay": -0.1}, "Expected `weight_decay` >= 0, got -0.1"),
        ({"kernel_l2": -1e-6}, "Expected `kernel_l2` >= 0, got -1e-06"),
        ({"frequency_penalty": -1.0}, "Expected `frequency_penalty` >= 0, got -1.0"),
        ({"label_smoothing": 1.0}, r"Expected `label_smoothing` in \[0, 1\), got 1.0"),
    ],
)
def test_arguments_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_classifier(**options)


class Mean(torch.nn.Linear):
    """A network that is no CCNN, but called like one."""

    def __init__(self) -> None:
        super().__init__(3, CLASSES)

    def forward(self, x, pos, batch, *, batch_size):
        return global_mean_pool(super().forward(x), batch, batch_size)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (CCNN(3, 1, dim=3, **TINY), {}, "Expected `num_classes` >= 2, got 1"),
        (tiny_network(), {"num_classes": 4}, "Expected a network with 4 outputs, got 3"),
        (tiny_network(readout=None), {}, "Expected a network with a `readout`, got one without"),
        (Mean(), {}, "Expected `num_classes` for a network that is not a CCNN, got none"),
        (
            Mean(),
            {"num_classes": 3, "frequency_penalty": 1.0},
            "`frequency_penalty` = 0 for a network without",
        ),
        (Mean(), {"num_classes": 3, "kernel_l2": 1.0}, "`kernel_l2` = 0 for a network without"),
    ],
    ids=[
        "one class",
        "other classes",
        "no readout",
        "unknown classes",
        "no frequencies",
        "no kernels",
    ],
)
def test_networks_that_do_not_fit_are_refused(network, options, message):
    with pytest.raises(ValueError, match=message):
        CCNNClassifier(network, **options)


def test_clouds_without_features_are_refused():
    cloud = Data(pos=torch.rand(4, 3))
    with pytest.raises(ValueError, match=r"Expected `x` in a batch, got \['pos'\]"):
        tiny_classifier()(cloud)


class FrozenStatistics(pl.Callback):
    """Keeps batch norm at its running statistics, which no batch then depends on."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for module in pl_module.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.eval()


class SharedClouds(pl.LightningDataModule):
    """Eight clouds in batches of four, or of two for each of two processes."""

    def __init__(self) -> None:
        super().__init__()
        self.clouds = clouds(8)

    def train_dataloader(self):
        processes, rank = self.trainer.world_size, self.trainer.global_rank
        sampler = DistributedSampler(self.clouds, processes, rank, shuffle=False)
        return DataLoader(self.clouds, batch_size=4 // processes, sampler=sampler)

    val_dataloader = train_dataloader


def losses(**options) -> list[float]:
    """The mean losses of the second epoch of a training."""
    torch.manual_seed(0)
    fit = trainer(max_epochs=2, callbacks=FrozenStatistics(), **options)
    fit.fit(tiny_classifier(kernel_l2=0.1, learning_rate=0.05), SharedClouds())
    return [float(fit.callback_metrics[f"{split}/loss"]) for split in ("train", "val")]


class LeavingStrategy(pl.strategies.DDPStrategy):
    """Leaves the process group before its process ends, which may crash on the group otherwise."""

    def teardown(self) -> None:
        super().teardown()
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch.distributed is missing")
def test_two_processes_have_the_loss_of_one():
    single = losses()
    strategy = LeavingStrategy(start_method="spawn", process_group_backend="gloo")
    assert losses(devices=2, strategy=strategy) == pytest.approx(single, rel=1e-5)


def test_the_randomness_of_a_step_depends_on_seed_epoch_and_batch():
    drawn = []

    class Draw(Record):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            drawn.append(float(torch.rand(())))

    for seed in (0, 1):
        network = tiny_network()
        torch.manual_seed(seed)
        fit = trainer(max_epochs=2, callbacks=Draw())
        fit.fit(CCNNClassifier(network), DataLoader(clouds(4), batch_size=2))
    assert len(drawn) == len(set(drawn)) == 8
