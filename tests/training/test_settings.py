"""YAML files of settings: what is refused, and what is compared."""

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra `train`, is missing")
pytest.importorskip("pytorch_lightning", reason="the extra `train` is missing")

from ccnn_geo.training.settings import (  # noqa: E402
    MAX_CHARACTERS,
    check_yaml,
    comparable_settings,
    read_settings,
)


def nested(levels: int, fold: int) -> str:
    """A few lines that stand for `fold ** levels` values."""
    lines = ["a0: &a0 [x]"]
    for level in range(1, levels + 1):
        aliases = ", ".join([f"*a{level - 1}"] * fold)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    return "\n".join(lines)


def merged(levels: int) -> str:
    """The same with merged mappings."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels + 1):
        lines.append(f"a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}]}}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "a: [1, {b: null}]",
        "a: &shared {b: 1}\nc: *shared\nd: {<<: *shared}",
        "a: &same 1\nb: *same\nc: &same 2\nd: *same",
        nested(3, 10),
    ],
)
def test_ordinary_yaml_is_accepted(text):
    check_yaml(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (nested(4, 10), "at most 10,000 values with aliases expanded"),
        (nested(60, 10), "at most 10,000 values with aliases expanded"),
        (merged(60), "at most 10,000 values with aliases expanded"),
        (f"[{'1,' * 10_000}]", "at most 10,000 values"),
        ("[" * 51 + "]" * 51, "nested at most 50 deep"),
        ("a: &a {b: *a}", r"an alias of a complete value, got \*a"),
        ("a: *b", r"an alias of a complete value, got \*b"),
        (f"#{' ' * MAX_CHARACTERS}", "at most 65,536 characters of YAML, got 65,537"),
    ],
    ids=["just too many", "bomb", "merges", "many", "deep", "recursive", "unknown", "long"],
)
def test_yaml_that_could_fill_the_memory_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        check_yaml(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "config.yaml: expected YAML .while parsing a flow sequence"),
        (b"\xff\xfe\xff", "config.yaml: expected YAML .*decode"),
        (b"- 1\n", "config.yaml: expected settings by name, got a list"),
        (b"", "config.yaml: expected settings by name, got a NoneType"),
        (b"#" * (MAX_CHARACTERS + 1), "config.yaml: expected YAML .*at most 65,536 bytes"),
        (b"a: " + b"1" * 5000, "config.yaml: expected YAML .*limit"),
    ],
    ids=["cut", "binary", "list", "empty", "long", "number"],
)
def test_files_that_are_no_settings_are_named_in_one_line(tmp_path, content, message):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_settings(tmp_path / "config.yaml")
    assert "\n" not in str(error.value)


def test_settings_that_do_not_affect_the_result_are_not_compared(tmp_path):
    (tmp_path / "a.yaml").write_text("name: x\ndata: {num_workers: 3, seed: 1}\nmodel: {a: {b: 2}}")
    settings = read_settings(tmp_path / "a.yaml")
    assert comparable_settings(settings) == {"data.seed": 1, "model.a.b": 2}
