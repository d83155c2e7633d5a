"""Arrays made part by part: in memory, in other processes, and in a cache."""

import os
from functools import partial

import numpy as np
import pytest

from ccnn_geo.datasets.cache import cached_arrays, make_arrays


def squares(numbers: range, columns: int = 2) -> dict[str, np.ndarray]:
    """Arrays of one, two and three axes, in which the last parts have more columns."""
    values = np.array(numbers)
    width = columns + (numbers.start >= 4)
    return {
        "squares": (values**2).astype(np.uint8),
        "rows": np.repeat(values[:, None], width, axis=1).astype("f4" if width == 2 else "f8"),
        "images": np.broadcast_to(values[:, None, None], (len(values), 2, width)).astype("i2"),
    }


def is_sound(arrays: dict[str, np.ndarray], count: int) -> bool:
    return {name: array.shape for name, array in arrays.items()} == {
        "squares": (count,),
        "rows": (count, 2),
        "images": (count, 2, 2),
    }


def cached(folder, count: int = 7, make=squares, **options) -> dict[str, np.ndarray]:
    sound = partial(is_sound, count=count)
    return cached_arrays(folder, range(count), make, is_sound=sound, items_per_part=2, **options)


def test_parts_are_put_together_in_order_whatever_the_number_of_processes():
    expected = np.arange(7) ** 2
    for processes in (1, 3):
        arrays = make_arrays(range(7), squares_only, items_per_part=2, num_processes=processes)
        assert arrays["squares"].tolist() == expected.tolist()
        assert arrays["squares"].dtype == np.uint8


def squares_only(numbers: range) -> dict[str, np.ndarray]:
    return {"squares": squares(numbers)["squares"]}


def process_number(numbers: range) -> dict[str, np.ndarray]:
    return {"process": np.full(len(numbers), os.getpid())}


def test_only_one_process_is_this_one():
    alone, others = (
        make_arrays(range(4), process_number, items_per_part=1, num_processes=number)["process"]
        for number in (1, 2)
    )
    assert set(alone) == {os.getpid()}
    assert os.getpid() not in others


@pytest.mark.parametrize("processes", [1, 2])
def test_a_cache_has_the_columns_that_all_parts_have(tmp_path, processes):
    arrays = cached(tmp_path / "cache", num_processes=processes)
    assert arrays["squares"].tolist() == [0, 1, 4, 9, 16, 25, 36]
    assert arrays["rows"].tolist() == [[each] * 2 for each in range(7)]
    assert arrays["images"][6].tolist() == [[6, 6], [6, 6]]
    assert (arrays["rows"].dtype, arrays["images"].dtype) == (np.float64, np.int16)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["cache"]


def test_a_cache_is_made_once_and_anew_if_it_is_damaged(tmp_path):
    first = cached(tmp_path / "cache")

    def never(numbers: range) -> dict[str, np.ndarray]:
        raise AssertionError("the cache was there")

    second = cached(tmp_path / "cache", make=never, num_processes=1)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    (tmp_path / "cache" / "rows.npy").unlink()
    assert cached(tmp_path / "cache")["rows"].shape == (7, 2)
    np.save(tmp_path / "cache" / "squares.npy", np.zeros(3))
    assert cached(tmp_path / "cache")["squares"][6] == 36
    with pytest.raises(OSError, match="expected the cache that was just written, got other"):
        cached(tmp_path / "other", make=squares_only)
