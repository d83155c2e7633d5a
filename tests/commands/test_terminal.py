"""Names cannot control the terminal or leave their folders."""

import io
import json

import numpy as np
import pytest

from ccnn_geo import CCNN
from ccnn_geo.commands import main
from ccnn_geo.commands.terminal import write
from ccnn_geo.files import check_name, read_json, require_entries
from ccnn_geo.text import printable


def test_control_characters_are_written_out():
    assert printable("a\x1b[31mb\u009bc\td\n") == "a\\x1b[31mb\\x9bc\\td\\n"
    assert printable("\u202egpj.exe") == "\\u202egpj.exe"
    assert printable("bytes \udcff") == "bytes \\udcff"
    assert printable("größe ≤ 3") == "größe ≤ 3"


def test_a_terminal_that_lacks_characters_shows_their_codes(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    write("größe\n\x1b[31m")
    assert raw.getvalue() == b"gr\\xf6\\xdfe\n\\x1b[31m\n"


def test_a_hostile_file_name_reaches_the_terminal_as_text(tmp_path, capsys):
    path = tmp_path / "a\x1b]0;owned\x07.xyz"
    path.write_text("not numbers")
    assert main(["predict", str(path)]) == 1
    shown = capsys.readouterr().err
    assert "\x1b" not in shown and "\\x1b]0;owned" in shown


def test_one_bad_file_does_not_end_a_folder(tmp_path, capsys):
    np.savetxt(tmp_path / "b.xyz", np.random.default_rng(0).standard_normal((40, 3)))
    (tmp_path / "a.xyz").write_text("1 2\n")
    (tmp_path / "c.off").write_bytes(b"\xff\xfe")
    (tmp_path / ".ccnn_geo").mkdir()
    np.save(tmp_path / ".ccnn_geo" / "points.npy", np.zeros((5, 3)))
    (tmp_path / "x.obj").mkdir()
    assert main(["predict", str(tmp_path), "--weights", "shapes", "--json"]) == 1
    printed = capsys.readouterr()
    entries = json.loads(printed.out)
    assert [entry["file"].rsplit("/", 1)[1] for entry in entries] == ["a.xyz", "b.xyz", "c.off"]
    assert ["error" in entry for entry in entries] == [True, "classes" not in entries[1], True]
    assert printed.err.count("error: ") >= 2


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/abs", "a/b", "a\\b", "a\0b"])
def test_names_with_separators_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match="Expected `name` to be a name without separators"):
        check_name("name", name)
    model = CCNN(3, 2, dim=3, hidden_channels=4, num_blocks=1)
    with pytest.raises(ValueError, match="a name without separators"):
        model.save_pretrained(tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[1", "[" * 100_000])
def test_files_that_are_no_json_are_named(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match="results.json: expected a JSON file"):
        read_json(tmp_path / "results.json")


def test_entries_that_are_missing_are_named(tmp_path):
    with pytest.raises(ValueError, match="results.json: expected an object with a, b"):
        require_entries(tmp_path / "results.json", [], "a", "b")
    with pytest.raises(ValueError, match=r"expected entries a, b, got none \['b'\]"):
        require_entries(tmp_path / "results.json", {"a": 1}, "a", "b")


@pytest.mark.parametrize("results", ["[]", "{}", "null", '{"classes": [], "settings": []}'])
@pytest.mark.parametrize("command", [["export"], ["plot", "run"]])
def test_damaged_reports_are_one_line_errors(tmp_path, capsys, results, command):
    (tmp_path / "results.json").write_text(results)
    arguments = [*command, str(tmp_path)]
    if command == ["export"]:
        arguments += [str(tmp_path / "out"), "--license", "MIT"]
    assert main(arguments) == 1
    shown = capsys.readouterr().err
    assert "results.json: expected" in shown and shown.count("\n") == 1
