"""Training on grids: batches of images and sequences, and one network for image and cloud."""

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo import CCNN  # noqa: E402
from ccnn_geo.nn import FlexBlock, frequency_penalty  # noqa: E402
from ccnn_geo.training.classifier import CCNNClassifier  # noqa: E402
from ccnn_geo.transforms.grids import FlattenGrid, GridToPoints, MaskEmptyCells  # noqa: E402
from training_helpers import CLASSES, TINY, Record, tiny_classifier, trainer  # noqa: E402

pytestmark = [
    # Clouds in memory need no workers; Lightning itself uses what torch has deprecated.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]

SIZE = (6, 5)


def images(count: int) -> list[Data]:
    """Images whose class shows in their brightness; a third of their pixels is dark."""
    labels = torch.arange(count) % CLASSES
    x = torch.rand(count, 1, *SIZE) * (1 + labels[:, None, None, None])
    x *= torch.rand(count, 1, *SIZE) > 1 / 3
    return [Data(x=image[None], y=label[None]) for image, label in zip(x, labels, strict=True)]


def grid_network(**options) -> CCNN:
    """A network for the images whose clouds see all of their pixels."""
    torch.manual_seed(0)
    settings = {**TINY, "omega_0": 5.0, "window_width": 0.4, "size": SIZE, "num_neighbors": 30}
    return CCNN.for_grid(1, CLASSES, **settings | options)


def grid_classifier(**options) -> CCNNClassifier:
    return CCNNClassifier(grid_network(), warmup_epochs=0, **options)


def sequence_classifier(**options) -> CCNNClassifier:
    return CCNNClassifier(grid_network(size=(30,), causal=True), warmup_epochs=0, **options)


def sequences(count: int) -> list[Data]:
    return [FlattenGrid()(image) for image in images(count)]


def transformed(data: list[Data], transform) -> Batch:
    return Batch.from_data_list([transform(each.clone()) for each in data])


class TestFrequencyPenalty:
    @pytest.mark.parametrize(("spacing", "nyquist"), [(None, 0.5), (2.0, 0.25)])
    def test_is_of_frequencies_that_the_grid_does_not_resolve(self, spacing, nyquist):
        data = images(6)
        for each in data if spacing else ():
            each.spacing = torch.tensor([spacing])
        losses = []
        for weight in (0.0, 2.0):
            record = Record()
            model = CCNNClassifier(
                grid_network(omega_0=50.0), warmup_epochs=0, frequency_penalty=weight
            )
            fit = trainer(max_steps=1, callbacks=record)
            fit.fit(model, DataLoader(data, batch_size=6))
            losses.append(record.losses[0])
        expected = 2 * float(frequency_penalty(grid_network(omega_0=50.0), nyquist).detach())
        assert expected > 0.1
        assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-4)


class TestGrids:
    @pytest.fixture
    def trained(self) -> CCNNClassifier:
        """One network, trained for a few steps on images."""
        model = grid_classifier()
        trainer(max_steps=4).fit(model, DataLoader(images(12), batch_size=6))
        return model.eval()

    def test_image_and_cloud_of_all_its_pixels_are_the_same_to_one_network(self, trained):
        data = images(4)
        with torch.no_grad():
            image = trained(Batch.from_data_list(data))
            cloud = trained(transformed(data, GridToPoints(keep_empty=True)))
        assert image.std() > 1e-2
        assert torch.allclose(cloud, image, atol=1e-5)

    def test_masked_image_and_cloud_of_its_lit_pixels_are_the_same_to_one_network(self, trained):
        data = images(4)
        with torch.no_grad():
            image, whole = trained(transformed(data, MaskEmptyCells())), trained(data[0])
            cloud = trained(transformed(data, GridToPoints()))
        assert torch.allclose(cloud, image, atol=1e-5)
        assert not torch.allclose(image[:1], whole, atol=1e-3)

    def test_network_for_clouds_has_the_parameters_of_one_for_grids(self):
        cloud = CCNNClassifier(CCNN(1, CLASSES, dim=2, extent=3.0, **TINY))
        # A plain dictionary carries no settings of kernels, which differ.
        cloud.load_state_dict(dict(grid_classifier().state_dict()))

    @pytest.mark.parametrize("make", [(images, grid_classifier), (sequences, sequence_classifier)])
    def test_loss_falls_on_a_fixed_batch(self, make):
        data, model = make
        record = Record()
        loader = DataLoader(data(12), batch_size=12)
        trainer(max_epochs=20, callbacks=record).fit(model(kernel_l2=1e-4), loader)
        assert record.losses[-1] < 0.7 * record.losses[0]

    def test_padded_steps_do_not_count(self):
        model = sequence_classifier().eval()
        short, whole = sequences(2)
        short.x = short.x[..., :11]
        padded = Data(x=torch.nn.functional.pad(short.x, (0, 19), value=7.0))
        padded.length, whole.length = torch.tensor([11]), torch.tensor([30])
        with torch.no_grad():
            together = model(Batch.from_data_list([padded, whole]))
            alone = torch.cat([model(short), model(whole)])
        assert torch.allclose(together, alone, atol=1e-5)

    def test_spacing_of_a_batch_is_that_of_its_grids(self):
        model = grid_classifier().eval()
        data = images(2)
        steps = torch.tensor([[2.0, 1.0]])
        with torch.no_grad():
            expected = model.network(torch.cat([each.x for each in data]), spacing=(2.0, 1.0))
            for image in data:
                image.spacing = steps
            assert torch.equal(model(Batch.from_data_list(data)), expected)
            data[0].spacing, data[1].spacing = torch.tensor([2.0]), torch.tensor([1.0])
            with pytest.raises(ValueError, match=r"one `spacing` for all .*, got \[2.0, 1.0\]"):
                model(Batch.from_data_list(data))

    def test_scores_count_grids(self):
        (scores,) = trainer().test(
            grid_classifier(), DataLoader(images(7), batch_size=4), verbose=False
        )
        assert scores["test/accuracy"] * 7 == pytest.approx(round(scores["test/accuracy"] * 7))

    def test_points_without_positions_are_refused(self):
        with pytest.raises(ValueError, match=r"\[B, 3, \*S\] with 3 axes .*, got \[4, 3\]"):
            tiny_classifier()(Data(x=torch.rand(4, 3)))

    def test_gives_back_the_model_for_grids(self, tmp_path):
        model = CCNNClassifier(grid_network(block=FlexBlock, kernel_size=(5, 3)))
        fit = trainer(max_steps=2)
        fit.fit(model, DataLoader(images(4)))
        fit.save_checkpoint(tmp_path / "model.ckpt")
        loaded = CCNNClassifier.load_from_checkpoint(tmp_path / "model.ckpt")
        batch = Batch.from_data_list(images(3))
        assert loaded.hparams == model.hparams
        assert torch.equal(loaded.eval()(batch), model.eval()(batch))
