"""Training networks that label every point: losses, metrics and tiny runs."""

import math

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo import CCNN  # noqa: E402
from ccnn_geo.training import CCNNSegmenter, PartIoU  # noqa: E402
from ccnn_geo.training.scores import segmentation_scores  # noqa: E402
from training_helpers import Record, trainer  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]

TINY = {"hidden_channels": 4, "num_blocks": 1, "kernel_channels": 4, "num_neighbors": 4}
CLASSES = 4
PARTS = [[0, 1], [2, 3]]


def network(**options) -> CCNN:
    """The same network whenever asked for."""
    torch.manual_seed(0)
    return CCNN(3, CLASSES, **{"dim": 3, "readout": None, **TINY, **options})


def segmenter(**options) -> CCNNSegmenter:
    return CCNNSegmenter(network(), **{"warmup_epochs": 0, **options})


def clouds(count: int = 4, points: int = 12) -> list[Data]:
    """The same clouds whenever asked for, whose points are labelled by height and category."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        pos = torch.rand(points, 3, generator=generator)
        category = number % 2
        labels = 2 * category + (pos[:, 2] > 0.5).long()
        made.append(Data(x=pos, pos=pos, y=labels, category=torch.tensor([category])))
    return made


def labelled(labels: list[int], categories=(0,), sizes=None) -> Batch:
    """A batch of clouds with these labels."""
    sizes = [len(labels)] if sizes is None else sizes
    return Batch(
        y=torch.tensor(labels),
        batch=torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
        category=torch.tensor(categories),
    )


def cross_entropy(logits, labels, weights=(1.0,) * CLASSES, smoothing=0.0) -> float:
    """The weighted mean over the points, point by point."""
    total = norm = 0.0
    for row, label in zip(logits.tolist(), labels, strict=True):
        if label < 0:
            continue
        log_sum = math.log(sum(math.exp(value) for value in row))
        costs = [weight * (log_sum - value) for weight, value in zip(weights, row, strict=True)]
        total += (1 - smoothing) * costs[label] + smoothing / CLASSES * sum(costs)
        norm += weights[label]
    return total / norm


class TestLoss:
    logits = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(1))
    labels = (0, 3, -1, 1, 1, -1)

    @pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), (0.5, 2.0, 1.0, 0.25)])
    @pytest.mark.parametrize("smoothing", [0.0, 0.3])
    def test_is_the_weighted_cross_entropy_of_the_labelled_points(self, weights, smoothing):
        options = {} if weights[0] == 1 else {"class_weights": weights}
        model = segmenter(label_smoothing=smoothing, **options)
        batch = labelled(list(self.labels))
        expected = cross_entropy(self.logits, self.labels, weights, smoothing)
        assert float(model.training_loss(self.logits, batch)) == pytest.approx(expected, rel=1e-5)
        plain = cross_entropy(self.logits, self.labels, weights)
        assert float(model.loss(self.logits, batch)) == pytest.approx(plain, rel=1e-5)

    @pytest.mark.parametrize("weights", [None, (0.5, 2.0, 1.0, 0.25)])
    @pytest.mark.parametrize("smoothing", [0.0, 0.3])
    def test_is_zero_without_a_labelled_point(self, weights, smoothing):
        model = segmenter(class_weights=weights, label_smoothing=smoothing)
        batch = Batch.from_data_list(clouds())
        batch.y = torch.full_like(batch.y, -1)
        for loss in (model.loss, model.training_loss):
            model.zero_grad()
            value = loss(model(batch), batch)
            value.backward()
            assert float(value.detach()) == 0
            for name, parameter in model.named_parameters():
                assert not parameter.grad.any(), name

    def test_points_that_are_ignored_get_no_gradient(self):
        logits = self.logits.clone().requires_grad_()
        segmenter(label_smoothing=0.1).training_loss(logits, labelled(list(self.labels))).backward()
        rows = logits.grad.abs().sum(dim=1)
        assert (rows > 0).tolist() == [True, True, False, True, True, False]

    def test_another_label_can_be_ignored(self):
        labels = [0, 3, 255, 1, 1, 255]
        model = segmenter(ignore_index=255)
        found = float(model.loss(self.logits, labelled(labels)))
        assert found == pytest.approx(cross_entropy(self.logits, self.labels), rel=1e-5)

    def test_balanced_weights_are_inverse_to_the_counts(self):
        model = segmenter(class_weights="balanced", class_counts=[10, 30, 0, 40])
        expected = [80 / (4 * 10), 80 / (4 * 30), 80 / 4, 80 / (4 * 40)]
        assert model.class_weights.tolist() == pytest.approx(expected)
        batch = labelled(list(self.labels))
        found = float(model.loss(self.logits, batch))
        assert found == pytest.approx(cross_entropy(self.logits, self.labels, expected), rel=1e-5)

    @pytest.mark.parametrize("shape", [(2,), (12, 1), (13,)])
    def test_labels_of_another_shape_are_refused(self, shape):
        batch = Batch.from_data_list(clouds(1))
        batch.y = torch.zeros(shape, dtype=torch.long)
        message = rf"labels `y` of shape \[12\], one for every point, got \[{shape[0]}"
        with pytest.raises(ValueError, match=message):
            segmenter().loss(torch.zeros(12, CLASSES), batch)


class TestPredictions:
    def test_are_the_logits_without_parts(self):
        logits = torch.randn(5, CLASSES)
        assert torch.equal(segmenter().predictions(logits, labelled([0] * 5)), logits)

    def test_stay_within_the_parts_of_the_category(self):
        logits = torch.randn(6, CLASSES)
        batch = labelled([0] * 6, categories=(1, 0), sizes=[2, 4])
        found = segmenter(parts=PARTS).predictions(logits, batch)
        assert torch.equal(found[:2, 2:], logits[:2, 2:])
        assert torch.equal(found[2:, :2], logits[2:, :2])
        assert (found[:2, :2] == -torch.inf).all()
        assert (found[2:, 2:] == -torch.inf).all()
        assert set(found.argmax(-1)[:2].tolist()) <= {2, 3}
        assert set(found.argmax(-1)[2:].tolist()) <= {0, 1}

    def test_parts_may_be_shared_by_categories(self):
        model = segmenter(parts=[[0, 2], [1, 2, 3]])
        batch = labelled([0, 0], categories=(0, 1), sizes=[1, 1])
        found = model.predictions(torch.zeros(2, CLASSES), batch)
        assert (found == 0).tolist() == [[True, False, True, False], [False, True, True, True]]


class TestPartIoU:
    def update(self, metric: PartIoU) -> PartIoU:
        """Three objects: two of category 0 and one of category 1."""
        # Part 0: 2 of 3, part 1: 1 of 2.
        metric.update(
            torch.tensor([0, 0, 0, 1]),
            torch.tensor([0, 0, 1, 1]),
            torch.zeros(4, dtype=torch.long),
            torch.tensor([0]),
        )
        # Part 0: all, part 1: neither there nor predicted. Then part 2: 1 of 2, part 3: 0 of 1;
        # the last point does not count.
        metric.update(
            torch.tensor([0, 0, 2, 3, 2]),
            torch.tensor([0, 0, 2, 2, -1]),
            torch.tensor([0, 0, 1, 1, 1]),
            torch.tensor([0, 1]),
        )
        return metric

    def test_is_the_mean_over_objects_of_the_mean_over_their_parts(self):
        first, second, third = (2 / 3 + 1 / 2) / 2, 1.0, 1 / 4
        metric = self.update(PartIoU(PARTS))
        assert float(metric.compute()) == pytest.approx((first + second + third) / 3)

    def test_can_be_averaged_over_the_categories_that_occur(self):
        first, second, third = (2 / 3 + 1 / 2) / 2, 1.0, 1 / 4
        metric = self.update(PartIoU([*PARTS, [0]], average="category"))
        assert float(metric.compute()) == pytest.approx(((first + second) / 2 + third) / 2)

    def test_parts_of_other_categories_do_not_count(self):
        metric = PartIoU(PARTS)
        batch = torch.zeros(4, dtype=torch.long)
        metric.update(torch.tensor([0, 2, 3, 0]), torch.zeros(4).long(), batch, torch.tensor([0]))
        assert float(metric.compute()) == pytest.approx((2 / 4 + 1) / 2)

    def test_starts_anew_after_a_reset(self):
        metric = self.update(PartIoU(PARTS))
        metric.reset()
        metric.update(
            torch.tensor([2, 3]), torch.tensor([2, 3]), torch.zeros(2).long(), torch.tensor([1])
        )
        assert float(metric.compute()) == 1


class TestMetrics:
    def test_are_those_of_the_confusion_matrix(self):
        target = torch.tensor([0, 0, 0, 1, 1, 2, -1, -1])
        guess = torch.tensor([0, 0, 1, 1, 0, 2, 3, 0])
        model = segmenter()
        logits = torch.nn.functional.one_hot(guess, CLASSES).float()
        batch = labelled(target.tolist())
        model.update_metrics(model.val_metrics, model.predictions(logits, batch), batch)
        found = {name: float(value) for name, value in model.val_metrics.compute().items()}
        assert found == {
            "val/accuracy": pytest.approx(4 / 6),
            "val/class_accuracy": pytest.approx((2 / 3 + 1 / 2 + 1) / 3),
            "val/mean_iou": pytest.approx((2 / 4 + 1 / 3 + 1) / 3),
        }

    def test_of_objects_have_their_parts(self):
        model = segmenter(parts=PARTS)
        batch = labelled([0, 1, 2, 3], categories=(0, 1), sizes=[2, 2])
        # Without the parts, the first object would be labelled 3.
        logits = torch.tensor([[1, 0, 0, 9], [1, 0, 0, 9], [0, 0, 2, 1], [0, 0, 1, 2]]).float()
        model.update_metrics(model.test_metrics, model.predictions(logits, batch), batch)
        found = {name: float(value) for name, value in model.test_metrics.compute().items()}
        assert found["test/accuracy"] == pytest.approx(3 / 4)
        assert found["test/instance_iou"] == pytest.approx((1 / 4 + 1) / 2)
        assert found["test/category_iou"] == pytest.approx((1 / 4 + 1) / 2)
        assert found["test/mean_iou"] == pytest.approx((1 / 2 + 0 + 1 + 1) / 4)


class TestScores:
    def test_are_those_of_the_confusion_matrix(self):
        target = np.array([0, 0, 0, 1, 1, 2, -1, -1])
        labels = np.array([0, 0, 1, 1, 0, 2, 3, 0])
        scores = segmentation_scores(labels, target, 5)
        assert scores["accuracy"] == pytest.approx(4 / 6)
        assert scores["iou"] == pytest.approx([2 / 4, 1 / 3, 1.0, None, None])
        assert scores["mean_iou"] == pytest.approx((2 / 4 + 1 / 3 + 1) / 3)

    def test_a_class_that_is_only_predicted_counts(self):
        scores = segmentation_scores(np.array([0, 1]), np.array([0, 0]), 3)
        assert scores == {"accuracy": 0.5, "mean_iou": 0.25, "iou": [0.5, 0.0, None]}

    def test_another_label_can_be_ignored(self):
        scores = segmentation_scores(np.array([0, 1]), np.array([0, 255]), 2, ignore_index=255)
        assert scores == {"accuracy": 1.0, "mean_iou": 1.0, "iou": [1.0, None]}

    def test_are_none_without_a_point_that_counts(self):
        scores = segmentation_scores(np.array([0, 1]), np.array([-1, -1]), 2)
        assert scores == {"accuracy": None, "mean_iou": None, "iou": [None, None]}


class TestTraining:
    def test_the_loss_falls_on_a_fixed_batch(self):
        record = Record()
        loader = DataLoader(clouds(), batch_size=4)
        model = segmenter(class_weights="balanced", class_counts=[1, 1, 1, 1])
        trainer(max_epochs=20, callbacks=record).fit(model, loader)
        assert record.losses[-1] < 0.7 * record.losses[0]

    def test_a_run_reports_all_metrics_and_keeps_predictions_within_the_parts(self):
        model = segmenter(parts=PARTS)
        data = clouds()
        data[0].y[:3] = -1
        fit = trainer(max_epochs=1)
        loader = DataLoader(data, batch_size=2)
        fit.fit(model, loader, loader)
        names = {"loss", "accuracy", "class_accuracy", "mean_iou", "instance_iou", "category_iou"}
        reported = set(fit.callback_metrics)
        assert {f"{split}/{name}" for split in ("train", "val") for name in names} <= reported
        (scores,) = fit.test(model, loader, verbose=False)
        batch = Batch.from_data_list(data)
        with torch.no_grad():
            logits = model.eval()(batch)
        guess = model.predictions(logits, batch).argmax(-1)
        expected = segmentation_scores(guess.numpy(), batch.y.numpy(), CLASSES)
        assert scores["test/accuracy"] == pytest.approx(expected["accuracy"])
        assert scores["test/mean_iou"] == pytest.approx(expected["mean_iou"])
        assert set((guess // 2 - batch.category[batch.batch]).tolist()) == {0}

    def test_a_checkpoint_gives_back_the_model(self, tmp_path):
        options = {"parts": PARTS, "class_weights": (1.0, 2.0, 3.0, 4.0), "label_smoothing": 0.1}
        model = segmenter(**options)
        fit = trainer(max_steps=1)
        fit.fit(model, DataLoader(clouds()))
        fit.save_checkpoint(tmp_path / "model.ckpt")
        loaded = CCNNSegmenter.load_from_checkpoint(tmp_path / "model.ckpt")
        batch = Batch.from_data_list(clouds())
        output, expected = loaded.eval()(batch), model.eval()(batch)
        assert torch.equal(output, expected)
        assert torch.equal(loaded.training_loss(output, batch), model.training_loss(output, batch))
        assert torch.equal(loaded.predictions(output, batch), model.predictions(output, batch))


class PerPoint(torch.nn.Linear):
    """A network that is no CCNN, but called like one."""

    def forward(self, x, pos, batch, *, batch_size):
        return super().forward(x)


def test_other_networks_can_be_trained():
    model = CCNNSegmenter(PerPoint(3, 2), 2)
    batch = Batch.from_data_list(clouds(2))
    assert model(batch).shape == (24, 2)
    batch.y = batch.y % 2
    expected = torch.nn.functional.cross_entropy(model(batch), batch.y)
    torch.testing.assert_close(model.loss(model(batch), batch), expected)


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (network(readout="mean"), {}, "Expected a network without a `readout`, got 'mean'"),
        (network(), {"num_classes": 5}, "Expected a network with 5 outputs, got 4"),
        (PerPoint(3, 4), {}, "Expected `num_classes` for a network that is not a CCNN, got none"),
        (PerPoint(3, 4), {"num_classes": 1}, "Expected `num_classes` >= 2, got 1"),
        (network(), {"ignore_index": 3}, "`ignore_index` to be none of the 4 classes, got 3"),
        (network(), {"label_smoothing": 1.0}, r"Expected `label_smoothing` in \[0, 1\), got 1.0"),
        (network(), {"class_weights": [1, 2]}, r"'balanced' or 4 numbers >= 0, got \[1, 2\]"),
        (network(), {"class_weights": [1, 2, 3, -1]}, r"4 numbers >= 0, got \[1, 2, 3, -1\]"),
        (
            network(),
            {"class_weights": [1, 2, 3, math.nan]},
            r"4 numbers >= 0, got \[1, 2, 3, nan\]",
        ),
        (network(), {"class_weights": "balanced"}, "`class_counts` of 4 classes .*, got None"),
        (
            network(),
            {"class_weights": "balanced", "class_counts": [1, 2]},
            r"`class_counts` of 4 classes for balanced weights, got \[1, 2\]",
        ),
        (network(), {"parts": [[0, 4]]}, r"`parts` of every category among 4 classes, got \[0, 4"),
        (network(), {"parts": [[0], []]}, r"`parts` of every category among 4 classes, got \[\]"),
        (network(), {"learning_rate": 0.0}, "Expected `learning_rate` > 0, got 0.0"),
    ],
)
def test_networks_and_options_that_do_not_fit_are_refused(made, options, message):
    with pytest.raises(ValueError, match=message):
        CCNNSegmenter(made, **options)


def test_objects_without_a_counted_point_are_left_out():
    metric = PartIoU(PARTS)
    metric.update(
        torch.tensor([0, 1, 0, 1]),
        torch.tensor([-1, -1, 1, 0]),
        torch.tensor([0, 0, 1, 1]),
        torch.tensor([1, 0]),
    )
    assert float(metric.compute()) == 0


def test_smoothing_of_points_whose_class_has_no_weight_stays_finite():
    model = segmenter(class_weights=[0, 1, 1, 1], label_smoothing=0.1)
    loss = model.training_loss(torch.randn(5, CLASSES), labelled([0] * 5))
    assert float(loss) < 100
