"""Weights in files: what is saved comes back, and what does not fit is named."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ccnn_geo import CCNN, FourierNet
from ccnn_geo.nn import CCNNBlock, FlexBlock, ModelCard, Preprocessing, S4Block, pretrained_names
from ccnn_geo.pretrained import TilePreprocessing
from clouds_helpers import random_clouds

TINY = {"dim": 3, "hidden_channels": 8, "num_blocks": 1, "kernel_channels": 4, "num_neighbors": 8}
CARD = ModelCard(
    classes=("cup", "saucer"),
    preprocessing=Preprocessing(
        num_points=32, features=("pos",), normalize="ball", points_per_mesh=64
    ),
    description="A network for tests.",
    training={"data_set": "crockery", "epochs": 3},
    accuracy={"test": 0.5},
    license="MIT",
)


def model(**options) -> CCNN:
    torch.manual_seed(0)
    network = CCNN(3, 2, **{**TINY, **options})
    x, pos, batch = random_clouds(20, 30, channels=3, dtype=torch.float32)
    network.train()(x, pos, batch)  # moves the running means off their start
    return network.eval()


class Command:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def edit(folder: Path, **entries) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder of good weights, to be broken."""
    model().save_pretrained(tmp_path, CARD)
    return tmp_path


class TestConfig:
    def test_it_holds_every_argument_defaults_included(self):
        config = CCNN(3, 2, dim=2, extent=(1.0, 2.0), block=S4Block).config
        assert config["in_channels"] == 3
        assert config["omega_0"] == 50.0
        assert config["extent"] == [1.0, 2.0]
        assert config["block"] == "S4Block"
        assert json.loads(json.dumps(config)) == config

    def test_positional_arguments_have_their_names(self):
        assert CCNN(*(4, 5), **TINY).config["out_channels"] == 5

    def test_numbers_of_numpy_become_plain_ones(self):
        config = CCNN(np.int64(3), 2, **TINY, dropout=np.float32(0.5)).config
        assert (type(config["in_channels"]), type(config["dropout"])) == (int, float)

    def test_it_survives_copies_and_pickles(self):
        network = model()
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert other.config == network.config


class TestRoundTrip:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"block": CCNNBlock, "dropout": 0.1},
            {"block": S4Block, "readout": "max", "extent": (1.0, 2.0, 3.0)},
            {"block": FlexBlock, "readout": None, "separable": False},
            {"window_width": (0.1, 0.2, 0.3), "window_cutoff": 0.1},
        ],
        ids=["defaults", "CCNNBlock", "S4Block", "FlexBlock", "windows"],
    )
    def test_it_gives_the_same_numbers(self, tmp_path, options):
        network = model(**options)
        network.save_pretrained(tmp_path)
        loaded = CCNN.from_pretrained(tmp_path)
        x, pos, batch = random_clouds(20, 30, channels=3, dtype=torch.float32)
        with torch.no_grad():
            torch.testing.assert_close(
                loaded(x, pos, batch), network(x, pos, batch), rtol=0, atol=0
            )
        assert loaded.config == network.config
        assert not loaded.training

    def test_it_can_be_trained_on(self, saved):
        loaded = CCNN.from_pretrained(saved).train()
        x, pos, batch = random_clouds(20, 30, channels=3, dtype=torch.float32)
        loaded(x, pos, batch).sum().backward()
        assert all(parameter.grad is not None for parameter in loaded.parameters())

    def test_other_precisions_are_kept(self, tmp_path):
        model().double().save_pretrained(tmp_path)
        assert {p.dtype for p in CCNN.from_pretrained(tmp_path).parameters()} == {torch.float64}

    def test_the_card_comes_along(self, saved, tmp_path):
        loaded = CCNN.from_pretrained(saved)
        assert loaded.card == CARD
        loaded.save_pretrained(tmp_path / "again")
        assert CCNN.from_pretrained(tmp_path / "again").card == CARD

    def test_without_a_card_there_is_none(self, tmp_path):
        model().save_pretrained(tmp_path)
        assert CCNN.from_pretrained(tmp_path).card is None

    def test_either_file_or_the_folder_finds_them(self, saved):
        for path in (saved, str(saved), saved / "model.json", saved / "model.safetensors"):
            assert CCNN.from_pretrained(path).card == CARD

    def test_nothing_is_pickled(self, saved):
        assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]
        assert (saved / "model.safetensors").read_bytes()[8:9] == b"{"

    def test_the_global_generator_is_left_alone(self, saved):
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        CCNN.from_pretrained(saved)
        assert torch.equal(torch.rand(3), expected)

    def test_a_custom_kernel_cannot_be_saved(self, tmp_path):
        network = CCNN(3, 2, **TINY, kernel=lambda values: FourierNet(3, 4, values))
        with pytest.raises(ValueError, match="arguments that can be stored as JSON, got `kernel`="):
            network.save_pretrained(tmp_path / "new")
        assert not (tmp_path / "new").exists()
        assert network.description is None

    def test_a_description_and_weights_make_the_same_model(self):
        original = model()
        copy = CCNN.from_description(original.description, original.state_dict())
        assert copy.config == original.config
        for name, tensor in original.state_dict().items():
            assert torch.equal(copy.state_dict()[name], tensor)

    def test_a_custom_block_cannot_be_saved(self, tmp_path):
        class CCNNBlock(S4Block):
            """One that has the name of another."""

        network = CCNN(3, 2, **TINY, block=CCNNBlock)
        with pytest.raises(ValueError, match="arguments that can be stored as JSON, got `block`="):
            network.save_pretrained(tmp_path)

    def test_a_folder_that_cannot_be_made_is_named(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="file"):
            model().save_pretrained(tmp_path / "file")


