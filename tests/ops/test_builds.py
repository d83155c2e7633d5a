"""Builds of the native backend: whose code is loaded, and errors of the environment."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ccnn_geo.ops.point_backends import native
from ccnn_geo.ops.point_backends.native import builds, unavailable
from ccnn_geo.ops.point_backends.registry import choose_backend

CPU = torch.device("cpu")
COMPILER = next(filter(shutil.which, ["c++", "g++", "clang++"]), None)
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away"
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with the files of a build, whose library is text."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("CCNN_GEO_CACHE", str(folder))
    manifest = builds.manifest_path()
    library = folder / "native.so"
    library.write_text("no library")
    digest = builds.hashlib.sha256(library.read_bytes()).hexdigest()
    manifest.write_text(f'{{"library": "native.so", "sha256": "{digest}"}}')
    for path in (folder, manifest, library):
        path.chmod(0o755)
    return {"folder": folder, "manifest": manifest, "library": library}


def test_files_of_ones_own_are_loaded(cache):
    with pytest.raises(builds.NotBuiltError, match="cannot be loaded"):
        builds.load()


@needs_root
@pytest.mark.parametrize("part", ["folder", "manifest", "library"])
def test_what_belongs_to_another_user_is_not_run(cache, part):
    os.chown(cache[part], 65534, 65534)
    with pytest.raises(builds.NotBuiltError, match="belongs to another user, whose code would run"):
        builds.load()
    assert "belongs to another user" in unavailable(CPU, torch.float32)
    assert choose_backend("auto", CPU, torch.float32) == "torch"


@needs_root
def test_what_another_user_can_replace_is_not_run(cache):
    os.chown(cache["folder"].parent, 65534, 65534)
    try:
        with pytest.raises(builds.NotBuiltError, match=f"^{cache['folder'].parent} belongs to"):
            builds.load()
    finally:
        os.chown(cache["folder"].parent, 0, 0)


def test_folders_above_the_home_folder_do_not_matter(cache, monkeypatch):
    cache["folder"].parent.chmod(0o777)
    with pytest.raises(builds.NotBuiltError, match=f"{cache['folder'].parent} may be written by"):
        builds.load()
    monkeypatch.setenv("HOME", str(cache["folder"]))
    with pytest.raises(builds.NotBuiltError, match="cannot be loaded"):
        builds.load()


@needs_root
def test_a_link_to_what_belongs_to_another_user_is_not_run(cache, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("links") / "cache"
    folder.symlink_to(cache["folder"])
    monkeypatch.setenv("CCNN_GEO_CACHE", str(folder))
    with pytest.raises(builds.NotBuiltError, match="cannot be loaded"):
        builds.load()
    os.chown(cache["folder"], 65534, 65534)
    with pytest.raises(builds.NotBuiltError, match=f"^{cache['folder']} belongs to another user"):
        builds.load()


def test_nothing_is_built_where_others_may_write(cache):
    cache["folder"].chmod(0o777)
    before = sorted(cache["folder"].iterdir())
    with pytest.raises(RuntimeError, match="may be written by others"):
        builds.build()
    assert sorted(cache["folder"].iterdir()) == before


def test_a_sticky_folder_is_safe(cache):
    cache["folder"].chmod(0o1777)
    with pytest.raises(builds.NotBuiltError, match="cannot be loaded"):
        builds.load()


@pytest.mark.parametrize("part", ["folder", "manifest", "library"])
@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_what_others_may_write_is_not_run(cache, part, mode):
    cache[part].chmod(mode)
    with pytest.raises(builds.NotBuiltError, match="may be written by others.*chmod go-w"):
        builds.load()


def test_a_manifest_cannot_name_a_library_elsewhere(cache, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "native.so"
    elsewhere.write_text("no library")
    text = cache["manifest"].read_text().replace('"native.so"', f'"{elsewhere}"')
    cache["manifest"].write_text(text)
    cache["library"].unlink()
    with pytest.raises(builds.NotBuiltError, match="is gone"):
        builds.load()


def test_a_home_that_does_not_exist_is_named_and_breaks_nothing(monkeypatch):
    monkeypatch.setenv("CCNN_GEO_CACHE", "~nobody_of_that_name/x")
    reason = unavailable(CPU, torch.float32)
    assert "the folder ~nobody_of_that_name/x for builds cannot be found" in reason
    assert choose_backend("auto", CPU, torch.float32) == "torch"
    with pytest.raises(RuntimeError, match="CCNN_GEO_CACHE names another one"):
        builds.build()


def test_a_user_without_a_home_has_no_builds(monkeypatch):
    for name in ("CCNN_GEO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", _no_home)
    assert "~/.cache/ccnn_geo for builds cannot be found" in unavailable(CPU, torch.float32)
    assert choose_backend("auto", CPU, torch.float32) == "torch"


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("place", ["file/cache", "a" * 300])
def test_a_cache_that_cannot_be_read_is_a_reason(monkeypatch, tmp_path, place):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CCNN_GEO_CACHE", str(tmp_path / place))
    assert unavailable(CPU, torch.float32) is not None
    assert choose_backend("auto", CPU, torch.float32) == "torch"


def test_a_compiler_that_compiles_nothing_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setenv("CCNN_GEO_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match="true compiled nothing: is it a C"):
        builds.build()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("macros", "level"),
    [
        ("AVX512F AVX512BW AVX512DQ AVX512VL AVX2 FMA F16C", "AVX512"),
        ("AVX512F AVX512BW AVX512DQ AVX2 FMA F16C", "AVX2"),
        ("AVX2 F16C", "DEFAULT"),
    ],
)
def test_vectors_are_as_wide_as_the_cpu_has_them(monkeypatch, tmp_path, macros, level):
    """The compiler is a script that knows these macros and writes down how it is called."""
    log = tmp_path / "log"
    script = tmp_path / "compiler"
    defined = "".join(f"#define __{name}__ 1\\n" for name in macros.split())
    script.write_text(
        f"#!{sys.executable}\nimport sys\n"
        f"open({str(log)!r}, 'a').write(' '.join(sys.argv) + '\\n')\n"
        f"'-dM' in sys.argv and sys.stdout.write('{defined}#define __EMPTY__\\n')\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("CCNN_GEO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError, match="compiled nothing"):
        builds.build()
    compiled = [line for line in log.read_text().splitlines() if "magnet_conv.cpp" in line]
    assert len(compiled) == 2
    for line in compiled:
        assert f"-DCPU_CAPABILITY={level} -DCPU_CAPABILITY_{level}" in line


def test_other_sources_need_another_build(monkeypatch, tmp_path):
    sources = shutil.copytree(Path(builds.__file__).parent / "csrc", tmp_path / "csrc")
    monkeypatch.setattr(builds, "_SOURCES", sources)
    builds._identity.cache_clear()
    try:
        before = builds.manifest_path()
        with open(sources / "gemm.h", "a") as file:
            file.write("// changed\n")
        builds._identity.cache_clear()
        assert builds.manifest_path() != before
    finally:
        builds._identity.cache_clear()


def test_a_compiler_that_is_no_command_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "g++ '")
    monkeypatch.setenv("CCNN_GEO_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"Expected a command in .* CXX, got \"g\+\+ '\""):
        builds.build()


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (c++, g++, clang++)")
def test_a_library_of_something_else_is_a_reason(monkeypatch, tmp_path):
    script = tmp_path / "compiler"
    script.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\n"
        "'-o' in sys.argv and subprocess.run([\n"
        f"    {COMPILER!r}, '-shared', '-x', 'c++', '/dev/null',\n"
        "    '-o', sys.argv[sys.argv.index('-o') + 1],\n"
        "], check=True)\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("CCNN_GEO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError, match="the compiled library is not this backend"):
        native.build()
    assert "is not this backend" in unavailable(CPU, torch.float32)
    assert choose_backend("auto", CPU, torch.float32) == "torch"


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
def test_a_compiler_that_does_not_end_is_ended_and_named(monkeypatch, tmp_path):
    """With all that it has started, and what those hold open."""
    cache, script, started = tmp_path / "cache", tmp_path / "compiler", tmp_path / "started"
    script.write_text(f"#!/bin/sh\nsleep 600 &\necho $! >> {started}\nsleep 600\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("CCNN_GEO_CACHE", str(cache))
    with pytest.raises(RuntimeError, match=r"did not end within 0\.5 s: is it a C\+\+ compiler"):
        builds.build(time_limit=0.5)
    assert list(cache.iterdir()) == []
    deadline = time.monotonic() + 30
    processes = [Path(f"/proc/{process}/stat") for process in started.read_text().split()]
    while any(map(_is_running, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(_is_running, processes))


def _is_running(process: Path) -> bool:
    try:
        return process.read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(shutil.which("yes") is None, reason="there is no program that never ends")
def test_a_compiler_that_does_not_stop_writing_is_ended_and_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "yes --")
    monkeypatch.setenv("CCNN_GEO_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match="yes .* wrote more than 16 MiB: is it a C"):
        builds.build()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_builds_left_is_removed_and_what_is_in_use_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setenv("CCNN_GEO_CACHE", str(tmp_path))
    names = {".build-a": 3600, ".build-b": 48 * 3600, ".native-c.tmp": 48 * 3600, "d.so": 1e6}
    for name, age in names.items():
        path = tmp_path / name
        path.mkdir() if name.startswith(".build") else path.touch()
        changed = time.time() - age
        os.utime(path, (changed, changed))
    (tmp_path / ".build-b" / "float.o").touch()
    os.utime(tmp_path / ".build-b", (changed, changed))
    with pytest.raises(RuntimeError, match="compiled nothing"):
        builds.build()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".build-a", "d.so"]


@pytest.mark.skipif(os.name != "posix", reason="the system has no umask")
def test_builds_can_be_loaded_whatever_the_umask(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setenv("CCNN_GEO_CACHE", str(tmp_path / "above" / "cache"))
    before = os.umask(0)
    try:
        with pytest.raises(RuntimeError, match="compiled nothing"):
            builds.build()
    finally:
        os.umask(before)
    for folder in (tmp_path / "above", tmp_path / "above" / "cache"):
        assert folder.stat().st_mode & 0o777 == 0o755


# One process: few edges, a chosen backend, a worker of a data loader, and then many edges, twice.
_CONVOLUTIONS = """
import sys
import torch
from ccnn_geo import CKConvMP, use_backend
from ccnn_geo.ops import nearest_neighbors

