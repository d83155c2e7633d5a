"""Folders of runs: which one a run gets, and that nobody else uses it meanwhile."""

import logging
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.files import locked  # noqa: E402
from ccnn_geo.training.folders import claim_folder, find_folder  # noqa: E402

CONFIG = "model: {width: 3}\n"


@pytest.fixture
def first(tmp_path) -> Path:
    return tmp_path / "runs" / "mine" / "seed0"


def put(folder: Path, config: str, *files: str) -> Path:
    """Makes the folder of an earlier run."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    for name in files:
        (folder / name).touch()
    return folder


def test_an_unfinished_run_of_the_same_settings_goes_on(first):
    put(first, f"name: other\n{CONFIG}", "last.ckpt")
    with claim_folder(first, CONFIG) as folder:
        assert folder == first
    assert (folder / "config.yaml").read_text() == CONFIG


def test_other_settings_and_finished_runs_get_the_next_folder(first):
    put(first, "model: {width: 4}\n", "last.ckpt")
    put(first.with_name("seed0-2"), CONFIG, "last.ckpt", "results.json")
    with claim_folder(first, CONFIG) as folder:
        assert folder == first.with_name("seed0-3")
        assert find_folder(first, CONFIG) == folder


@pytest.mark.parametrize("content", ["", "[1", "- 1\n", "a: &a {b: *a}"])
def test_a_folder_with_damaged_settings_is_passed_over_with_the_reason(first, content, caplog):
    put(first, content, "last.ckpt")
    with caplog.at_level(logging.INFO), claim_folder(first, CONFIG) as folder:
        assert folder == first.with_name("seed0-2")
    reasons = [line for line in caplog.messages if line.startswith("Passing over")]
    assert len(reasons) == 1
    assert f"Passing over the folder {first}: {first / 'config.yaml'}: expected" in reasons[0]
    assert (first / "config.yaml").read_text() == content


def test_a_second_run_of_the_same_settings_is_told_who_uses_the_folder(first):
    with claim_folder(first, CONFIG) as folder:
        with (
            pytest.raises(TimeoutError, match=r"seed0: in use by process \d+ on "),
            claim_folder(first, CONFIG),
        ):
            pytest.fail("two runs share a folder")
        with claim_folder(first, "model: {width: 4}\n") as other:
            assert other == first.with_name("seed0-2")
        assert (folder / "config.yaml").read_text() == CONFIG


def test_a_folder_that_is_in_use_before_its_settings_are_written_is_not_shared(first):
    with locked(first), pytest.raises(TimeoutError, match="in use by"), claim_folder(first, CONFIG):
        pytest.fail("two runs share a folder")


def test_a_run_that_leaves_nothing_leaves_no_folder(first, tmp_path):
    with claim_folder(first, CONFIG) as folder:
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_removed_although_the_working_directory_has_changed(tmp_path, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with claim_folder(Path("runs/seed0"), CONFIG):
        monkeypatch.chdir(tmp_path / "there")
        put(Path("runs/seed0"), CONFIG)
    assert list((tmp_path / "here" / "runs").iterdir()) == []
    assert Path("runs/seed0/config.yaml").exists()


def test_a_folder_that_was_removed_during_the_run_is_no_error(first, tmp_path):
    with claim_folder(first, CONFIG):
        shutil.rmtree(tmp_path / "runs")


def test_only_new_and_unused_folders_are_removed(first):
    first.parent.mkdir(parents=True)
    with pytest.raises(KeyError, match="stop"), claim_folder(first, CONFIG) as folder:
        (folder / "last.ckpt").touch()
        raise KeyError("stop")
    assert {path.name for path in first.iterdir()} == {".lock", "config.yaml", "last.ckpt"}
    with claim_folder(first.with_name("seed1"), CONFIG):
        pass
    assert list(first.parent.iterdir()) == [first]


def test_the_folder_of_a_run_that_has_just_ended_is_not_used_again(first, monkeypatch):
    put(first, CONFIG, "last.ckpt")

    @contextmanager
    def locked_at_its_end(folder, **options):
        if folder == first:
            (first / "results.json").touch()
        with locked(folder, **options):
            yield

    monkeypatch.setattr("ccnn_geo.training.folders.locked", locked_at_its_end)
    with claim_folder(first, CONFIG) as folder:
        assert folder == first.with_name("seed0-2")


def test_results_without_settings_are_left_alone(first, caplog):
    first.mkdir(parents=True)
    (first / "results.json").write_text("{}")
    with caplog.at_level(logging.INFO), claim_folder(first, CONFIG) as folder:
        assert folder == first.with_name("seed0-2")
    assert "expected config.yaml beside results.json, got none" in caplog.text
    assert (first / "results.json").read_text() == "{}"


def test_a_folder_that_cannot_be_looked_into_is_an_error(first, monkeypatch):
    def refuse(self, **_):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        find_folder(first, CONFIG)


def test_what_a_killed_write_left_is_removed(first):
    put(first, CONFIG, "last.ckpt", ".last.ckpt.0123.tmp")
    with claim_folder(first, CONFIG) as folder:
        assert sorted(path.name for path in folder.glob("*.ckpt")) == ["last.ckpt"]
        assert not list(folder.glob(".*.tmp"))


def test_what_differs_from_an_earlier_run_is_said(first, caplog):
    put(first, "model: {width: 4, depth: 2}\n", "last.ckpt")
    put(first.with_name("seed0-2"), CONFIG, "results.json")
    with caplog.at_level(logging.INFO), claim_folder(first, CONFIG):
        pass
    assert f"Passing over the folder {first}: its run has another model.depth, model.width" in (
        caplog.messages
    )
    assert f"Passing over the folder {first}-2: its run is finished" in caplog.messages
