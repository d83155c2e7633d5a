"""`python -m ccnn_geo`: what it prints, what it returns, and what it says of bad input."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from pickle import dumps

import numpy as np
import pytest
import torch

from ccnn_geo import CCNN
from ccnn_geo.commands import main
from ccnn_geo.commands.export import export
from ccnn_geo.nn import ModelCard, Preprocessing
from datasets_helpers import BOX, cloud, open3d, put

trimesh = pytest.importorskip("trimesh", reason="the extra `mesh` is missing")

CLASSES = ("ball", "box", "cone")


def save_weights(folder: Path, features: tuple[str, ...] = ("pos",)) -> Path:
    torch.manual_seed(0)
    options = {"hidden_channels": 8, "num_blocks": 1, "kernel_channels": 4, "num_neighbors": 8}
    recipe = Preprocessing(num_points=64, features=features, normalize="box", points_per_mesh=128)
    model = CCNN(3 * len(features), 3, dim=3, omega_0=1.0, window_width=0.5, **options)
    model.eval().save_pretrained(
        folder, ModelCard(classes=CLASSES, preprocessing=recipe, license="MIT")
    )
    return folder


@pytest.fixture
def weights(tmp_path) -> str:
    return str(save_weights(tmp_path / "weights"))


@pytest.fixture
def cli(weights, capsys):
    """Runs `predict` and returns its exit code, output and errors."""

    def predict(*arguments: object) -> tuple[int, str, str]:
        code = main(["predict", "--weights", weights, *map(str, arguments)])
        return code, *capsys.readouterr()

    return predict


def probabilities(output: str) -> dict[str, float]:
    (entry,) = json.loads(output)
    return {each["name"]: each["probability"] for each in entry["classes"]}


class TestPredict:
    def test_prints_a_table_of_the_likeliest_classes(self, cli, tmp_path):
        code, out, err = cli(put(tmp_path / "box.off"))
        first, *rows = out.splitlines()
        assert (code, err) == (0, "")
        assert first == f"{tmp_path / 'box.off'}: mesh of 4 triangles"
        assert {row.split()[1] for row in rows} == set(CLASSES)
        shares = [float(row.split("%")[0]) for row in rows]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(100, abs=0.2)

    def test_shows_as_many_classes_as_wanted(self, cli, tmp_path):
        _, out, _ = cli(put(tmp_path / "box.off"), "--top", 1)
        assert len(out.splitlines()) == 2

    def test_prints_json(self, cli, tmp_path):
        code, out, err = cli(put(tmp_path / "box.off"), "--json")
        (entry,) = json.loads(out)
        assert (code, err) == (0, "")
        assert (entry["points"], entry["faces"], entry["notes"]) == (4, 4, [])
        assert sum(probabilities(out).values()) == pytest.approx(1)

    def test_gives_the_same_answer_every_time(self, cli, tmp_path):
        path = put(tmp_path / "box.off")
        assert cli(path, "--json") == cli(path, "--json")

    @pytest.mark.parametrize("suffix", ["off", "ply", "obj", "stl"])
    def test_takes_meshes_of_every_kind(self, cli, tmp_path, suffix):
        trimesh.creation.box().export(tmp_path / f"box.{suffix}")
        code, out, _ = cli(tmp_path / f"box.{suffix}")
        assert code == 0
        assert "mesh of 12 triangles" in out

    @pytest.mark.parametrize("suffix", ["ply", "xyz", "txt", "npy", "npz"])
    def test_takes_clouds_of_every_kind(self, cli, tmp_path, suffix):
        points, _ = cloud(200)
        path = tmp_path / f"cloud.{suffix}"
        if suffix == "ply":
            trimesh.PointCloud(points).export(path)
        elif suffix == "npz":
            np.savez(path, pos=points)
        elif suffix == "npy":
            np.save(path, points)
        else:
            np.savetxt(path, points)
        code, out, _ = cli(path)
        assert code == 0
        assert "cloud of 200 points" in out

    def test_takes_pcd_files(self, cli, tmp_path):
        o3d = open3d()
        points = o3d.utility.Vector3dVector(cloud(200)[0])
        assert o3d.io.write_point_cloud(tmp_path / "a.pcd", o3d.geometry.PointCloud(points))
        assert cli(tmp_path / "a.pcd")[0] == 0

    def test_takes_many_files_and_whole_folders(self, cli, tmp_path):
        for name in ("a.off", "deep/b.off", "deep/.hidden.off", "deep/notes.md"):
            put(tmp_path / "folder" / name)
        code, out, _ = cli(put(tmp_path / "c.off"), tmp_path / "folder", "--json")
        names = [Path(entry["file"]).name for entry in json.loads(out)]
        assert (code, names) == (0, ["c.off", "a.off", "b.off"])

    def test_a_mesh_file_without_faces_is_a_cloud_and_says_so(self, cli, tmp_path):
        points, _ = cloud(200)
        lines = "\n".join(f"{x} {y} {z}" for x, y, z in points)
        np.savetxt(tmp_path / "cloud.xyz", points)
        _, plain, _ = cli(tmp_path / "cloud.xyz", "--json")
        for name, content in (
            ("cloud.off", f"OFF\n200 0 0\n{lines}\n"),
            ("cloud.obj", "v " + lines.replace("\n", "\nv ") + "\n"),
        ):
            path = put(tmp_path / name, content)
            code, out, _ = cli(path)
            assert code == 0
            assert "cloud of 200 points" in out
            assert "note: it has no faces, so its vertices are taken as a cloud" in out
            assert probabilities(cli(path, "--json")[1]) == pytest.approx(probabilities(plain))

    def test_a_cloud_with_few_points_is_taken_and_says_so(self, cli, tmp_path):
        for count in (1, 20):
            np.savetxt(tmp_path / "few.xyz", cloud(20)[0][:count])
            code, out, _ = cli(tmp_path / "few.xyz")
            assert code == 0
            assert f"note: it has {count} points, fewer than the 64 that the network was" in out

    def test_the_unit_does_not_matter(self, cli, tmp_path):
        metres, _ = cloud(200)
        answers = []
        for unit in (1.0, 1000.0, 1e-6):
            np.save(tmp_path / "cloud.npy", unit * (metres + 7))
            answers.append(probabilities(cli(tmp_path / "cloud.npy", "--json")[1]))
        assert answers[1] == pytest.approx(answers[0], abs=1e-4)
        assert answers[2] == pytest.approx(answers[0], abs=1e-4)

    def test_normals_are_estimated_where_the_network_needs_them(self, tmp_path, capsys):
        open3d()
        folder = save_weights(tmp_path / "normals", ("normal", "pos"))
        points, normals = cloud(200)
        np.save(tmp_path / "without.npy", points)
        np.save(tmp_path / "with.npy", np.concatenate([points, normals], axis=1))
        files = [str(tmp_path / "with.npy"), str(tmp_path / "without.npy")]
        assert main(["predict", "--weights", str(folder), "--json", *files]) == 0
        known, estimated = json.loads(capsys.readouterr().out)
        assert (known["notes"], estimated["notes"]) == ([], ["its normals are estimated"])
        for one, other in zip(known["classes"], estimated["classes"], strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=0.05)

    def test_the_shipped_weights_know_their_shapes(self, tmp_path, capsys):
        from ccnn_geo.datasets.point_clouds.shapes import make_shape

        names = ("ball", "chair", "cone", "mug", "ring", "table")
        for name in names:
            shape = make_shape(name, seed=(5, 5))
            trimesh.Trimesh(shape.points, shape.faces).export(tmp_path / f"{name}.off")
        files = [str(tmp_path / f"{name}.off") for name in names]
        assert main(["predict", "--weights", "shapes", "--json", *files]) == 0
        report = json.loads(capsys.readouterr().out)
        right = [Path(each["file"]).stem == each["classes"][0]["name"] for each in report]
        assert sum(right) >= 5

    def test_the_default_weights_know_real_meshes(self, shared_data, capsys):
        files = sorted(map(str, (shared_data / "meshes").glob("*.off")))
        assert main(["predict", "--json", *files]) == 0
        report = json.loads(capsys.readouterr().out)
        right = [
            Path(each["file"]).stem.rpartition("_")[0] == each["classes"][0]["name"]
            for each in report
        ]
        assert len(right) == 6
        assert sum(right) >= 5


class TestPicture:
    def test_is_one_page_with_all_files(self, cli, tmp_path):
        pytest.importorskip("plotly", reason="the extra `viz` is missing")
        files = [put(tmp_path / "box.off"), put(tmp_path / "other <b>.off")]
        code, _, err = cli(*files, "--html", tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        assert (code, err) == (0, "")
        assert page.count("scatter3d") >= 2
        assert "other &lt;b&gt;.off" in page or "other \\u0026lt;b\\u0026gt;.off" in page
        assert "log-odds" in page

    def test_without_plotly_says_what_to_install(self, cli, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "plotly", None)
        monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
        code, out, err = cli(put(tmp_path / "box.off"), "--html", tmp_path / "page.html")
        assert (code, out) == (1, "")
        assert "pip install 'ccnn_geo[viz]'" in err
        assert not (tmp_path / "page.html").exists()

    @pytest.mark.parametrize("place", ["absent/page.html", "file/page.html", "."])
    def test_a_place_that_cannot_be_written_is_found_out_first(self, cli, tmp_path, place):
        pytest.importorskip("plotly", reason="the extra `viz` is missing")
        (tmp_path / "file").touch()
        code, out, err = cli(put(tmp_path / "box.off"), "--html", tmp_path / place)
        assert (code, out) == (1, "")
        assert str(tmp_path / place) in err

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no folder /proc")
    def test_no_permission_to_write(self, cli, tmp_path):
        pytest.importorskip("plotly", reason="the extra `viz` is missing")
        code, out, err = cli(put(tmp_path / "box.off"), "--html", "/proc/page.html")
        assert (code, out) == (1, "")
        assert "/proc/page.html: the file cannot be written" in err


class TestBadInput:
    def test_a_broken_file_does_not_stop_the_others(self, cli, tmp_path):
        bad, good = put(tmp_path / "bad.off", "OFF\n1"), put(tmp_path / "good.off")
        code, out, err = cli(bad, good)
        assert code == 1
        assert "good.off: mesh" in out
        assert err.startswith(f"error: {bad}: ")
        assert "Traceback" not in err
        report = json.loads(cli(bad, good, "--json")[1])
        assert ["error" in entry for entry in report] == [True, False]

    @pytest.mark.parametrize("suffix", ["off", "ply", "obj", "stl", "xyz", "txt", "npy", "npz"])
    @pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0\xff\xfe", b"Dear reader,\n"])
    def test_a_file_that_is_not_what_its_ending_says(self, cli, tmp_path, suffix, content):
        path = tmp_path / f"picture.{suffix}"
        path.write_bytes(content)
        code, out, err = cli(path)
        assert (code, out) == (1, "")
        assert err.startswith(f"error: {path}: ")
        assert len(err.splitlines()) == 1

    def test_a_pcd_file_that_is_none(self, cli, tmp_path):
        open3d()
        code, _, err = cli(put(tmp_path / "a.pcd", "Dear reader,\n"))
        assert code == 1
        assert "a.pcd: expected the header of a PCD file" in err

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("absent.off", "absent.off"),
            ("picture.png", "expected one of .npy, .npz"),
        ],
    )
    def test_files_that_cannot_be_read(self, cli, tmp_path, name, message):
        (tmp_path / "picture.png").touch()
        code, _, err = cli(tmp_path / name)
        assert code == 1
        assert message in err

    def test_an_empty_folder(self, cli, tmp_path):
        (tmp_path / "empty").mkdir()
        code, out, err = cli(tmp_path / "empty")
        assert (code, out) == (1, "")
        assert f"error: {tmp_path / 'empty'}: expected .npy, .npz, " in err

    def test_arrays_of_a_whole_data_set(self, cli, tmp_path):
        np.savez(tmp_path / "set.npz", train_pos=np.zeros((2, 4, 3)), train_y=np.zeros(2))
        code, _, err = cli(tmp_path / "set.npz")
        assert code == 1
        assert "expected an array `pos`, or a single array, got train_pos, train_y" in err

    def test_points_that_are_not_finite(self, cli, tmp_path):
        code, _, err = cli(put(tmp_path / "a.xyz", "0 0 nan\n1 1 1\n"))
        assert code == 1
        assert "a.xyz: expected finite coordinates" in err

    def test_unknown_weights_list_the_known_ones(self, tmp_path, capsys):
        assert main(["predict", "--weights", "resnet", str(put(tmp_path / "box.off"))]) == 1
        assert "got 'resnet'; the names are: " in capsys.readouterr().err

    def test_weights_without_a_card(self, tmp_path, capsys):
        CCNN(3, 2, dim=3, hidden_channels=4, num_blocks=1).save_pretrained(tmp_path)
        assert main(["predict", "--weights", str(tmp_path), str(put(tmp_path / "box.off"))]) == 1
        assert "Expected a model with a card" in capsys.readouterr().err

    def test_a_device_that_is_not_there(self, cli, tmp_path):
        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device")
        code, _, err = cli(put(tmp_path / "box.off"), "--device", "cuda")
        assert code == 1
        assert "Expected `--device` to be one that `info` lists, got 'cuda'" in err

    @pytest.mark.parametrize(
        "arguments", [[], ["guess"], ["predict"], ["predict", "a.off", "--top", "0"], ["plot"]]
    )
    def test_a_command_that_is_not_understood(self, arguments, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert "usage: python -m ccnn_geo" in capsys.readouterr().err

    def test_debug_shows_where_an_error_comes_from(self, cli, tmp_path):
        with pytest.raises(ValueError, match=r"bad.off"):
            cli(put(tmp_path / "bad.off", "OFF\n1"), "--debug")
        with pytest.raises(FileNotFoundError, match="resnet"):
            main(["--debug", "predict", "--weights", "resnet", str(put(tmp_path / "box.off"))])


class TestInfo:
    def test_shows_versions_backends_devices_and_weights(self, capsys):
        assert main(["info", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["versions"]["torch"] == torch.__version__
        assert report["backends"]["reference"] == "available"
        assert "cpu" in report["devices"]
        assert report["weights"]["shapes"]["license"] == "MIT"
        defaults = [each["task"] for each in report["weights"].values() if each["default"]]
        assert sorted(defaults) == ["classification", "segmentation"]

    def test_prints_a_table(self, capsys):
        assert main(["info"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert {"versions", "backends", "devices", "weights"} <= set(lines)
        assert any(line.startswith("  shapes ") and "14 classes" in line for line in lines)


class Command:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a tiny run, made by `train`."""
    pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
    folder = tmp_path_factory.mktemp("trained")
    generator = np.random.default_rng(0)
    labels = np.arange(12) % 2
    pos = generator.standard_normal((12, 40, 3)).astype(np.float32)
    pos[..., 2] *= labels[:, None]
    arrays = {}
    for split in ("train", "test"):
        arrays |= {f"{split}_pos": pos, f"{split}_y": labels}
    np.savez(folder / "data.npz", classes=np.array(["disc", "ball"]), **arrays)
    settings = {
        "data.name": "arrays", "data.root": folder / "data.npz", "data.num_points": 32,
        "data.batch_size": 4, "data.val_fraction": 0.2, "trainer.max_epochs": 1, "name": "tiny",
        "trainer.default_root_dir": folder, "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false", "trainer.accelerator": "cpu",
        "network.hidden_channels": 4, "network.num_blocks": 1, "network.kernel_channels": 4,
        "network.num_neighbors": 8,
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-m", "ccnn_geo", "train"]
    command += [f"--{name}={value}" for name, value in settings.items()]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        pytest.fail(process.stderr)
    assert "The report is" in process.stdout
    return folder / "tiny" / "seed0"


class TestPlot:
    @pytest.mark.parametrize(
        ("name", "written"), [("k", "k.png"), ("k.svg", "k.svg"), ("K.HTML", "K.HTML")]
    )
    def test_says_what_was_written(self, weights, tmp_path, capsys, name, written):
        for module in ("matplotlib", "plotly"):
            pytest.importorskip(module, reason="the extra `viz` is missing")
        arguments = [str(tmp_path / name), "--weights", weights, "--channels", "1"]
        assert main(["plot", "kernels", *arguments]) == 0
        assert capsys.readouterr().out == f"Wrote {tmp_path / written}\n"
        assert (tmp_path / written).stat().st_size > 0


class TestTrainAndExport:
    def test_help_and_bad_settings_are_lightnings(self, capsys):
        pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")
        before = list(sys.argv)
        with pytest.raises(SystemExit, match="0"):
            main(["train", "--help"])
        assert "--data.num_points" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="2"):
            main(["train", "--data.colour", "red"])
        assert "usage: python -m ccnn_geo train" in capsys.readouterr().err
        assert sys.argv == before

    def test_a_run_draws_its_pictures(self, trained):
        pytest.importorskip("matplotlib", reason="the extra `viz` is missing")
        for name in ("confusion.png", "learning_curves.png"):
            assert (trained / name).read_bytes().startswith(b"\x89PNG")

    def test_a_run_becomes_weights_that_predict(self, trained, tmp_path, capsys):
        arguments = ["--license", "CC0", "--name", "tiny", "--data-set", "discs and balls"]
        assert main(["export", str(trained), str(tmp_path), *arguments]) == 0
        model = CCNN.from_pretrained(tmp_path)
        assert model.card.classes == ("disc", "ball")
        assert model.card.license == "CC0"
        assert model.card.training["data_set"] == "discs and balls"
        assert model.card.preprocessing == Preprocessing(
            num_points=32, features=("pos",), normalize="box", points_per_mesh=2048
        )
        assert str(trained) not in (tmp_path / "tiny.json").read_text()
        checkpoint = torch.load(trained / "best.ckpt", weights_only=True)["state_dict"]
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, checkpoint[f"network.{name}"])
        np.save(tmp_path / "cloud.npy", cloud(64)[0])
        capsys.readouterr()
        assert main(["predict", "--weights", str(tmp_path), str(tmp_path / "cloud.npy")]) == 0

    def test_accuracies_are_those_of_the_report(self, trained, tmp_path):
        results = json.loads((trained / "results.json").read_text())
        card = CCNN.from_pretrained(export(trained, tmp_path, license="CC0")).card
        assert card.accuracy == {x: round(results[x]["accuracy"], 4) for x in ("val", "test")}
        assert card.training["epochs"] == 1

    def test_an_unfinished_run(self, trained, tmp_path, capsys):
        shutil.copy(trained / "best.ckpt", tmp_path)
        assert main(["export", str(tmp_path), str(tmp_path), "--license", "MIT"]) == 1
        assert "results.json: expected the report of a finished run" in capsys.readouterr().err

    def test_a_run_on_something_else(self, tmp_path):
        content = {"classes": ["0", "1"], "data_set": "digits", "settings": {"data.form": "image"}}
        (tmp_path / "results.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="expected a run on point clouds, got one on 'digits'"):
            export(tmp_path, tmp_path / "out", license="MIT")

    def test_the_checkpoint_of_something_else(self, trained, tmp_path):
        shutil.copy(trained / "results.json", tmp_path)
        description = {"model": "DGCNN", "arguments": {"width": 3}}
        torch.save({"state_dict": {}, "network": description}, tmp_path / "best.ckpt")
        with pytest.raises(ValueError, match="best.ckpt: .* .Expected a CCNN, got a DGCNN"):
            export(tmp_path, tmp_path / "out", license="MIT")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("content", [b"", b"text\nin lines", b"PK\x03\x04"])
    def test_a_damaged_checkpoint(self, trained, tmp_path, capsys, content):
        shutil.copy(trained / "results.json", tmp_path)
        (tmp_path / "best.ckpt").write_bytes(content)
        assert main(["export", str(tmp_path), str(tmp_path / "out"), "--license", "MIT"]) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"error: {tmp_path / 'best.ckpt'}: expected a complete checkpoint (")
        assert len(err.splitlines()) == 1

    def test_a_missing_checkpoint(self, trained, tmp_path):
        shutil.copy(trained / "results.json", tmp_path)
        with pytest.raises(FileNotFoundError, match="last.ckpt: expected the checkpoint of a run"):
            export(tmp_path, tmp_path / "out", license="MIT")

    @pytest.mark.parametrize("save", [torch.save, lambda it, path: path.write_bytes(dumps(it))])
    def test_a_pickled_command_in_a_checkpoint_is_not_executed(self, trained, tmp_path, save):
        shutil.copy(trained / "results.json", tmp_path)
        content = torch.load(trained / "best.ckpt", weights_only=True)
        save(content | {"epoch": Command(tmp_path / "executed")}, tmp_path / "best.ckpt")
        with pytest.raises(ValueError, match="best.ckpt: expected a complete checkpoint"):
            export(tmp_path, tmp_path / "out", license="MIT")
        assert not (tmp_path / "executed").exists()

    def test_a_checkpoint_of_a_far_larger_network(self, trained, tmp_path):
        shutil.copy(trained / "results.json", tmp_path)
        content = torch.load(trained / "best.ckpt", weights_only=True)
        content["network"]["arguments"]["hidden_channels"] = 10**7
        torch.save(content, tmp_path / "best.ckpt")
        with pytest.raises(ValueError, match="best.ckpt: expected .* of another shape"):
            export(tmp_path, tmp_path / "out", license="MIT")

    @pytest.mark.parametrize(
        "changes",
        [
            {"classes": 5}, {"classes": [1, 2]}, {"settings": {"data.num_points": 3}},
            {"test": 0.5}, {"val": {"accuracy": "high"}},
        ],
    )  # fmt: skip
    def test_a_report_with_other_types_cannot_be_exported(self, trained, tmp_path, changes):
        shutil.copy(trained / "best.ckpt", tmp_path)
        results = json.loads((trained / "results.json").read_text()) | changes
        (tmp_path / "results.json").write_text(json.dumps(results))
        with pytest.raises(ValueError, match="results.json: expected the report of a finished"):
            export(tmp_path, tmp_path / "out", license="MIT")

    @pytest.mark.parametrize(
        "changes", [{"history": 3}, {"history": [3]}, {"classes": 3}, {"confusion": "none"}]
    )
    def test_a_report_with_other_types_cannot_be_drawn(self, trained, tmp_path, changes, capsys):
        pytest.importorskip("matplotlib", reason="the extra `viz` is missing")
        results = json.loads((trained / "results.json").read_text()) | changes
        (tmp_path / "results.json").write_text(json.dumps(results))
        assert main(["plot", "run", str(tmp_path)]) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"error: {tmp_path / 'results.json'}: expected the report of a")

    def test_pictures_of_a_run_can_be_drawn_again(self, trained, tmp_path, capsys):
        pytest.importorskip("matplotlib", reason="the extra `viz` is missing")
        shutil.copy(trained / "results.json", tmp_path)
        assert main(["plot", "run", str(tmp_path)]) == 0
        assert {path.name for path in tmp_path.glob("*.png")} == {
            "confusion.png", "learning_curves.png",
        }  # fmt: skip
        put(tmp_path / "results.json", "{}")
        assert main(["plot", "run", str(tmp_path)]) == 1
        assert "results.json: expected entries history" in capsys.readouterr().err


class TestAsAProgram:
    def test_help_names_the_commands_and_loads_nothing_heavy(self, tmp_path):
        code = (
            "import runpy, sys; sys.argv = ['ccnn_geo', '--help']\n"
            "try: runpy.run_module('ccnn_geo', run_name='__main__')\n"
            "finally: print(*sys.modules)"
        )
        process = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
        )
        assert process.returncode == 0
        for command in ("predict", "info", "train", "export", "plot", "exit codes"):
            assert command in process.stdout
        heavy = {"pytorch_lightning", "matplotlib", "plotly", "trimesh", "open3d", "librosa"}
        if find_spec("numba") is None:  # PyG imports it, and it imports SciPy
            heavy.add("scipy")
        assert heavy & set(process.stdout.splitlines()[-1].split()) == set()

    def test_a_reader_that_has_seen_enough(self, weights, tmp_path):
        put(tmp_path / "a.off", BOX)
        command = [sys.executable, "-m", "ccnn_geo", "predict", "--weights", weights, "a.off"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        ) as process:
            process.stdout.close()
            errors = process.stderr.read()
        assert "Traceback" not in errors
        assert process.returncode == 1