def convolve(points, neighbors=64, compiled=False):
    layer = CKConvMP(16, 16, dim=3, num_neighbors=neighbors)
    call = torch.compile(layer, backend="eager") if compiled else layer
    pos = torch.rand(points, 3)
    call(torch.randn(points, 16), pos, nearest_neighbors(pos, neighbors))

class Convolutions(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, number):
        convolve(500)
        return number

def write(line):
    print(line, file=sys.stderr, flush=True)

convolve(50, 4)
with use_backend("torch"):
    convolve(500)
list(torch.utils.data.DataLoader(Convolutions(), num_workers=1))
write("now")
convolve(500, compiled=sys.argv[1] == "compiled")
write("again")
convolve(500)
"""


def _logged(cache: Path, how: str = "eager", **environment: str) -> list[str]:
    """What a process without a build writes to its standard error."""
    variables = {**os.environ, "CCNN_GEO_CACHE": str(cache), **environment}
    variables.pop("CCNN_GEO_BACKEND", None)
    command = [sys.executable, "-W", "ignore", "-c", _CONVOLUTIONS, how]
    run = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stderr.splitlines()


@pytest.mark.parametrize("how", ["eager", "compiled"])
def test_a_build_is_suggested_once_where_it_would_be_chosen(tmp_path, how):
    before, message, after = _logged(tmp_path / "cache", how, CXX=sys.executable)
    assert (before, after) == ("now", "again")
    assert "in plain PyTorch, because the native backend, which is faster, cannot be" in message
    assert message.endswith("not built; run `python -m ccnn_geo build`")


def test_without_a_compiler_no_build_is_suggested(tmp_path):
    assert _logged(tmp_path / "cache", CXX="/nowhere/g++") == ["now", "again"]
