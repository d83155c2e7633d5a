"""Checkpoints: complete or not there, and nothing in them is ever executed."""

import copy
import errno
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from ccnn_geo import CCNN, files

pytest.importorskip("pytorch_lightning", reason="Lightning, of the extra `train`, is missing")

from torch_geometric.data import Data  # noqa: E402
from torch_geometric.loader import DataLoader  # noqa: E402

from ccnn_geo.training.checkpoints import (  # noqa: E402
    AtomicCheckpointIO,
    check_checkpoint,
    load_network,
)
from ccnn_geo.training.classifier import CCNNClassifier  # noqa: E402
from training_helpers import (  # noqa: E402
    CLASSES,
    Command,
    Record,
    tiny_classifier,
    tiny_network,
    trainer,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*many workers", "ignore:.*have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
]


def clouds(count: int) -> list[Data]:
    return [
        Data(x=torch.randn(9, 3), pos=torch.rand(9, 3), y=torch.tensor([i % CLASSES]))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Any]:
    """The content of a checkpoint that Lightning wrote."""
    path = tmp_path_factory.mktemp("whole") / "last.ckpt"
    fit = trainer(max_steps=1, plugins=[AtomicCheckpointIO()])
    fit.fit(tiny_classifier(), DataLoader(clouds(2), batch_size=2))
    fit.save_checkpoint(path)
    return torch.load(path, weights_only=True)


def test_a_whole_checkpoint_is_accepted(tmp_path, whole):
    AtomicCheckpointIO().save_checkpoint(whole, tmp_path / "new" / "last.ckpt")
    check_checkpoint(tmp_path / "new" / "last.ckpt", tiny_classifier())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["last.ckpt"]


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path, monkeypatch, whole):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(whole, path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="cannot write: No space left on device.*last.ckpt"):
        AtomicCheckpointIO().save_checkpoint({**whole, "epoch": 2}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last.ckpt: expected a complete.*remove the folder"):
        check_checkpoint(path, tiny_classifier())
    with pytest.raises(ValueError, match=r"last.ckpt: expected a complete checkpoint"):
        load_network(path)


@pytest.mark.parametrize("content", [[], {"state_dict": [1]}, {"state_dict": {"a": 1}}])
def test_a_file_without_weights_is_named(tmp_path, content):
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="last.ckpt: expected a checkpoint with tensors by name"):
        check_checkpoint(tmp_path / "last.ckpt", tiny_classifier())


@pytest.mark.parametrize(
    "entry",
    [
        "epoch", "global_step", "loops", "pytorch-lightning_version", "optimizer_states",
        "lr_schedulers", "seed",
    ],
)  # fmt: skip
def test_whatever_resuming_needs_is_required_in_its_type(tmp_path, whole, entry):
    path = tmp_path / "last.ckpt"
    message = f"last.ckpt: expected the checkpoint of a training, .* of {entry}; remove the folder"
    for content in ({**whole, entry: None}, {k: v for k, v in whole.items() if k != entry}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            check_checkpoint(path, tiny_classifier())


def test_a_checkpoint_of_an_earlier_version_is_named(tmp_path, whole):
    torch.save({k: v for k, v in whole.items() if k != "network"}, tmp_path / "last.ckpt")
    message = "last.ckpt: .*checkpoints of earlier versions of ccnn_geo lack it"
    with pytest.raises(ValueError, match=message):
        check_checkpoint(tmp_path / "last.ckpt", tiny_classifier())
    with pytest.raises(ValueError, match=message):
        load_network(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"hidden_channels": 9},
            r"of another shape: network.stem.mixing.weight \[8, 3\] instead of \[9, 3\]",
        ),
        ({"num_blocks": 2}, "missing: network.blocks.1"),
    ],
)
def test_the_checkpoint_of_another_network_is_named_in_one_line(tmp_path, whole, options, message):
    torch.save(whole, tmp_path / "last.ckpt")
    model = CCNNClassifier(tiny_network(**options))
    with pytest.raises(
        ValueError, match=f"last.ckpt: expected the weights of this.*{message}"
    ) as e:
        check_checkpoint(tmp_path / "last.ckpt", model)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(content)])
def test_a_command_in_a_checkpoint_is_not_executed(tmp_path, whole, save):
    path, made = tmp_path / "last.ckpt", tmp_path / "executed"
    content = {**whole, "hyper_parameters": Command(made)}
    save(content if save is torch.save else pickle.dumps(content), path)
    with pytest.raises(ValueError, match="last.ckpt: expected a complete checkpoint"):
        check_checkpoint(path, tiny_classifier())
    assert not made.exists()


class TestLoadNetwork:
    def load(self, folder: Path, whole: dict[str, Any], **changes) -> CCNN:
        """The network of a checkpoint whose description is changed."""
        description = copy.deepcopy(whole["network"])
        description["arguments"] |= changes
        torch.save({**whole, "network": description}, folder / "best.ckpt")
        return load_network(folder / "best.ckpt")

    def test_gives_back_the_network_and_leaves_random_numbers_alone(self, tmp_path, whole):
        state = torch.get_rng_state()
        network = self.load(tmp_path, whole)
        assert torch.equal(torch.get_rng_state(), state)
        assert network.config == tiny_network().config
        assert not network.training
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, whole["state_dict"][f"network.{name}"])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"hidden_channels": 10**7}, "of another shape"),
            ({"num_blocks": 10**7}, "got a far larger one"),
            ({"num_blocks": "many"}, "best.ckpt: expected the checkpoint of a CCNN"),
            ({"colour": "red"}, "unexpected keyword argument 'colour'"),
        ],
    )
    def test_compares_its_size_with_the_weights_first(self, tmp_path, whole, changes, message):
        with pytest.raises(ValueError, match=message):
            self.load(tmp_path, whole, **changes)

    @pytest.mark.parametrize("description", [None, [], {}, {"model": "DGCNN", "arguments": {}}])
    def test_names_the_checkpoint_of_something_else(self, tmp_path, whole, description):
        torch.save({**whole, "network": description}, tmp_path / "best.ckpt")
        with pytest.raises(ValueError, match="best.ckpt: expected the checkpoint of a CCNN"):
            load_network(tmp_path / "best.ckpt")

    def test_a_missing_file_is_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="best.ckpt"):
            load_network(tmp_path / "best.ckpt")


def test_training_in_double_precision_runs():
    record = Record()
    fit = trainer(max_epochs=1, precision="64-true", callbacks=record)
    model = tiny_classifier()
    fit.fit(model, DataLoader(clouds(6), batch_size=3))
    assert len(record.losses) == 2
    assert next(model.parameters()).dtype == torch.float64
