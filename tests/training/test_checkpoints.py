"""Checkpoints: complete or not there, and nothing in them is ever executed."""

import errno
import pickle

import pytest
import torch

from ccnn_geo import files

pytest.importorskip("pytorch_lightning", reason="Lightning, of the extra `train`, is missing")

from torch_geometric.loader import DataLoader  # noqa: E402

from ccnn_geo.training.checkpoints import AtomicCheckpointIO, check_checkpoint  # noqa: E402
from training_helpers import CLASSES, TINY, Command, Record, trainer  # noqa: E402

WHOLE = {"state_dict": {}, "epoch": 1, "global_step": 2, "loops": {}}


def test_a_whole_checkpoint_is_accepted(tmp_path):
    AtomicCheckpointIO().save_checkpoint(WHOLE, tmp_path / "new" / "last.ckpt")
    check_checkpoint(tmp_path / "new" / "last.ckpt")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["last.ckpt"]


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(WHOLE, path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="cannot write: No space left on device.*last.ckpt"):
        AtomicCheckpointIO().save_checkpoint({**WHOLE, "epoch": 2}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="last.ckpt: expected a complete.*remove it to train"):
        check_checkpoint(path)


@pytest.mark.parametrize("content", [[], {"state_dict": {}}, torch.zeros(3)])
def test_a_foreign_checkpoint_is_named(tmp_path, content):
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="last.ckpt: expected the checkpoint of a training"):
        check_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(content)])
def test_a_command_in_a_checkpoint_is_not_executed(tmp_path, save):
    path, made = tmp_path / "last.ckpt", tmp_path / "executed"
    content = {**WHOLE, "hyper_parameters": Command(made)}
    save(content if save is torch.save else pickle.dumps(content), path)
    with pytest.raises(ValueError, match="last.ckpt: expected a complete checkpoint"):
        check_checkpoint(path)
    assert not made.exists()


@pytest.mark.filterwarnings("ignore:.*many workers", "ignore:.*have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated")
def test_training_in_double_precision_runs():
    from ccnn_geo.training import CCNNClassifier

    torch.manual_seed(0)
    from torch_geometric.data import Data

    clouds = [
        Data(x=torch.randn(9, 3), pos=torch.rand(9, 3), y=torch.tensor([i % 3])) for i in range(6)
    ]
    record = Record()
    model = CCNNClassifier(3, CLASSES, **TINY)
    fit = trainer(max_epochs=1, precision="64-true", callbacks=record)
    fit.fit(model, DataLoader(clouds, batch_size=3))
    assert len(record.losses) == 2
    assert next(model.parameters()).dtype == torch.float64
