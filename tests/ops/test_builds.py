"""Compiled backends: whose code may run, and what a broken environment leads to."""

import os

import pytest
import torch

from ccnn_geo.ops.point_backends.native import builds, unavailable

needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away"
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with the files of a build, whose library is text."""
    monkeypatch.setenv("CCNN_GEO_CACHE", str(tmp_path))
    manifest = builds.manifest_path()
    library = tmp_path / "native.so"
    library.write_text("no library")
    digest = builds.hashlib.sha256(library.read_bytes()).hexdigest()
    manifest.write_text(f'{{"library": "native.so", "sha256": "{digest}"}}')
    for path in (tmp_path, manifest, library):
        path.chmod(0o755)
    return {"folder": tmp_path, "manifest": manifest, "library": library}


def test_files_of_ones_own_are_loaded(cache):
    with pytest.raises(builds.NotBuiltError, match="cannot be loaded"):
        builds.load()


@needs_root
@pytest.mark.parametrize("part", ["folder", "manifest", "library"])
def test_what_belongs_to_another_user_is_not_run(cache, part):
    os.chown(cache[part], 65534, 65534)
    with pytest.raises(builds.NotBuiltError, match="belongs to another user, whose code would run"):
        builds.load()
    assert "belongs to another user" in unavailable(torch.device("cpu"), torch.float32)


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
    reason = unavailable(torch.device("cpu"), torch.float32)
    assert "CCNN_GEO_CACHE cannot be found" in reason
    with pytest.raises(RuntimeError, match="CCNN_GEO_CACHE cannot be found"):
        builds.build()


def test_a_compiler_that_compiles_nothing_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setenv("CCNN_GEO_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match="true compiled nothing: is it a C"):
        builds.build()
    assert not list(tmp_path.glob("*.so"))
