"""Pickles of plain data are read; whatever a file wants to be called is not."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from ccnn_geo.datasets.io.pickles import read_pickle
from datasets_helpers import python2_pickle


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data_batch_1"


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 256, (3, 8), dtype=np.uint8)


def read(path: Path, content: bytes) -> object:
    path.write_bytes(content)
    return read_pickle(path)


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class TestPlainData:
    def test_of_python_2_is_read(self, path, array):
        content = {b"data": array, b"labels": [3, -1, 9], b"batch_label": b"batch 1 of 5"}
        found = read(path, python2_pickle(content))
        assert found.keys() == content.keys()
        assert found[b"data"].dtype == np.uint8
        np.testing.assert_array_equal(found.pop(b"data"), content.pop(b"data"))
        assert found == content

    def test_stored_by_columns_is_read(self, path, array):
        found = read(path, python2_pickle({b"data": np.asfortranarray(array)}))
        np.testing.assert_array_equal(found[b"data"], array)

    @pytest.mark.parametrize("protocol", range(5))
    def test_of_python_3_is_read(self, path, array, protocol):
        content = {"data": array, b"labels": [3, 2.5, None, True], "name": ("a", b"\xff")}
        found = read(path, pickle.dumps(content, protocol))
        np.testing.assert_array_equal(found.pop("data"), content.pop("data"))
        assert found == content


class TestOthers:
    @pytest.mark.parametrize(
        ("function", "argument"),
        [(os.system, "touch executed"), (eval, "open('executed', 'w')"), (exec, "1"), (getattr, 1)],
        ids=["system", "eval", "exec", "getattr"],
    )
    @pytest.mark.parametrize("protocol", [0, 2, 4])
    def test_are_refused_and_nothing_is_executed(
        self, path, monkeypatch, function, argument, protocol
    ):
        monkeypatch.chdir(path.parent)
        content = {b"data": [Calls(function, argument)], b"labels": [1]}
        with pytest.raises(ValueError, match="data_batch_1: .*is not plain data; nothing was exec"):
            read(path, pickle.dumps(content, protocol))
        assert not Path("executed").exists()

    @pytest.mark.parametrize(
        "content",
        [np.zeros(3), np.array(["a"]), np.array([{}], dtype=object), np.zeros(3, ">u2")],
        ids=["float64", "str", "object", "uint16"],
    )
    def test_arrays_of_other_types_are_refused(self, path, content):
        with pytest.raises(ValueError, match="expected arrays of unsigned bytes"):
            read(path, pickle.dumps({"data": content}, 2))

    @pytest.mark.parametrize(
        "content", [{1, 2}, 1j, bytearray(b"a"), slice(3), int, np.float64(1)], ids=str
    )
    def test_objects_of_other_types_are_refused(self, path, content):
        with pytest.raises(ValueError, match="data_batch_1: .*is not plain data"):
            read(path, pickle.dumps([content], 5))

    def test_bytes_in_other_encodings_are_refused(self, path):
        content = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R."
        with pytest.raises(ValueError, match="expected bytes as latin1, got 'rot13'"):
            read(path, content)

    @pytest.mark.parametrize("name", [b"numpy\nndarray", b"numpy\ndtype", b"_codecs\nencode"])
    @pytest.mark.parametrize("state", [b"}", b"}U\x01aK\x01s", b"N}U\x0c__setstate__Ns\x86"])
    def test_the_classes_that_stand_for_names_cannot_be_changed(self, path, array, name, state):
        with pytest.raises(ValueError, match="data_batch_1: expected a pickle of plain data"):
            read(path, b"\x80\x02c" + name + b"\n" + state + b"b.")
        found = read(path, python2_pickle({b"data": array}))
        np.testing.assert_array_equal(found[b"data"], array)

    def test_an_array_without_content_is_refused(self, path):
        with pytest.raises(ValueError, match="_Array is not plain data"):
            read(path, b"\x80\x02cnumpy\nndarray\n)R.")

    def test_a_list_that_holds_itself_is_refused(self, path):
        endless: list = []
        endless.append(endless)
        with pytest.raises(ValueError, match="RecursionError"):
            read(path, pickle.dumps(endless))

    def test_files_that_are_cut_short_at_any_point_are_named(self, path, array):
        whole = python2_pickle({b"data": array, b"labels": [1, 2, 3]})
        for length in range(len(whole)):
            with pytest.raises(ValueError, match="data_batch_1: expected a pickle of plain data"):
                read(path, whole[:length])

    def test_what_is_no_pickle_is_named(self, path):
        with pytest.raises(ValueError, match="data_batch_1: expected a pickle of plain data"):
            read(path, b"<html>Gone</html>")
