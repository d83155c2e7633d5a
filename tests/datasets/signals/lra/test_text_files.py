"""Files of ListOps, Text and Retrieval: what is read, and what is refused with its line."""

import numpy as np
import pytest

from ccnn_geo.datasets.signals.lra.listops import LISTOPS_TOKENS, encode_expression
from ccnn_geo.datasets.signals.lra.text_files import (
    read_expression_table,
    read_pair_table,
    read_review_folder,
    read_text_arrays,
)
from lra_helpers import put_expressions, put_pairs, put_reviews, value


def values(texts) -> list[int]:
    """Evaluates expressions of token numbers."""
    return [value([LISTOPS_TOKENS[token] for token in texts[i]]) for i in range(len(texts))]


class TestExpressions:
    def test_are_read_by_the_names_of_the_columns(self, tmp_path):
        put_expressions(tmp_path)
        for split, count in (("train", 20), ("test", 7)):
            texts = read_expression_table(tmp_path / f"basic_{split}.tsv")
            assert len(texts) == count
            assert values(texts) == texts.labels.tolist()

    def test_may_have_windows_line_ends_other_columns_and_empty_lines_at_the_end(self, tmp_path):
        path = tmp_path / "a.tsv"
        path.write_bytes(b"n\tTarget\tSource\r\n1\t3\t[MAX 3 2 ]\r\n2\t4\t4\r\n\r\n\n")
        texts = read_expression_table(path)
        assert texts.labels.tolist() == [3, 4]
        assert texts[0].tobytes() == encode_expression(b"[MAX 3 2 ]")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", r"columns Source and Target in the first line, got \[''\]"),
            (b"Source\tLabel\n1\t1\n", r"got \['Source', 'Label'\]"),
            (b"[MAX 1 2 ]\t2\n", "expected columns Source and Target"),
            (b"Source\tTarget\n", "expected at least one line of data, got none"),
            (b"Source\tTarget\n1\n", "line 2: expected 2 columns, got 1"),
            (b"Source\tTarget\n1\t1\t1\n", "line 2: expected 2 columns, got 3"),
            (b"Source\tTarget\n1\t1\n\n1\t1\n", "line 3: expected 2 columns, got 1"),
            (b"Source\tTarget\n1\t10\n", "line 2: expected a value from 0 to 9, got b'10'"),
            (b"Source\tTarget\n1\tone\n", "a value from 0 to 9, got b'one'"),
            (b"Source\tTarget\n1\t-1\n", "a value from 0 to 9, got b'-1'"),
            (b"Source\tTarget\n1\t1\n[AVG 1 ]\t1\n", r"line 3: expected a digit.*got b'\[AVG'"),
            (b"Source\tTarget\n[MAX 1\t1\n", "line 2: expected one expression with a bracket"),
            (b"Source\tTarget\n[MAX 1 \xe9 ]\t1\n", "line 2: expected a digit, operator"),
            (b"\x89PNG\r\n\x1a\n\0", "expected columns Source and Target"),
        ],
    )
    def test_of_another_form_are_named_with_their_line(self, tmp_path, content, message):
        path = tmp_path / "basic_train.tsv"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"basic_train.tsv[:,] .*{message}"):
            read_expression_table(path)


