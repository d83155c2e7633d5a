"""`predict` on folders and on files with unusual names."""

import json
import os
import sys

import numpy as np
import pytest

from ccnn_geo.commands import main
from datasets_helpers import cloud


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.npy"
    np.save(path, cloud(40)[0])
    return path


@pytest.fixture
def report(capsys):
    """Runs `predict --json` and returns its exit code, the entries and the errors."""

    def predict(*paths, options=()):
        arguments = ["--weights", "shapes", "--views", "1", "--json", *options, *paths]
        code = main(["predict", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, json.loads(out), err

    return predict


def test_an_empty_folder_does_not_stop_the_others(report, good, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    code, (bad, entry), err = report(empty, good)
    assert code == 1
    assert bad == {"file": str(empty), "error": err.removeprefix("error: ").rstrip()}
    assert err.startswith(f"error: {empty}: expected .npy, .npz, ")
    assert entry["file"] == str(good)
    assert "classes" in entry


def test_the_same_file_twice_is_no_error(report, good):
    code, entries, err = report(good, good)
    assert (code, len(entries), err) == (0, 2, "")


def test_a_name_that_is_too_long_does_not_stop_the_others(report, good, tmp_path):
    long = tmp_path / f"{'a' * 300}.npy"
    code, (bad, entry), err = report(long, good)
    assert code == 1
    assert str(long) in bad["error"]
    assert "classes" in entry
    assert err.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_and_passed_over_in_folders(report, good, tmp_path):
    pipe = tmp_path / "pipe.npy"
    os.mkfifo(pipe)
    code, (bad, _), _ = report(pipe, good)
    assert code == 1
    assert "expected a regular file" in bad["error"]
    code, entries, _ = report(tmp_path)
    assert (code, [entry["file"] for entry in entries]) == (0, [str(good)])


def test_an_error_is_one_line_whatever_the_name(report, good, tmp_path):
    bad = tmp_path / "a\nerror: b\x1b[2J.npy"
    bad.write_text("no array")
    code, entries, err = report(bad, good)
    assert code == 1
    assert err.count("\n") == 1
    assert "a\\nerror: b\\x1b[2J.npy: expected" in err
    assert entries[0]["file"] == str(bad)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text")
def test_a_name_that_is_not_utf8_is_classified_and_drawn(report, good, tmp_path):
    pytest.importorskip("plotly", reason="the extra `viz` is missing")
    name = os.fsencode(tmp_path) + b"/\xff.npy"
    os.rename(good, name)
    page = tmp_path / "page.html"
    code, (entry,), err = report(tmp_path, options=["--html", page])
    assert (code, err) == (0, "")
    assert os.fsencode(entry["file"]) == name
    # JSON escapes the backslash once more.
    assert "\\\\udcff.npy" in page.read_text()


def test_names_in_the_table_cannot_imitate_its_rows(good, capsys, tmp_path):
    path = good.rename(tmp_path / "a\n  99.9%  chair.npy")
    assert main(["predict", "--weights", "shapes", "--views", "1", "--top", "2", str(path)]) == 0
    first, _, *rows = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path}/a\\n  99.9%  chair.npy: cloud of 40 points"
    assert len(rows) == 2
