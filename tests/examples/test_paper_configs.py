"""The configurations of the paper's experiments: every value of the table, and parameter counts."""

import csv

import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra `train`, is missing")

from ccnn_geo import CCNN  # noqa: E402
from examples_helpers import EXAMPLES, PAPER, paper_script  # noqa: E402

TABLE = PAPER / "hyperparameters.csv"
SOURCE = EXAMPLES.parent.parent / "shared" / "paper" / "hyperparameters.md"
# Input channels, size and classes of the data.
SHAPES = {
    "smnist": (1, (784,), 10), "pmnist": (1, (784,), 10), "scifar10": (3, (1024,), 10),
    "speech_mfcc": (20, (161,), 10), "speech_raw": (1, (16000,), 10),
    "cifar10": (3, (32, 32), 10), "cifar100": (3, (32, 32), 100), "stl10": (3, (96, 96), 10),
    "listops": (1, (2048,), 10), "text": (1, (4096,), 2), "retrieval": (1, (4000,), 2),
    "image": (1, (1024,), 10), "pathfinder": (1, (1024,), 2), "pathx": (1, (16384,), 2),
    "image_2d": (1, (32, 32), 10), "pathfinder_2d": (1, (32, 32), 2),
}  # fmt: skip
STEMS = {
    "sMNIST": "smnist", "pMNIST": "pmnist", "sCIFAR10": "scifar10", "MFCC": "speech_mfcc",
    "Raw": "speech_raw", "CIFAR10": "cifar10", "CIFAR100": "cifar100", "STL10": "stl10",
    "ModelNet40": "modelnet40", "ListOps": "listops", "Text": "text", "Image": "image",
    "Pathfinder": "pathfinder", "2DImage": "image_2d", "2DPathfinder": "pathfinder_2d",
}  # fmt: skip


def table() -> list[dict[str, str]]:
    with open(TABLE, newline="") as file:
        return list(csv.DictReader(file))


def name_of(row: dict[str, str]) -> str:
    return f"{STEMS[row['experiment']]}_{row['blocks']}_{row['hidden']}"


def content(name: str) -> dict:
    return yaml.safe_load((PAPER / f"{name}.yaml").read_text())


def count(blocks: int, hidden: int, kernel: int, dim: int, channels: int, classes: int) -> int:
    """The number of parameters of a published CCNN, term by term."""

    def convolution(inputs: int) -> int:
        filters = 4 * (3 * kernel * dim + kernel)
        linears = 3 * (kernel * kernel + kernel) + inputs * kernel + inputs
        window = 1 if dim == 3 else dim
        return filters + linears + window + inputs + hidden * inputs + hidden

    block = 2 * hidden + convolution(hidden) + hidden * hidden + hidden
    return (
        convolution(channels) + 2 * hidden + blocks * block + 2 * hidden
        + classes * hidden + classes
    )  # fmt: skip


@pytest.mark.skipif(not SOURCE.is_file(), reason="../shared/paper is missing")
def test_the_table_is_the_published_one():
    lines = [line.strip("|").split("|") for line in SOURCE.read_text().splitlines() if "|" in line]
    published = [[cell.strip() for cell in cells] for cells in lines if len(cells) == 17][2:]
    with open(TABLE, newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert len(rows) == 33
    assert [[f"{name} {model}", *rest] for name, model, *rest in rows] == published


@pytest.mark.parametrize("row", table(), ids=name_of)
def test_every_row_of_the_table_has_its_configuration(row):
    settings = content(name_of(row))
    network, model, data = settings["network"], settings["model"], settings["data"]
    batch, _, accumulated = row["batch"].partition("x")
    kernel = network.get("kernel_size", f"k={network.get('num_neighbors')}")
    expected = {
        "blocks": network["num_blocks"], "hidden": network["hidden_channels"],
        "kernel_hidden": network["kernel_channels"], "omega_0": network["omega_0"],
        "window_width": network["window_width"], "window_lr_ratio": model["window_lr_ratio"],
        "learning_rate": model["learning_rate"], "kernel_l2": model["kernel_l2"],
        "dropout": network["dropout"], "input_dropout": network["input_dropout"],
        "epochs": settings["trainer"]["max_epochs"], "warmup": model["warmup_epochs"],
    }  # fmt: skip
    assert {key: float(row[key]) for key in expected} == expected
    assert row["kernel"] == str(kernel)
    assert data["batch_size"] == int(batch)
    assert settings["trainer"]["accumulate_grad_batches"] == int(accumulated or 1)
    assert network["elementwise_dropout"] == (row["dropout_kind"] == "element")
    assert network.get("causal", False) == (row["causal"] == "yes")
    assert settings.keys() == {"trainer", "network", "model", "data"}


@pytest.mark.parametrize("size", ["4_140", "6_380"])
@pytest.mark.parametrize(("name", "source"), [("retrieval", "text"), ("pathx", "pathfinder")])
def test_experiments_without_published_settings_say_so(name, source, size):
    ours, theirs = content(f"{name}_{size}"), content(f"{source}_{size}")
    data = ours.pop("data")
    assert (data["name"], data["batch_size"]) == (name, 16)
    theirs.pop("data")
    assert ours == theirs
    assert "There are no\n# published settings" in (PAPER / f"{name}_{size}.yaml").read_text()


def test_files_are_those_that_the_script_writes(example):
    files = example("paper_configs").files()
    assert {path.name: path.read_text() for path in PAPER.glob("*.yaml")} == {
        path.name: text for path, text in files.items()
    }
    assert len(files) == 33 + 4


@pytest.mark.parametrize("path", sorted(PAPER.glob("*.yaml")), ids=lambda path: path.stem)
def test_network_has_as_many_parameters_as_published(path):
    stem = path.stem.rsplit("_", 2)[0]
    network = content(path.stem)["network"]
    sizes = (network["num_blocks"], network["hidden_channels"], network["kernel_channels"])
    network.pop("embedding", None)
    if stem == "modelnet40":
        model, dim, channels, classes = CCNN(6, 40, dim=3, **network), 3, 6, 40
    else:
        channels, size, classes = SHAPES[stem]
        dim = len(size)
        model = CCNN.for_grid(channels, classes, size=size, pairs=stem == "retrieval", **network)
    head = 3 * sizes[1] * classes if stem == "retrieval" else 0
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == count(*sizes, dim, channels, classes) + head


@pytest.mark.parametrize(
    ("sizes", "published"),
    [
        ((4, 16, 8, 3, 6, 40), 6_545),
        ((4, 48, 8, 3, 6, 40), 26_353),
        ((6, 380, 64, 3, 6, 40), 2_017_503),
        ((4, 140, 32, 1, 1, 10), 198_769),
        ((4, 140, 32, 2, 3, 10), 201_042),
    ],
)
def test_counts_are_the_published_ones(sizes, published):
    assert count(*sizes) == published


@pytest.mark.parametrize("path", sorted(PAPER.glob("*.yaml")), ids=lambda path: path.stem)
def test_command_line_accepts_the_configuration(run_example, capsys, path):
    with pytest.raises(SystemExit) as stop:
        run_example(paper_script(path), f"--config={path}", "--print_config")
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for group, settings in content(path.stem).items():
        assert settings.items() <= printed[group].items()
