"""The report of a run: its confusion matrix."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.training import report  # noqa: E402
from ccnn_geo.training.report import ConfusionMatrix  # noqa: E402
from training_helpers import CLASSES, tiny_classifier, trainer  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]


def clouds(count: int) -> list[Data]:
    positions = torch.rand(count, 16, 3) * (1 + torch.arange(count) % CLASSES)[:, None, None]
    return [
        Data(x=pos, pos=pos, y=torch.tensor([number % CLASSES]))
        for number, pos in enumerate(positions)
    ]


def test_counts_the_predictions_of_the_last_test():
    data, model, confusion = clouds(7), tiny_classifier(), ConfusionMatrix(CLASSES)
    assert confusion.counts is None
    test = trainer(callbacks=confusion)
    for _ in range(2):
        test.test(model, DataLoader(data, batch_size=3), verbose=False)
    with torch.no_grad():
        predicted = model.eval()(Batch.from_data_list(data)).argmax(-1)
    expected = torch.zeros(CLASSES, CLASSES, dtype=torch.long)
    for cloud, label in zip(data, predicted, strict=True):
        expected[cloud.y, label] += 1
    assert confusion.counts == expected.tolist()


def test_of_very_many_classes_is_left_out_with_a_word(caplog):
    with caplog.at_level(logging.INFO):
        confusion = ConfusionMatrix(20_000)
    assert caplog.messages == ["No confusion matrix of 20,000 classes: expected at most 1,000"]
    test = trainer(callbacks=confusion)
    test.test(tiny_classifier(), DataLoader(clouds(3), batch_size=3), verbose=False)
    assert confusion.counts is None


def test_the_checksum_does_not_depend_on_where_the_data_sets_lie(tmp_path, monkeypatch):
    def layout(name: str, data: Path) -> str:
        core = tmp_path / name / "ccnn_geo"
        for path, text in ((core / "a.py", "a"), (data / "b.py", "b")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        folders = {"ccnn_geo": core, "ccnn_geo.datasets": data}
        spec = SimpleNamespace
        monkeypatch.setattr(
            report, "find_spec", lambda package: spec(submodule_search_locations=[folders[package]])
        )
        return report.code_checksum.__wrapped__()

    beside = layout("editable", tmp_path / "editable" / "datasets")
    assert layout("wheel", tmp_path / "wheel" / "ccnn_geo" / "datasets") == beside
