"""ListOps: expressions of nested operations on lists of digits, and their generator.

After *ListOps: A Diagnostic Dataset for Latent Tree Learning* (Nangia and Bowman 2018), with the
lengths of the Long Range Arena (Tay et al. 2021). An expression such as `[MAX 2 9 [MIN 4 7 ] 0 ]`
is a sequence of digits, operators and closing brackets, and its label is its value, 9.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...cache import Arrays
from .generation import generated_arrays
from .texts import Texts

__all__ = ["LISTOPS_TOKENS", "encode_expression", "generate_listops"]

OPERATORS = ("MIN", "MAX", "MED", "SM")
# Names by token number.
LISTOPS_TOKENS = ("<pad>", *"0123456789", *(f"[{name}" for name in OPERATORS), "]")

# Incremented whenever the same settings give other expressions.
_VERSION = 1
_EXPRESSIONS_PER_BLOCK = 64
_TREES_PER_BATCH = 512
# Trees after which expressions of the wanted length are taken for too rare.
_MOST_TREES = 200_000
_OPERATION = 0.25
_DIGIT = LISTOPS_TOKENS.index("0")
_OPERATOR = LISTOPS_TOKENS.index("[MIN")
_CLOSE = LISTOPS_TOKENS.index("]")
_NONE = np.empty(0, np.int64)
_NUMBERS = {name.encode(): number for number, name in enumerate(LISTOPS_TOKENS) if number}


def encode_expression(text: bytes) -> bytes:
    """Return the token numbers of an expression.

    Args:
        text: The expression. Tokens are separated by white space or parentheses, which are ignored,
            and closing brackets need no separation.

    Raises:
        ValueError: If a word is unknown, or the expression is empty or not complete.
    """
    words = text.translate(None, b"()").replace(b"]", b" ] ").split()
    try:
        tokens = bytes([_NUMBERS[word] for word in words])
    except KeyError as error:
        raise ValueError(f"expected a digit, operator or bracket, got {error.args[0]!r}") from error
    numbers = np.frombuffer(tokens, np.uint8)
    opened = np.cumsum((_OPERATOR <= numbers) & (numbers < _CLOSE)) - np.cumsum(numbers == _CLOSE)
    if len(numbers) == 0 or opened[-1] != 0 or (opened[:-1] < 1).any():
        raise ValueError("expected one expression with a bracket for every operator, got another")
    return tokens


def generate_listops(
    count: int,
    *,
    seed: int,
    min_length: int = 500,
    max_length: int = 2000,
    max_depth: int = 10,
    max_args: int = 10,
    folder: Path | None = None,
    num_processes: int | None = None,
) -> Texts:
    """Draw expressions and evaluate them.

    An expression is an operator, MIN, MAX, MED (the median, rounded down) or SM (the sum modulo
    10), with two or more arguments, which are expressions with a probability of one quarter and
    digits otherwise. Of all expressions, those of the wanted lengths are used. An expression
    depends only on its index, the seed and the settings; short ones may occur more than once.

    Args:
        count: Number of expressions, M.
        seed: Seed of the expressions.
        min_length: Least number of tokens.
        max_length: Largest number of tokens.
        max_depth: Largest depth, digits included; 2 is an operator with digits.
        max_args: Largest number of arguments.
        folder: Folder of a cache, from which the expressions are read the next time.
        num_processes: Number of processes that draw; one per processor by default.

    Returns:
        The expressions as numbers of `LISTOPS_TOKENS`, uint8, with their values as labels.

    Raises:
        ValueError: If an argument is out of range, or if expressions of these lengths do not exist
            or are too rare.
        OSError: If the cache cannot be written.
    """
    limits = _Limits(min_length, max_length, max_depth, max_args)
    arrays = generated_arrays(
        count,
        partial(_draw_block, limits=limits, seed=seed),
        is_sound=partial(_is_sound, count=count),
        per_block=_EXPRESSIONS_PER_BLOCK,
        name=f"listops-{min_length}to{max_length}-{count}-seed{seed}",
        parameters=[_VERSION, max_depth, max_args],
        folder=folder,
        num_processes=num_processes,
    )
    offsets = np.concatenate([[0], np.cumsum(arrays["sizes"])])
    return Texts(arrays["tokens"], offsets, arrays["labels"].astype(np.int64))


def _is_sound(arrays: Arrays, count: int) -> bool:
    if arrays.keys() != {"tokens", "sizes", "labels"}:
        return False
    tokens, sizes, labels = (arrays[name] for name in ("tokens", "sizes", "labels"))
    return bool(
        tokens.dtype == labels.dtype == np.uint8
        and sizes.dtype == np.int64
        and sizes.shape == labels.shape == (count,)
        and tokens.shape == (sizes.sum(),)
    )


@dataclass(frozen=True)
class _Limits:
    """Limits of expressions.

    Raises:
        ValueError: If there is no expression within them.
    """

    min_length: int
    max_length: int
    max_depth: int
    max_args: int

    def __post_init__(self) -> None:
        if self.max_depth < 2 or self.max_args < 2:
            raise ValueError(
                "Expected `max_depth` and `max_args` of at least 2, got "
                f"{self.max_depth} and {self.max_args}"
            )
        if not 1 <= self.min_length <= self.max_length:
            raise ValueError(
                "Expected 1 <= `min_length` <= `max_length`, got "
                f"{self.min_length} and {self.max_length}"
            )
        longest = 1
        for _ in range(self.max_depth - 1):
            longest = min(2 + self.max_args * longest, self.min_length)
        if longest < self.min_length or self.max_length < 4:
            raise ValueError(
                f"Expected lengths that expressions have, from 4 to {longest} tokens for "
                f"`max_depth` {self.max_depth} and `max_args` {self.max_args}, got "
                f"{self.min_length} to {self.max_length}"
            )


@dataclass(frozen=True, eq=False)
class _Level:
    """Nodes of several trees at one depth, those of a tree and of a parent one after the other.

    Attributes:
        tree: Index of the tree of every node, `[N]`.
        digit: The digit of every node without arguments, `[N]`.
        operator: Index of the operator of every node with arguments, `[N]`.
        arguments: Number of arguments, 0 for digits, `[N]`.
    """

    tree: np.ndarray
    digit: np.ndarray
    operator: np.ndarray
    arguments: np.ndarray

    @classmethod
    def draw(
        cls,
        tree: np.ndarray,
        max_args: int,
        generator: np.random.Generator,
        *,
        probability: float = _OPERATION,
    ) -> "_Level":
        """Draw nodes of trees, which have arguments with a probability."""
        count = len(tree)
        arguments = generator.integers(2, max_args + 1, count)
        arguments[generator.random(count) >= probability] = 0
        digit, operator = generator.integers(0, [[10], [len(OPERATORS)]], (2, count))
        return cls(tree, digit, operator, arguments)

    def of_trees(self, wanted: np.ndarray) -> "_Level":
        """Return the nodes of the wanted trees only.

        Args:
            wanted: Whether a tree is wanted, by its index.
        """
        kept = wanted[self.tree]
        return _Level(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))


def _draw_block(numbers: range, limits: _Limits, seed: int) -> Arrays:
    """Return the expressions of consecutive numbers in one block."""
    generator = np.random.default_rng([seed, numbers.start // _EXPRESSIONS_PER_BLOCK])
    batches: list[Arrays] = []
    count = trees = 0
    while count < _EXPRESSIONS_PER_BLOCK:
        if trees >= _MOST_TREES:
            raise ValueError(
                f"Expected lengths that are not too rare, got {limits.min_length} to "
                f"{limits.max_length} tokens, which {count} of {trees:,} expressions have"
            )
        batches.append(_write(_draw_trees(_TREES_PER_BATCH, limits, generator)))
        count += len(batches[-1]["sizes"])
        trees += _TREES_PER_BATCH
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    sizes = arrays["sizes"][: len(numbers)]
    return {
        "tokens": arrays["tokens"][: sizes.sum()],
        "sizes": sizes,
        "labels": arrays["labels"][: len(numbers)],
    }


def _draw_trees(count: int, limits: _Limits, generator: np.random.Generator) -> list[_Level]:
    """Draw trees, and return the levels of those within the limits, from the root on."""
    levels = [_Level.draw(np.arange(count), limits.max_args, generator, probability=1)]
    length, possible = np.full(count, 2), np.ones(count, bool)
    for depth in range(2, limits.max_depth + 1):
        # Trees that have become too long are given up, so that memory does not grow with the depth.
        parents = levels[-1].of_trees(possible)
        tree = np.repeat(parents.tree, parents.arguments)
        probability = _OPERATION if depth < limits.max_depth else 0
        level = _Level.draw(tree, limits.max_args, generator, probability=probability)
        length += np.bincount(tree, minlength=count)
        length += np.bincount(tree[level.arguments > 0], minlength=count)
        open_ends = np.bincount(np.repeat(tree, level.arguments), minlength=count)
        possible &= length + open_ends <= limits.max_length
        levels.append(level)
    wanted = possible & (length >= limits.min_length)
    return [level.of_trees(wanted) for level in levels]


def _write(levels: list[_Level]) -> Arrays:
    """Return the tokens of all trees, end to end, their numbers of tokens, and their values."""
    sizes, values = [_NONE], [_NONE]
    for level in reversed(levels):
        sizes.append(_sizes(level, sizes[-1]))
        values.append(_values(level, values[-1]))
    sizes = sizes[:0:-1]
    tokens = np.empty(sizes[0].sum(), np.uint8)
    starts = np.cumsum(sizes[0]) - sizes[0]
    for level, size, below in zip(levels, sizes, [*sizes[1:], _NONE], strict=True):
        inner = level.arguments > 0
        tokens[starts] = np.where(inner, _OPERATOR + level.operator, _DIGIT + level.digit)
        tokens[(starts + size - 1)[inner]] = _CLOSE
        # A child begins after its parent's operator and the children before it.
        before = np.cumsum(below) - below
        first = np.cumsum(level.arguments[inner]) - level.arguments[inner]
        starts = before + np.repeat(starts[inner] + 1 - before[first], level.arguments[inner])
    return {"tokens": tokens, "sizes": sizes[0], "labels": values[-1].astype(np.uint8)}


def _sizes(level: _Level, below: np.ndarray) -> np.ndarray:
    """Return the number of tokens of every node from the numbers of the nodes below."""
    arguments = level.arguments[level.arguments > 0]
    sizes = np.ones(len(level.tree), np.int64)
    if len(arguments):
        first = np.cumsum(arguments) - arguments
        sizes[level.arguments > 0] = 2 + np.add.reduceat(below, first)
    return sizes


def _values(level: _Level, below: np.ndarray) -> np.ndarray:
    """Return the value of every node from the values of the nodes below."""
    inner = level.arguments > 0
    arguments = level.arguments[inner]
    values = level.digit.copy()
    if len(arguments):
        first = np.cumsum(arguments) - arguments
        parent = np.repeat(np.arange(len(arguments)), arguments)
        ordered = below[np.lexsort((below, parent))]
        lower, upper = ordered[first + (arguments - 1) // 2], ordered[first + arguments // 2]
        results = {
            "MIN": ordered[first],
            "MAX": ordered[first + arguments - 1],
            "MED": (lower + upper) // 2,
            "SM": np.add.reduceat(below, first) % 10,
        }
        values[inner] = np.choose(level.operator[inner], [results[name] for name in OPERATORS])
    return values
