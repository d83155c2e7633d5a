"""The cache: what its name carries, and that neither a kill nor a full disk leaves it half done."""

import errno
import multiprocessing
import os
import re
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from ccnn_geo import files
from ccnn_geo.datasets import PointCloudFolder, Shapes
from ccnn_geo.datasets import cache as arrays_cache
from ccnn_geo.datasets.point_clouds import cache
from ccnn_geo.datasets.point_clouds.sampling import Sampling
from datasets_helpers import OPTIONS, put, put_classes

SHAPES = {"points_per_mesh": 256, "train_per_class": 10, "test_per_class": 0}


def start(
    root: Path, num_processes: int, sigterm: signal.Handlers = signal.SIG_DFL
) -> multiprocessing.Process:
    """Makes a cache in another process, which leads a group of its own."""

    def run() -> None:
        os.setsid()
        signal.signal(signal.SIGTERM, sigterm)
        Shapes(root, num_processes=num_processes, **SHAPES)

    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(cache, "_ITEMS_PER_PART", 2)


def contents(folder: Path) -> dict[str, bytes]:
    """Returns every file of the caches in a folder, but for the lock."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in (root / ".ccnn_geo").iterdir() if path.is_dir())


class TestName:
    def test_carries_every_parameter(self, tmp_path):
        put_classes(tmp_path, "a", "b")
        variants = [
            {},
            {"points_per_mesh": 33},
            {"resample": 2},
            {"normalize": "ball"},
            {"seed": 1},
            {"estimate_normals": True},
            {"split": "test"},
        ]
        for options in variants:
            PointCloudFolder(tmp_path, **OPTIONS | options)
        made = sorted(name.rpartition("-")[0] for name in folders(tmp_path))
        assert made == [
            "folder-test-32points-1x-box-seed0",
            "folder-train-32points-1x-ball-seed0",
            "folder-train-32points-1x-box-seed0",
            "folder-train-32points-1x-box-seed0-estimated",
            "folder-train-32points-1x-box-seed1",
            "folder-train-32points-2x-box-seed0",
            "folder-train-33points-1x-box-seed0",
        ]

    def test_changes_with_the_source_files(self, tmp_path):
        put_classes(tmp_path, "a", "b")
        PointCloudFolder(tmp_path, **OPTIONS)
        (first,) = folders(tmp_path)
        PointCloudFolder(tmp_path, **OPTIONS)
        assert folders(tmp_path) == [first]
        path = tmp_path / "a/train/a_0001.off"
        path.write_text(path.read_text() + "\n")
        PointCloudFolder(tmp_path, **OPTIONS)
        assert len(folders(tmp_path)) == 2
        os.utime(path, ns=(0, 0))
        PointCloudFolder(tmp_path, **OPTIONS)
        assert len(folders(tmp_path)) == 3
        put(tmp_path / "a/train/a_0004.off")
        PointCloudFolder(tmp_path, **OPTIONS)
        assert len(folders(tmp_path)) == 4

    def test_what_is_drawn_at_an_access_does_not_enter(self, tmp_path):
        put_classes(tmp_path, "a")
        PointCloudFolder(tmp_path, **OPTIONS)
        PointCloudFolder(tmp_path, **OPTIONS | {"num_points": 3, "transform": lambda data: data})
        assert len(folders(tmp_path)) == 1


class TestContent:
    def test_is_the_same_from_one_process_and_from_many(self, tmp_path):
        for number in (1, 2):
            Shapes(
                tmp_path / str(number), points_per_mesh=8, num_processes=number, train_per_class=2
            )
        first, second = (contents(tmp_path / name / ".ccnn_geo") for name in "12")
        assert first == second
        assert len(first) == 2

    def test_the_points_of_a_mesh_do_not_depend_on_the_other_meshes(self, tmp_path):
        put_classes(tmp_path / "few", "b")
        put_classes(tmp_path / "many", "a", "b", "c")
        few = PointCloudFolder(tmp_path / "few", **OPTIONS).clouds
        many = PointCloudFolder(tmp_path / "many", **OPTIONS).clouds
        np.testing.assert_array_equal(few[1], many[3])
        assert not np.array_equal(few[0], few[1])

    def test_resampling_draws_other_points_and_keeps_the_first(self, tmp_path):
        put_classes(tmp_path, "a", "b")
        once = PointCloudFolder(tmp_path, **OPTIONS).clouds
        twice = PointCloudFolder(tmp_path, resample=2, **OPTIONS).clouds
        assert len(twice) == 2 * len(once)
        assert twice.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        for index in range(len(once)):
            np.testing.assert_array_equal(twice[2 * index], once[index])
            assert not np.array_equal(twice[2 * index + 1], once[index])

    def test_only_training_meshes_are_resampled(self, tmp_path):
        put_classes(tmp_path, "a", "b")
        assert len(PointCloudFolder(tmp_path, split="test", resample=3, **OPTIONS)) == 2

    def test_the_second_start_reads_no_mesh(self, tmp_path):
        put_classes(tmp_path, "a")
        first = PointCloudFolder(tmp_path, **OPTIONS)
        for path in (tmp_path / "a/train").iterdir():
            status = path.stat()
            path.write_bytes(b"x" * status.st_size)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        second = PointCloudFolder(tmp_path, **OPTIONS)
        np.testing.assert_array_equal(first.clouds.points, second.clouds.points)


class TestInterruption:
    def test_a_build_goes_on_from_the_finished_parts_to_the_same_bytes(self, tmp_path, monkeypatch):
        for name in ("whole", "cut"):
            put_classes(tmp_path / name, "a", "b", "c")
            for path in (tmp_path / name).rglob("*.off"):
                os.utime(path, ns=(0, 0))
        PointCloudFolder(tmp_path / "whole", **OPTIONS)
        made = []

        def interrupted(self, geometry, name):
            if len(made) == 3:
                raise KeyboardInterrupt("cut off")
            made.append(name)
            return original(self, geometry, name)

        original = Sampling.clouds
        monkeypatch.setattr(Sampling, "clouds", interrupted)
        with pytest.raises(KeyboardInterrupt, match="cut off"):
            PointCloudFolder(tmp_path / "cut", **OPTIONS)
        (parts,) = folders(tmp_path / "cut")
        assert parts.endswith(".parts")
        assert list(contents(tmp_path / "cut/.ccnn_geo")) == [f"{parts}/0000000-2.npz"]
        made.clear()

        def counted(self, geometry, name):
            made.append(name)
            return original(self, geometry, name)

        monkeypatch.setattr(Sampling, "clouds", counted)
        PointCloudFolder(tmp_path / "cut", **OPTIONS)
        assert made == [f"{c}/train/{c}_000{n}.off" for c, n in ("b1", "b2", "c1", "c2")]
        whole, cut = (contents(tmp_path / name / ".ccnn_geo") for name in ("whole", "cut"))
        assert whole == cut

    @pytest.mark.parametrize("processes", [1, 2])
    def test_a_killed_process_leaves_what_the_next_one_finishes(
        self, tmp_path, monkeypatch, processes
    ):
        """The caches are made under one path, one after the other, so that they have one name."""
        monkeypatch.setattr(cache, "_ITEMS_PER_PART", 10)
        folder = tmp_path / ".ccnn_geo"
        process = start(tmp_path, processes)
        while process.is_alive() and len(list(tmp_path.rglob("*.npz"))) < 3:
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        finished = contents(folder)
        assert not [name for name in finished if name.endswith("points.npy")]
        Shapes(tmp_path, num_processes=1, **SHAPES)
        resumed = contents(folder)
        shutil.rmtree(folder)
        Shapes(tmp_path, num_processes=1, **SHAPES)
        assert contents(folder) == resumed
        assert len(resumed) == 2

    def test_a_build_that_was_killed_while_it_put_the_parts_together_is_finished(
        self, tmp_path, monkeypatch
    ):
        put_classes(tmp_path, "a", "b")

        def killed(parts, folder):
            (folder / "points.npy").write_bytes(b"half")
            raise KeyboardInterrupt("cut off")

        with monkeypatch.context() as patch:
            patch.setattr(arrays_cache, "_join", killed)
            with pytest.raises(KeyboardInterrupt, match="cut off"):
                PointCloudFolder(tmp_path, **OPTIONS)
        train = PointCloudFolder(tmp_path, **OPTIONS)
        assert train.clouds.points.shape == (4 * 32, 6)
        assert not folders(tmp_path)[0].endswith(".parts")

    def test_parts_that_a_killed_process_left_beside_its_cache_are_removed(self, tmp_path):
        put_classes(tmp_path, "a", "b")
        first = PointCloudFolder(tmp_path, **OPTIONS)
        (name,) = folders(tmp_path)
        put(tmp_path / ".ccnn_geo" / f"{name}.parts" / "0000000-2.npz", "stale")
        second = PointCloudFolder(tmp_path, **OPTIONS)
        assert folders(tmp_path) == [name]
        np.testing.assert_array_equal(first.clouds.points, second.clouds.points)

    def test_a_broken_mesh_stops_every_process_and_is_named(self, tmp_path):
        put_classes(tmp_path, "a", "b", "c")
        put(tmp_path / "b/train/broken.off", "OFF\n1 1 0\n")
        with pytest.raises(ValueError, match="b/train/broken.off: expected 1 vertices and 1 faces"):
            PointCloudFolder(tmp_path, **OPTIONS | {"num_processes": 2})
        (tmp_path / "b/train/broken.off").unlink()
        assert len(PointCloudFolder(tmp_path, **OPTIONS)) == 6

    def test_processes_that_want_the_same_cache_wait_for_the_first(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cache, "_ITEMS_PER_PART", 10)
        processes = [start(tmp_path, 1) for _ in range(3)]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0, 0]
        assert len(contents(tmp_path / ".ccnn_geo")) == 2
        assert len(folders(tmp_path)) == 1


class TestProcesses:
    @pytest.fixture
    def processes(self, tmp_path, monkeypatch) -> Callable[[], set[int]]:
        """Tells the numbers of the processes that sampled something."""

        def noted(self, geometry, name):
            (tmp_path / f"{os.getpid()}.pid").touch()
            return original(self, geometry, name)

        original = Sampling.clouds
        monkeypatch.setattr(Sampling, "clouds", noted)
        return lambda: {int(path.stem) for path in tmp_path.glob("*.pid")}

    def test_meshes_are_sampled_in_other_processes(self, tmp_path, processes):
        root = put_classes(tmp_path / "data", "a", "b")
        PointCloudFolder(root, **OPTIONS | {"num_processes": 2})
        assert os.getpid() not in processes()

    def test_normals_are_estimated_in_this_process_because_open3d_cannot_be_forked(
        self, tmp_path, processes
    ):
        root = put_classes(tmp_path / "data", "a", "b")
        PointCloudFolder(root, estimate_normals=True, **OPTIONS | {"num_processes": 2})
        assert processes() == {os.getpid()}


class TestWorkers:
    """Workers end with the process that made them, and where they are told to."""

    @pytest.fixture
    def at_work(self, monkeypatch) -> Iterator[tuple[BinaryIO, int]]:
        """A pipe to which stuck workers write a byte, and that ends when all of them have ended."""
        reader, writer = os.pipe()

        def stuck(self, geometry, name):
            os.write(writer, b"x")
            time.sleep(600)

        monkeypatch.setattr(Sampling, "clouds", stuck)
        with open(reader, "rb", buffering=0) as pipe:
            yield pipe, writer

    @staticmethod
    def all_end(pipe: BinaryIO) -> bool:
        """Waits until nobody can write to a pipe, for half a minute at the most between bytes."""
        while select.select([pipe], [], [], 30)[0]:
            if not pipe.read(1):
                return True
        return False

    def test_workers_end_with_a_parent_that_is_killed(self, tmp_path, at_work):
        pipe, writer = at_work
        parent = start(tmp_path, 2)
        os.close(writer)
        assert pipe.read(1) == b"x"
        try:
            os.kill(parent.pid, signal.SIGKILL)
            assert self.all_end(pipe)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
            parent.join()

    def test_workers_end_when_told_to_whatever_their_parent_does(self, tmp_path, at_work):
        """As where Lightning has a handler of its own for the signal of a batch system."""
        pipe, writer = at_work
        parent = start(tmp_path, 2, sigterm=signal.SIG_IGN)
        os.close(writer)
        assert pipe.read(1) == b"x"
        try:
            os.killpg(parent.pid, signal.SIGTERM)
            assert self.all_end(pipe)
            parent.join()
            assert parent.exitcode == 1
        finally:
            if parent.is_alive():
                os.killpg(parent.pid, signal.SIGKILL)


class TestFullDisk:
    @staticmethod
    def fill_up(monkeypatch, suffix):
        """Lets every write to a file with this ending fail after some bytes."""

        class Full:
            def __init__(self, file):
                self.file = file

            def __enter__(self):
                return self

            def __exit__(self, *exception):
                self.file.close()

            def write(self, content):
                self.file.write(bytes(content)[:10])
                raise OSError(errno.ENOSPC, "No space left on device")

            def __getattr__(self, name):
                return getattr(self.file, name)

        def full_open(path, mode):
            file = open(path, mode)
            full = re.sub(r"\.[0-9a-f]+\.tmp$", ".tmp", path.name).endswith(suffix)
            return Full(file) if full else file

        monkeypatch.setattr(files, "open", full_open, raising=False)

    @pytest.mark.parametrize("suffix", [".npz.tmp", "points.npy.tmp", "sizes.npy.tmp"])
    @pytest.mark.parametrize("processes", [1, 2])
    def test_names_the_file_and_leaves_nothing_half_written(
        self, tmp_path, monkeypatch, suffix, processes
    ):
        put_classes(tmp_path, "a", "b")
        options = OPTIONS | {"num_processes": processes}
        with monkeypatch.context() as patch:
            self.fill_up(patch, suffix)
            name = suffix.removesuffix(".tmp")
            with pytest.raises(OSError, match=rf"cannot write: No space left.*{name}") as caught:
                PointCloudFolder(tmp_path, **options)
        assert caught.value.errno == errno.ENOSPC
        assert not list(tmp_path.rglob("*.tmp"))
        assert not [name for name in folders(tmp_path) if not name.endswith(".parts")]
        assert len(PointCloudFolder(tmp_path, **options)) == 4
        assert len(contents(tmp_path / ".ccnn_geo")) == 2

    def test_atomic_write_keeps_the_old_file_until_the_new_one_is_complete(self, tmp_path):
        path = put(tmp_path / "file", "old")
        with pytest.raises(RuntimeError, match="stop"), files.atomic_write(path) as file:
            file.write(b"new")
            raise RuntimeError("stop")
        assert path.read_text() == "old"
        with files.atomic_write(path) as file:
            file.write(b"new")
        assert path.read_text() == "new"
        assert list(tmp_path.iterdir()) == [path]


class TestDamage:
    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((4, 3)),
            np.zeros((4, 5), "f4"),
            np.zeros(3, "f4"),
            np.zeros((64, 6), "i4"),
            np.zeros((64, 6), ">f4"),
        ],
        ids=["few", "columns", "flat", "integers", "byte order"],
    )
    def test_a_damaged_cache_is_made_again(self, tmp_path, array):
        put_classes(tmp_path, "a")
        PointCloudFolder(tmp_path, **OPTIONS)
        sound = contents(tmp_path / ".ccnn_geo")
        for path in tmp_path.rglob("points.npy"):
            np.save(path, array)
        PointCloudFolder(tmp_path, **OPTIONS)
        assert contents(tmp_path / ".ccnn_geo") == sound

    @pytest.mark.parametrize("key", ["../up", "/up", "", ".hidden"])
    def test_a_key_stays_in_its_folder(self, tmp_path, key):
        with pytest.raises(ValueError, match="Expected `key` to be the name of a folder"):
            cache.cached_clouds([], Sampling(), tmp_path, key=key)
