"""Optional dependencies."""

import sys

import numpy as np
import pytest

from ccnn_geo.extras import import_extra
from ccnn_geo.transforms.functional import sample_surface


def test_a_module_that_is_installed_is_imported():
    assert import_extra("numpy.linalg", "for a test", extra="mesh") is np.linalg


@pytest.mark.parametrize("module", ["trimesh", "trimesh.sample"])
def test_a_missing_module_is_named_with_its_extra(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    expected = r"^Expected trimesh for a test: pip install 'ccnn_geo\[mesh\]' \(import of"
    with pytest.raises(ImportError, match=expected):
        import_extra(module, "for a test", extra="mesh")


def test_a_missing_system_library_is_the_same_error(monkeypatch, tmp_path):
    (tmp_path / "broken.py").write_text("raise OSError('libusb-1.0.so.0')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"Expected broken for a test: .*\(libusb-1.0.so.0\)"):
        import_extra("broken", "for a test", extra="mesh")


def test_sampling_a_mesh_names_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ImportError, match="Expected trimesh to sample meshes: pip install"):
        sample_surface(np.eye(3), np.array([[0, 1, 2]]), 5, seed=0)