class TestPairs:
    def test_are_read_up_to_a_length_as_bytes(self, tmp_path):
        put_pairs(tmp_path)
        texts = read_pair_table(tmp_path / "new_aan_pairs.train.tsv", 5)
        assert (len(texts), texts.pairs, texts.longest) == (40, True, 5)
        assert texts.labels.tolist() == [0, 1] * 20
        assert [texts[index].tobytes() for index in (6, 7)] == [b"abc\xc3\xa9", b"abccc"]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (b"1.0\ta\tb\tone text", "line 41: expected 5 columns, .* got 4"),
            (b"1.0\ta\tb\tone\ttwo\tthree", "line 41: expected 5 columns, .* got 6"),
            (b"2.0\ta\tb\tone\ttwo", "line 41: expected a label 0 or 1, got b'2.0'"),
            (b"label\ta\tb\tone\ttwo", "line 41: expected a label 0 or 1, got b'label'"),
            (b"nan\ta\tb\tone\ttwo", "line 41: expected a label 0 or 1, got b'nan'"),
        ],
    )
    def test_of_another_form_are_named_with_their_line(self, tmp_path, line, message):
        put_pairs(tmp_path, lines=[line])
        with pytest.raises(ValueError, match=f"pairs.train.tsv, {message}"):
            read_pair_table(tmp_path / "new_aan_pairs.train.tsv", 10)

    def test_that_are_none_are_refused(self, tmp_path):
        (tmp_path / "empty").write_bytes(b"\n\n")
        with pytest.raises(ValueError, match="empty: expected at least one line of data"):
            read_pair_table(tmp_path / "empty", 10)


class TestReviews:
    def test_are_bytes_of_any_encoding_sorted_by_class_and_name(self, tmp_path):
        put_reviews(tmp_path)
        texts = read_review_folder(tmp_path / "train", 21)
        assert texts.labels.tolist() == [0] * 10 + [1] * 10
        assert texts[0].tobytes() == b"bad bad film<br />\xe9"
        assert texts[19].tobytes() == b"good good film<br />\xe9"
        assert texts.longest == 21

    def test_a_missing_class_and_an_empty_file_are_named(self, tmp_path):
        put_reviews(tmp_path)
        (tmp_path / "train/pos/3_7.txt").write_bytes(b"")
        with pytest.raises(ValueError, match="pos/3_7.txt: expected a text, got an empty file"):
            read_review_folder(tmp_path / "train", 10)
        for path in (tmp_path / "train/neg").iterdir():
            path.unlink()
        with pytest.raises(ValueError, match="train/neg: expected .txt files, got none"):
            read_review_folder(tmp_path / "train", 10)


def arrays(**changes) -> dict[str, np.ndarray]:
    """Four texts for training and two for testing."""
    content = {
        "train_text": np.frombuffer(b"[MAX 1 2 ]3[SM 9 9 ]7", np.uint8),
        "train_offsets": np.array([0, 10, 11, 20, 21]),
        "train_label": np.array([2, 3, 8, 7], np.uint8),
        "test_text": np.frombuffer(b"12", np.uint8),
        "test_offsets": np.array([0, 1, 2]),
        "test_label": np.array([1, 2], np.uint8),
        "train_rating": np.zeros(4),
        **changes,
    }
    return {name: array for name, array in content.items() if array is not None}


