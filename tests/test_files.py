"""Files that appear complete or not at all, and folders that one process uses at a time."""

import json
import signal
import subprocess
import sys

import pytest

from ccnn_geo.files import atomic_write, locked, save_json


def test_a_file_keeps_its_content_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_previous_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(KeyError, match="stop"), atomic_write(path) as file:
        file.write(b"new")
        raise KeyError("stop")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "a"
    with atomic_write(path) as first, atomic_write(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_json_that_cannot_be_written_leaves_the_previous_file(tmp_path):
    path = tmp_path / "a.json"
    save_json(path, {"a": float("nan")})
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": None}
    assert list(tmp_path.iterdir()) == [path]


HOLDER = """
import sys, time
from pathlib import Path
from ccnn_geo.files import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_lock_names_the_process_that_holds_it_and_ends_with_it(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "locked\n"
            message = f"run: in use by process {holder.pid} on "
            with pytest.raises(TimeoutError, match=message), locked(tmp_path / "run", timeout=0):
                pytest.fail("two processes share a folder")
        finally:
            holder.kill()
    assert holder.returncode == (-signal.SIGKILL if sys.platform != "win32" else 1)
    with locked(tmp_path / "run", timeout=0):
        pass


def test_a_lock_is_released_by_an_error_and_leaves_no_name(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError, match="stop"), locked(tmp_path, timeout=0):
            raise KeyError("stop")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_named_with_the_setting_that_chooses_it(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"cannot write here .* e.g. by `root`.*run"),
        locked(tmp_path / "file" / "run", setting="root"),
    ):
        pytest.fail("a folder inside a file")