class TestWhatDoesNotFit:
    def test_an_unknown_name_lists_the_known_ones(self):
        with pytest.raises(FileNotFoundError, match="got 'shaeps'; the names are: .*shapes"):
            CCNN.from_pretrained("shaeps")

    def test_a_folder_without_weights(self, tmp_path):
        with pytest.raises(ValueError, match=r"one file of weights, \*.safetensors, got none"):
            CCNN.from_pretrained(tmp_path)

    def test_a_folder_with_two_kinds_of_weights(self, saved):
        model().save_pretrained(saved, name="other")
        with pytest.raises(ValueError, match="got model.safetensors, other.safetensors"):
            CCNN.from_pretrained(saved)
        assert CCNN.from_pretrained(saved / "other.json").card is None

    def test_weights_of_another_architecture(self, saved):
        model(hidden_channels=16, num_blocks=2).save_pretrained(saved, name="other")
        (saved / "other.safetensors").replace(saved / "model.safetensors")
        message = (
            r"model.safetensors: not the weights of model.json: \d+ unknown: blocks.1.*, ...; "
            r"\d+ of another shape: stem.mixing.weight \[16, 3\] instead of \[8, 3\]"
        )
        with pytest.raises(ValueError, match=message):
            CCNN.from_pretrained(saved / "model.json")

    def test_weights_that_lack_a_tensor(self, saved):
        tensors = load_file(saved / "model.safetensors")
        del tensors["head.bias"]
        save_file(tensors, saved / "model.safetensors")
        with pytest.raises(ValueError, match="1 missing: head.bias$"):
            CCNN.from_pretrained(saved)

    @pytest.mark.parametrize("length", [0, 4, 100, -1])
    def test_weights_cut_short(self, saved, length):
        file = saved / "model.safetensors"
        file.write_bytes(file.read_bytes()[:length])
        with pytest.raises(ValueError, match="model.safetensors: .* it is cut short or something"):
            CCNN.from_pretrained(saved)

    def test_a_changed_tensor(self, saved):
        tensors = load_file(saved / "model.safetensors")
        tensors["head.bias"][0] += 1e-6
        save_file(tensors, saved / "model.safetensors")
        with pytest.raises(ValueError, match="weights were changed after they were saved"):
            CCNN.from_pretrained(saved)

    def test_something_else_under_the_name_of_weights(self, saved):
        (saved / "model.safetensors").write_bytes(pickle.dumps(model().state_dict()))
        with pytest.raises(ValueError, match="expected a complete safetensors file"):
            CCNN.from_pretrained(saved)

    @pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
    def test_a_pickled_command_is_not_executed(self, saved, name):
        (saved / name).write_bytes(pickle.dumps(Command(saved / "executed")))
        with pytest.raises(ValueError, match=f"{name}: expected a"):
            CCNN.from_pretrained(saved)
        assert not (saved / "executed").exists()

    @pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
    def test_one_file_missing(self, saved, name):
        other = {"model.json": "model.safetensors", "model.safetensors": "model.json"}[name]
        (saved / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"{name}: the "):
            CCNN.from_pretrained(saved / other)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "expected a JSON file"),
            ("[]", "expected the description of weights, with format, model"),
            ('{"format": 1}', "expected the description of weights"),
        ],
    )
    def test_a_json_file_of_another_kind(self, saved, content, message):
        (saved / "model.json").write_text(content)
        with pytest.raises(ValueError, match=f"model.json: {message}"):
            CCNN.from_pretrained(saved)

    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            ({"format": 2}, "written by a newer ccnn_geo: expected format 1, got 2"),
            ({"model": "UNet"}, "Expected a CCNN, got a UNet"),
            ({"arguments": {"in_channels": 3}}, "missing a required argument: 'out_channels'"),
            ({"arguments": {"channels": 3}}, "missing a required argument: 'in_channels'"),
            ({"card": {"classes": []}}, r"Expected `card` with \['accuracy', .* got \['classes'\]"),
        ],
    )
    def test_entries_that_make_no_sense(self, saved, entries, message):
        edit(saved, **entries)
        with pytest.raises(ValueError, match=f"model.json: .*{message}"):
            CCNN.from_pretrained(saved)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("num_points", 0, "Expected `num_points` to be an integer from 1 to 16777216, got 0"),
            ("points_per_mesh", "many", "Expected `points_per_mesh` to be an .* got 'many'"),
            ("points_per_mesh", 10**12, "Expected `points_per_mesh` .* got 1000000000000"),
            ("features", "pos", "Expected `features` to be a list of names, got 'pos'"),
            ("normalize", 3, "Expected `normalize` of type str, got 3"),
        ],
    )
    def test_preprocessing_that_makes_no_sense(self, saved, name, value, message):
        card = json.loads((saved / "model.json").read_text())["card"]
        card["preprocessing"][name] = value
        edit(saved, card=card)
        with pytest.raises(ValueError, match=message):
            CCNN.from_pretrained(saved)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("description", 3, "Expected `description` of type str, got 3"),
            ("training", [], r"Expected `training` of type dict, got \[\]"),
            ("accuracy", {"test": "high"}, "Expected a finite `accuracy` of 'test', got 'high'"),
            ("accuracy", {"test": None}, "Expected a finite `accuracy` of 'test', got None"),
            ("classes", "cup", "Expected `classes` to be a list of names, got 'cup'"),
        ],
    )
    def test_a_card_that_makes_no_sense(self, saved, name, value, message):
        card = json.loads((saved / "model.json").read_text())["card"]
        edit(saved, card=card | {name: value})
        with pytest.raises(ValueError, match=f"model.json: {message}"):
            CCNN.from_pretrained(saved)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"hidden_channels": 10**7}, r"model.safetensors: .* instead of \[10000000"),
            ({"num_blocks": 10**9}, "model.json: Expected .* a model that fits its weights"),
            ({"hidden_channels": 10**40}, "model.json: "),
            ({"hidden_channels": -5}, "model.json: "),
            ({"hidden_channels": 0}, "model.json: |model.safetensors: "),
            ({"omega_0": float("nan")}, "model.json: Expected a finite `omega_0`, got nan"),
            ({"extent": [1.0, 1.0, float("inf")]}, "model.json: Expected a finite `extent`"),
            ({"dim": "three"}, "model.json: "),
        ],
    )
    def test_arguments_that_make_no_sense(self, saved, arguments, message):
        """They are refused before memory is allocated for them."""
        edit(
            saved, arguments=json.loads((saved / "model.json").read_text())["arguments"] | arguments
        )
        with pytest.raises(ValueError, match=message):
            CCNN.from_pretrained(saved)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("head.weight", torch.nan),
            ("head.bias", -torch.inf),
            ("stem_norm.running_mean", torch.nan),
            ("stem_norm.running_var", -1.0),
            ("stem_norm.running_var", torch.inf),
            ("stem_norm.running_var", torch.nan),
        ],
    )
    def test_values_that_no_training_gives(self, tmp_path, name, value):
        network = model()
        network.state_dict()[name].view(-1)[0] = value
        network.save_pretrained(tmp_path)
        message = f"model.safetensors: expected finite weights and variances >= 0, .* {name}$"
        with pytest.raises(ValueError, match=message):
            CCNN.from_pretrained(tmp_path)

    def test_weights_of_another_type(self, saved):
        tensors = load_file(saved / "model.safetensors")
        tensors["head.bias"] = tensors["head.bias"].long()
        save_file(tensors, saved / "model.safetensors")
        message = "1 of another type: head.bias I64 instead of torch.float32$"
        with pytest.raises(ValueError, match=message):
            CCNN.from_pretrained(saved)

    @pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
    def test_a_pipe_instead_of_a_file(self, saved, name):
        if not hasattr(os, "mkfifo"):
            pytest.skip("the system has no named pipes")
        (saved / name).unlink()
        os.mkfifo(saved / name)
        other = {"model.json": "model.safetensors", "model.safetensors": "model.json"}[name]
        with pytest.raises(ValueError, match=f"{name}: expected a regular file"):
            CCNN.from_pretrained(saved / other)


def test_the_package_gives_everything_that_loading_and_predicting_take():
    code = (
        "import ccnn_geo.pretrained as p; print([getattr(p, name).__name__ for name in p.__all__])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == str([
        "Classifier", "Labeller", "Labelling", "ModelCard", "Prediction", "Preprocessing",
        "PretrainedModule", "TilePreprocessing", "pretrained_names",
    ])  # fmt: skip


class TestShipped:
    def test_they_are_small(self):
        folder = Path(__file__).parents[2] / "ccnn_geo" / "pretrained" / "weights"
        assert sum(file.stat().st_size for file in folder.iterdir()) < 2**20

    @pytest.mark.parametrize("name", pretrained_names())
    def test_they_load_and_say_what_they_are(self, name):
        network = CCNN.from_pretrained(name)
        card = network.card
        assert len(card.classes) == network.out_channels
        assert (network.readout is None) == (card.task == "segmentation")
        # Tiles of scans have their positions as features.
        tiles = isinstance(card.preprocessing, TilePreprocessing)
        assert 3 * (len(card.preprocessing.features) + tiles) == network.in_channels
        assert card.license and card.description and card.training["data_set"]
        assert 0 < card.accuracy["test"] <= 1
