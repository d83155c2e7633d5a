"""ListOps: what is generated, against an evaluator of text, and what is read."""

import numpy as np
import pytest

from ccnn_geo.datasets.signals.lra import listops
from ccnn_geo.datasets.signals.lra.listops import (
    LISTOPS_TOKENS,
    encode_expression,
    generate_listops,
)
from ccnn_geo.datasets.signals.lra.texts import Texts
from lra_helpers import depth, value


def words(texts: Texts, index: int) -> list[str]:
    return [LISTOPS_TOKENS[token] for token in texts[index]]


@pytest.fixture(scope="module")
def expressions() -> Texts:
    """Two hundred expressions with the lengths of the Long Range Arena."""
    return generate_listops(200, seed=0, num_processes=1)


class TestGenerator:
    def test_labels_are_the_values_of_the_expressions(self, expressions):
        values = [value(words(expressions, index)) for index in range(len(expressions))]
        assert values == expressions.labels.tolist()
        assert set(values) == set(range(10))

    def test_labels_of_short_expressions_are_right_too(self):
        short = generate_listops(300, seed=1, min_length=4, max_length=30, num_processes=1)
        texts = [words(short, index) for index in range(300)]
        assert [value(text) for text in texts] == short.labels.tolist()
        # The operators with an even and an odd number of arguments, first in the expression.
        assert {(text[0], len(text) % 2) for text in texts if depth(text) == 2} == {
            (f"[{name}", odd) for name in listops.OPERATORS for odd in (0, 1)
        }

    def test_keeps_to_the_limits(self, expressions):
        sizes = np.diff(expressions.offsets)
        assert 500 <= sizes.min() <= 550
        assert 1900 <= sizes.max() <= 2000
        assert max(depth(words(expressions, index)) for index in range(200)) == 10
        narrow = generate_listops(
            64, seed=0, min_length=9, max_length=17, max_depth=3, max_args=3, num_processes=1
        )
        texts = [words(narrow, index) for index in range(64)]
        assert {len(text) for text in texts} <= set(range(9, 18))
        assert {depth(text) for text in texts} == {3}

    def test_draws_tokens_as_often_as_the_published_generator(self, expressions):
        counts = np.bincount(expressions.symbols, minlength=len(LISTOPS_TOKENS))
        shares = counts / counts.sum()
        assert shares[0] == 0
        assert shares[1:11] == pytest.approx(0.0714, abs=0.003)
        assert shares[11:15] == pytest.approx(0.0355, abs=0.003)
        assert counts[11:15].sum() == counts[15]

    def test_an_expression_depends_on_its_number_and_the_seed_alone(self, expressions):
        for count, processes in ((70, 1), (130, 2)):
            part = generate_listops(count, seed=0, num_processes=processes)
            assert np.array_equal(part.symbols, expressions.symbols[: part.offsets[-1]])
            assert np.array_equal(part.labels, expressions.labels[:count])
        other = generate_listops(70, seed=2, num_processes=1)
        assert not np.array_equal(other[0], expressions[0])
        assert len({expressions[index].tobytes() for index in range(200)}) == 200

    def test_deep_trees_take_no_more_memory_than_allowed(self):
        deep = generate_listops(
            10, seed=0, min_length=4, max_length=100, max_depth=60, num_processes=1
        )
        assert np.diff(deep.offsets).max() <= 100

    def test_is_cached(self, tmp_path, monkeypatch):
        options = {"seed": 0, "min_length": 4, "max_length": 20, "folder": tmp_path}
        first = generate_listops(100, **options, num_processes=1)
        with monkeypatch.context() as patch:
            patch.setattr(listops, "_draw_trees", None)
            second = generate_listops(100, **options)
        assert np.array_equal(first.symbols, second.symbols)
        assert np.array_equal(first.labels, second.labels)
        generate_listops(100, **options | {"seed": 1}, max_depth=4, num_processes=1)
        generate_listops(90, **options, num_processes=1)
        assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3

    def test_goes_on_where_it_was_interrupted(self, tmp_path, monkeypatch):
        options = {"seed": 0, "min_length": 4, "max_length": 20, "num_processes": 1}
        whole = generate_listops(200, **options, folder=tmp_path / "whole")
        drawn, original = [], listops._draw_trees

        def interrupted(*arguments):
            if len(drawn) == 2:
                raise KeyboardInterrupt("cut off")
            drawn.append(arguments)
            return original(*arguments)

        monkeypatch.setattr(listops, "_draw_trees", interrupted)
        with pytest.raises(KeyboardInterrupt, match="cut off"):
            generate_listops(200, **options, folder=tmp_path / "cut")
        drawn.clear()
        monkeypatch.setattr(listops, "_draw_trees", lambda *a: drawn.append(a) or original(*a))
        cut = generate_listops(200, **options, folder=tmp_path / "cut")
        assert len(drawn) == 2
        assert np.array_equal(cut.symbols, whole.symbols)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_depth": 1}, "`max_depth` and `max_args` of at least 2, got 1 and 10"),
            ({"max_args": 1}, "`max_depth` and `max_args` of at least 2, got 10 and 1"),
            ({"min_length": 9, "max_length": 8}, "`min_length` <= `max_length`, got 9 and 8"),
            ({"min_length": 0}, "Expected 1 <= `min_length`"),
            ({"max_depth": 2, "min_length": 13}, "from 4 to 12 tokens .* got 13 to 2000"),
            ({"max_depth": 3}, "from 4 to 122 tokens for `max_depth` 3 and `max_args` 10"),
            ({"min_length": 1, "max_length": 3}, "from 4 to .* got 1 to 3"),
            ({"max_depth": 5, "max_args": 3, "min_length": 150}, "too rare.* 0 of 200,"),
            ({"count": 0}, "Expected `count` >= 1, got 0"),
        ],
    )
    def test_the_impossible_is_an_error(self, options, message):
        with pytest.raises(ValueError, match=message):
            generate_listops(**{"count": 1, "seed": 0, "num_processes": 1, **options})


class TestText:
    def test_parentheses_are_dropped_and_brackets_are_tokens(self):
        glued = encode_expression(b"( ( ( [MAX 2 ) 9 ) ( ( [MIN 4 ) 7 ] ) ] )\n")
        assert glued == encode_expression(b"[MAX 2 9 [MIN 4 7 ] ]")
        assert [LISTOPS_TOKENS[token] for token in glued] == "[MAX 2 9 [MIN 4 7 ] ]".split()
        assert encode_expression(b"7") == bytes([8])

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"[AVG 1 2 ]", r"expected a digit, operator or bracket, got b'\[AVG'"),
            (b"[MAX 12 3 ]", "got b'12'"),
            (b"[MAX 1 \xff ]", r"got b'\\xff'"),
            (b"[MAX 1 <pad> ]", "got b'<pad>'"),
            (b"", "expected one expression"),
            (b"[MAX 1 2", "expected one expression"),
            (b"[MAX 1 2 ] ]", "expected one expression"),
            (b"] [MAX 1 2", "expected one expression"),
            (b"1 2", "expected one expression"),
            (b"[MAX 1 ] [MIN 2 ]", "expected one expression"),
        ],
    )
    def test_what_is_no_expression_is_refused(self, text, message):
        with pytest.raises(ValueError, match=message):
            encode_expression(text)