class TestArrays:
    @pytest.fixture
    def save(self, tmp_path):
        def save(**changes):
            np.savez(tmp_path / "some.npz", **arrays(**changes))
            return tmp_path / "some.npz"

        return save

    def test_hold_texts_or_expressions(self, save):
        texts = read_text_arrays(save(), 10, pairs=False)
        assert texts.keys() == {"train", "test"}
        assert texts["train"][2].tobytes() == b"[SM 9 9 ]"
        encoded = read_text_arrays(save(), 10, pairs=False, encode=encode_expression)
        assert values(encoded["train"]) == encoded["train"].labels.tolist() == [2, 3, 8, 7]

    def test_may_have_validation_and_pairs(self, save):
        path = save(
            train_label=np.array([0, 1]),
            test_label=np.array([1]),
            val_text=np.frombuffer(b"xyz", np.uint8),
            val_offsets=np.array([0, 1, 3]),
            val_label=np.array([0]),
        )
        texts = read_text_arrays(path, 2, pairs=True)
        assert [len(texts[split]) for split in ("train", "val", "test")] == [2, 1, 1]
        assert texts["val"].pairs
        assert texts["val"][1].tobytes() == b"yz"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"test_text": None, "train_label": None}, "array `train_label` and `test_text`"),
            ({"val_text": np.zeros(1, np.uint8)}, "arrays val_text, .*val_label, got val_text"),
            ({"train_text": np.zeros(21)}, r"uint8 `train_text` of shape \[N\], got float64"),
            ({"train_text": np.zeros((21, 1), np.uint8)}, r"got uint8 of shape \[21, 1\]"),
            ({"train_offsets": np.array([0, 21])}, r"`train_offsets` of shape \[5\], .* \[2\]"),
            ({"train_offsets": np.array([0.0, 1, 2, 3, 21])}, "whole numbers .*got float64"),
            ({"train_offsets": np.array([0, 11, 10, 20, 21])}, "rise from 0 to 21"),
            ({"train_offsets": np.array([0, 10, 10, 20, 21])}, "rise from 0 to 21"),
            ({"train_offsets": np.array([0, 10, 11, 20, 22])}, "rise from 0 to 21"),
            ({"train_label": np.array([2, 3, 8, 10])}, "labels `train_label` from 0 to 9, got 2"),
            ({"train_label": np.array([2, 3, 8, -1])}, "from 0 to 9, got -1 to 8"),
            ({"train_label": np.zeros(4)}, "whole numbers `train_label`.*float64"),
            ({"train_label": np.zeros(0, int)}, r"`train_label` of shape \[M\].*\[0\]"),
            (
                {"train_text": np.frombuffer(b"[MAX 1 2 ]3[SM 9 9 ]x", np.uint8)},
                "expected a digit, .* got b'x', in text 3 of `train_text`",
            ),
        ],
    )
    def test_that_do_not_fit_are_named(self, save, changes, message):
        with pytest.raises(ValueError, match=f"some.npz: .*{message}"):
            read_text_arrays(save(**changes), 10, pairs=False, encode=encode_expression)

    def test_that_are_cut_or_of_another_data_set_are_named(self, save, tmp_path):
        path = save()
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(ValueError, match="some.npz: expected an .npz file of plain arrays"):
            read_text_arrays(path, 10, pairs=False)
        np.savez(path, train_x=np.zeros(3))
        with pytest.raises(ValueError, match="some.npz: expected an array `train_text`"):
            read_text_arrays(path, 10, pairs=False)


class TestReal:
    """Files of the official generators, whose labels are computed anew."""

    def test_tables_of_both_orders_of_columns(self, shared_data):
        folder = shared_data / "original"
        for path, count in (
            (folder / "listops" / "test_d20s_head.tsv", 300),
            (folder / "listops-1000" / "basic_train.tsv", 40),
            (folder / "listops-1000" / "basic_val.tsv", 20),
        ):
            texts = read_expression_table(path)
            assert len(texts) == count
            assert values(texts) == texts.labels.tolist()

    def test_arrays_of_expressions(self, shared_data):
        for name, counts, longest in (
            ("listops_d20s", {"train": 7000, "test": 2249}, 939),
            ("listops_lra", {"train": 2400, "val": 300, "test": 675}, 1999),
        ):
            texts = read_text_arrays(
                shared_data / f"{name}.npz", 10, pairs=False, encode=encode_expression
            )
            assert {split: len(each) for split, each in texts.items()} == counts
            assert max(each.longest for each in texts.values()) == longest
            assert values(texts["test"]) == texts["test"].labels.tolist()

    def test_reviews(self, shared_data):
        texts = read_review_folder(shared_data / "original" / "aclImdb" / "train", 4096)
        assert np.bincount(texts.labels).tolist() == [12, 12]
        assert 53 <= np.diff(texts.offsets).min()
        arrays = read_text_arrays(shared_data / "imdb.npz", 2, pairs=False)
        assert [len(arrays[split]) for split in ("train", "test")] == [4000, 1500]
        assert np.bincount(arrays["train"].labels).tolist() == [2000, 2000]
