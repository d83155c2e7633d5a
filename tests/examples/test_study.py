"""Studies: what is trained, what is resumed, means and spreads, and the figures."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from examples_helpers import EXAMPLES, QUIET, TINY_NETWORK  # noqa: E402

STUDY = """
title: Two widths
script: modelnet40.py
seeds: [0, 1]
options: {data.name: shapes, trainer.max_epochs: 1}
configurations:
  CCNN 4,16: {network.hidden_channels: 16}
  peer: {script: peers.py, config: configs/modelnet10_dgcnn.yaml, data.points: [1, 2]}
"""


@pytest.fixture
def study(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("widths.yaml").write_text(STUDY)
    return example("study")


def run(module, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [module.__file__, *arguments])
    module.main()


def finished(folder: str, seed: int, accuracy: float, **changes) -> None:
    path = Path("runs/widths") / folder / f"seed{seed}" / "results.json"
    path.parent.mkdir(parents=True)
    report = {
        "seed": seed, "parameters": 5957, "test": {"accuracy": accuracy},
        "val": {"accuracy": 0.9}, "epochs": 2, "seconds_per_epoch": 900.0,
        "peak_memory_mib": {"cpu": 512.0}, "code": ["abc"], "split_sizes": {"train": 8},
        "history": [{"epoch": 0, "val/accuracy": 0.5}, {"epoch": 1, "val/accuracy": 0.9}],
        "settings": {"trainer.max_epochs": 1},
    }  # fmt: skip
    path.write_text(json.dumps({**report, **changes}))


def test_commands_have_shared_and_own_options_and_the_file_first(study):
    rows = study.Study.read(Path("widths.yaml")).configurations
    command = study.Run(rows[0], 1, Path("out")).command(["--data.root=here"])
    assert command[1:] == [
        str(EXAMPLES / "modelnet40.py"), "--data.name=shapes", "--trainer.max_epochs=1",
        "--network.hidden_channels=16", "--name=CCNN_4_16", "--seed_everything=1",
        "--trainer.default_root_dir=out", "--data.root=here",
    ]  # fmt: skip
    command = study.Run(rows[1], 0, Path("out")).command([])
    assert command[1:3] == [
        str(EXAMPLES / "peers.py"), f"--config={EXAMPLES / 'configs/modelnet10_dgcnn.yaml'}"
    ]  # fmt: skip
    assert "--data.points=[1, 2]" in command


def test_reports_mean_and_standard_deviation(study, example, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="the extra `viz` is missing").use("agg")
    finished("CCNN_4_16", 0, 0.90)
    finished("CCNN_4_16", 1, 0.92)
    finished("peer", 0, 0.95, test=None)
    run(study, monkeypatch, "widths.yaml", "--table")
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == [
        "CCNN", "4,16", "5,957", "2", "91.00", "%", "1.41", "%", "90.00", "%", "0.00", "%", "30",
        "512",
    ]  # fmt: skip
    assert lines[3].split() == ["peer", "5,957", "1", "90.00", "%", "30", "512"]
    content = json.loads(Path("runs/widths/study.json").read_text())
    assert content["title"] == "Two widths"
    assert content["configurations"]["CCNN 4,16"]["test"] == [0.90, 0.92]
    assert Path("runs/widths/study.png").stat().st_size > 1000
    run(example("parameter_efficiency"), monkeypatch, "runs/widths")
    assert Path("parameter_efficiency.png").stat().st_size > 1000


@pytest.mark.parametrize("codes", [(["abc"], ["def"]), (["abc"], ["abc", "def"])])
def test_a_mean_over_different_code_is_refused(study, monkeypatch, codes):
    for seed, code in enumerate(codes):
        finished("CCNN_4_16", seed, 0.9, code=code)
    with pytest.raises(SystemExit, match="runs of one version of the code in runs.widths, got"):
        run(study, monkeypatch, "widths.yaml", "--table")


def test_trains_what_is_missing_and_reports_what_failed(study, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="the extra `viz` is missing").use("agg")
    finished("CCNN_4_16", 0, 0.90)
    only = ["--only", "CCNN 4,16", "--seeds", "0", "1"]
    with pytest.raises(SystemExit, match="Not all runs are finished"):
        run(study, monkeypatch, "widths.yaml", *only, "--network.hidden_channels=-1")
    printed = capsys.readouterr().out
    assert "seed 0: see" not in printed
    assert "CCNN 4,16, seed 1: ended with status 2, see" in printed
    assert "`out_channels` >= 1, got -1" in Path("runs/widths/CCNN_4_16/seed1.log").read_text()
    tiny = [*QUIET, *TINY_NETWORK, "--trainer.limit_train_batches=1", "--data.num_points=16"]
    with pytest.raises(SystemExit, match="runs of one version of the code"):
        run(study, monkeypatch, "widths.yaml", *only, *tiny)
    assert Path("runs/widths/CCNN_4_16/seed1/results.json").is_file()


def test_names_a_folder_that_holds_a_run_of_other_settings(study, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="the extra `viz` is missing").use("agg")
    finished("CCNN_4_16", 0, 0.90)
    config = Path("runs/widths/CCNN_4_16/seed1/config.yaml")
    config.parent.mkdir()
    config.write_text("seed_everything: 5")
    monkeypatch.setattr(
        study.subprocess, "run", lambda *_, **__: study.subprocess.CompletedProcess([], 0)
    )
    with pytest.raises(SystemExit, match="Not all runs are finished"):
        run(study, monkeypatch, "widths.yaml", "--only", "CCNN 4,16")
    assert "seed1 holds a run of other settings; remove it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[1]", "expected a mapping with `configurations`"),
        (STUDY + "jobs: 2", r"got \['jobs'\]"),
        (STUDY.replace("peers.py", "nowhere.py"), "expected the `script` of 'peer' in .*nowhere"),
        (STUDY.replace("peer:", "CCNN_4.16:").replace("4.16", "4_16"), "that differ in letters"),
    ],
    ids=["list", "unknown key", "no script", "same folder"],
)
def test_files_that_are_no_studies_are_named(study, monkeypatch, content, match):
    Path("widths.yaml").write_text(content)
    with pytest.raises(SystemExit, match=f"widths.yaml: .*{match}"):
        run(study, monkeypatch, "widths.yaml")


def test_says_what_there_is_to_train(study, monkeypatch):
    with pytest.raises(SystemExit, match=r"some of \['CCNN 4,16', 'peer'\], got \['other'\]"):
        run(study, monkeypatch, "widths.yaml", "--only", "other")
    with pytest.raises(SystemExit, match="no finished runs in runs.widths"):
        run(study, monkeypatch, "widths.yaml", "--table")


@pytest.mark.parametrize(
    "path", sorted((EXAMPLES / "studies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_command_lines_accept_the_configurations_of_the_studies(study, run_example, capsys, path):
    for row in study.Study.read(path).configurations:
        options = study.Run(row, 0, Path("runs")).command([])[2:]
        with pytest.raises(SystemExit) as stop:
            run_example(Path(row.script).stem, *options, "--print_config")
        assert stop.value.code == 0, capsys.readouterr().err
        assert f"name: {row.folder}" in capsys.readouterr().out


def test_results_of_other_settings_are_no_results(study, monkeypatch, capsys):
    finished("CCNN_4_16", 0, 0.9, settings={"trainer.max_epochs": 5})
    message = "with trainer.max_epochs 1, got 5: remove"
    with pytest.raises(SystemExit, match=message):
        run(study, monkeypatch, "widths.yaml", "--table")
    row = study.Study.read(Path("widths.yaml")).configurations[0]
    assert not study.Run(row, 0, Path("runs/widths")).train([], 1)
    assert message in capsys.readouterr().out
    finished("peer", 0, 0.9, settings={"data.points": [1, 2], "data.val_fraction": 0.2})
    peer = study.Run(
        study.Study.read(Path("widths.yaml")).configurations[1], 0, Path("runs/widths")
    )
    assert peer.report(["--data.val_fraction=0.2"])["seed"] == 0
    with pytest.raises(ValueError, match=r"with data.val_fraction 0.1, got 0.2"):
        peer.report(["--data.val_fraction", "0.1"])


def test_folders_of_runs_with_other_settings_are_no_further_seeds(study, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="the extra `viz` is missing").use("agg")
    finished("CCNN_4_16", 0, 0.9)
    Path("runs/widths/CCNN_4_16/seed0-2").mkdir()
    Path("runs/widths/CCNN_4_16/seed0-2/results.json").write_text("{}")
    run(study, monkeypatch, "widths.yaml", "--table")
    content = json.loads(Path("runs/widths/study.json").read_text())
    assert content["configurations"]["CCNN 4,16"]["test"] == [0.9]


def test_a_failed_run_does_not_keep_the_others_from_starting(study, monkeypatch):
    started = []

    def fail(command, **_):
        started.append(next(each for each in command if each.startswith("--seed")))
        return study.subprocess.CompletedProcess([], 1)

    monkeypatch.setattr(study.subprocess, "run", fail)
    seeds = [str(seed) for seed in range(5)]
    with pytest.raises(SystemExit):
        run(study, monkeypatch, "widths.yaml", "--only", "CCNN 4,16", "--seeds", *seeds)
    assert started == [f"--seed_everything={seed}" for seed in seeds]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (STUDY, ["--only", "CCNN 4,16", "per"], r"`--only` to name some of .*got \['per'\]"),
        ("script: modelnet40.py\noptions: [a]\nconfigurations: {a: }", [], "`options` by name"),
        ("script: modelnet40.py\nconfigurations: {b: 3}", [], "options of 'b' by name, got 3"),
    ],
)
def test_refuses_what_is_no_study(study, monkeypatch, content, arguments, message):
    Path("widths.yaml").write_text(content)
    with pytest.raises(SystemExit, match=message):
        run(study, monkeypatch, "widths.yaml", *arguments)


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_names_results_that_are_damaged(study, monkeypatch, content):
    path = Path("runs/widths/CCNN_4_16/seed0/results.json")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(SystemExit, match=r"CCNN_4_16.seed0.results.json: expected"):
        run(study, monkeypatch, "widths.yaml", "--table")
