"""The package as it is shipped: what an import costs, who imports whom, and the built wheel."""

import ast
import graphlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
# Where each package of the distribution stands in the repository.
SOURCES = {"ccnn_geo": ROOT / "ccnn_geo", "ccnn_geo.datasets": ROOT / "datasets"}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

OPTIONAL = {
    "matplotlib",
    "open3d",
    "plotly",
    "pytorch_lightning",
    "scipy",
    "torch_cluster",
    "torchmetrics",
    "trimesh",
}

# Imports only go down: each part of `ccnn_geo`, and the parts it may import besides itself.
MAY_IMPORT = {
    "extras": set(),
    "files": {"text"},
    "text": set(),
    "ops": {"files"},
    "pretrained.model": {"files"},
    "nn": {"ops", "pretrained.model"},
    "transforms": {"extras", "ops"},
    "visualization": {"extras", "files", "nn", "text", "transforms"},
    "training": {"files", "nn", "pretrained.model", "visualization"},
    "datasets": {"extras", "files", "ops", "transforms"},
    "pretrained": {"datasets", "nn", "ops", "pretrained.model", "transforms"},
    "commands": {
        "datasets",
        "files",
        "nn",
        "ops",
        "pretrained",
        "pretrained.model",
        "text",
        "training",
        "transforms",
        "visualization",
    },
    "__init__": {"nn", "ops"},
}

# The modules of `ccnn_geo.pretrained` that the layers are made of: `pretrained.model`.
MODEL_FILES = (["card"], ["model"], ["storage"])

# Only some builds of torch bring it, and it is of no use to the others.
COME_WITH_TORCH = {"triton"}

# Modules whose distribution has another name.
DISTRIBUTIONS = {"PIL": "pillow"}

CONDA_NAMES = {
    "mapbox-earcut": "mapbox_earcut",
    "matplotlib": "matplotlib-base",
    "soundfile": "pysoundfile",
    "torch": "pytorch",
    "torch-cluster": "pytorch_cluster",
    "torch-geometric": "pytorch_geometric",
    "torch-scatter": "pytorch_scatter",
}


def run_python(code: str, *arguments: str, cwd: Path) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if process.returncode:
        pytest.fail(process.stderr)
    return process.stdout


def modules() -> dict[str, Path]:
    """Return the file of every module of the distribution, by its dotted name."""
    found = {}
    for package, folder in SOURCES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path) -> Iterator[str]:
    """Yield the absolute name of everything that a module imports, at its top or later."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own_imports(name: str, path: Path) -> Iterator[str]:
    """Yield what a module imports from `ccnn_geo`."""
    return (target for target in imports(name, path) if target.startswith("ccnn_geo."))


def part(name: str) -> str:
    """Return the part of `ccnn_geo` that a dotted name belongs to."""
    first, *rest = name.split(".")[1:] or ["__init__"]
    return "pretrained.model" if first == "pretrained" and rest[:1] in MODEL_FILES else first


def importers() -> dict[str, Path]:
    """Return every module that has to keep to the layout: all but the command line's entry."""
    return {name: path for name, path in modules().items() if part(name) != "__main__"}


def requirements(*extras: str) -> list[Requirement]:
    """Return what the core and the named extras ask for, without references among the extras."""
    project = PYPROJECT["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][x] for x in extras)]
    parsed = [Requirement(line) for lines in lists for line in lines]
    return [requirement for requirement in parsed if requirement.name != "ccnn_geo"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, so that nothing is left in the repository."""
    pytest.importorskip("build", reason="the package `build`, of the extra `dev`, is missing")
    source = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for folder in SOURCES.values():
        shutil.copytree(folder, source / folder.name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(source)]
    process = subprocess.run(command, cwd=source, capture_output=True, text=True)
    if process.returncode:
        pytest.fail(process.stdout + process.stderr)
    (path,) = (source / "dist").glob("*.whl")
    return path


def test_import_pulls_in_only_torch_pyg_and_numpy(tmp_path):
    code = """
import sys
import numpy, torch, torch_geometric
before = set(sys.modules)
import ccnn_geo
print(*{name.partition(".")[0] for name in set(sys.modules) - before})
"""
    added = set(run_python(code, cwd=tmp_path).split()) - sys.stdlib_module_names
    assert added & OPTIONAL == set()
    assert added <= {"ccnn_geo", "numpy", "torch", "torch_geometric"}


def test_every_module_has_a_place_in_the_layout():
    assert {part(name) for name in importers()} <= MAY_IMPORT.keys()


def test_imports_only_go_down_the_layout():
    upward = [
        f"{name} imports {target}"
        for name, path in importers().items()
        for target in own_imports(name, path)
        if part(target) not in MAY_IMPORT.get(part(name), set()) | {part(name)}
    ]
    assert upward == []


def test_no_module_imports_itself_in_a_circle():
    known = modules()
    graph = {
        name: {
            target if target in known else target.rpartition(".")[0]
            for target in own_imports(name, path)
        }
        for name, path in known.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_every_package_that_is_imported_is_a_declared_requirement():
    imported = {
        target.partition(".")[0]
        for name, path in modules().items()
        for target in imports(name, path)
    }
    extras = PYPROJECT["project"]["optional-dependencies"].keys() - {"dev"}
    declared = {canonicalize_name(requirement.name) for requirement in requirements(*extras)}
    foreign = imported - sys.stdlib_module_names - {"ccnn_geo"} - COME_WITH_TORCH
    providers = importlib.metadata.packages_distributions()
    assert {canonicalize_name(providers.get(name, [name])[0]) for name in foreign} <= declared


def test_optional_imports_name_an_extra_that_installs_them():
    calls = [
        (node.args[0].value.partition(".")[0], node.keywords[0].value.value)
        for path in modules().values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "import_extra"
    ]
    assert {module for module, _ in calls} >= {"matplotlib", "open3d", "plotly", "trimesh"}
    for module, extra in calls:
        names = {canonicalize_name(requirement.name) for requirement in requirements(extra)}
        assert canonicalize_name(DISTRIBUTIONS.get(module, module)) in names


def test_wheel_holds_every_file_of_the_library_and_nothing_else(wheel):
    expected = {
        f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"
        for package, folder in SOURCES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {"ccnn_geo/py.typed", "ccnn_geo/datasets/signals/digits/digits.npz"} <= names


def test_wheel_works_outside_the_repository_beside_a_strangers_datasets(wheel, tmp_path):
    target = tmp_path / "site-packages"
    stranger = target / "datasets" / "__init__.py"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("owner = 'somebody else'\n")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)

    code = """
import json, sys
sys.path.insert(0, sys.argv[1])
import importlib.metadata
import ccnn_geo, ccnn_geo.datasets, datasets
files = [module.__file__ for module in (ccnn_geo, ccnn_geo.datasets, datasets)]
versions = [ccnn_geo.__version__, importlib.metadata.version("ccnn_geo")]
print(json.dumps({"files": files, "versions": versions, "owner": datasets.owner}))
"""
    (tmp_path / "elsewhere").mkdir()
    seen = json.loads(run_python(code, str(target), cwd=tmp_path / "elsewhere"))
    packages = ("ccnn_geo", "ccnn_geo/datasets", "datasets")
    assert seen["files"] == [str(target / package / "__init__.py") for package in packages]
    assert seen["owner"] == "somebody else"
    assert seen["versions"][0] == seen["versions"][1]


def test_every_requirement_has_a_tested_pin_within_its_range():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    versions = {canonicalize_name(name): version for name, version in pins.items()}
    for requirement in requirements(*PYPROJECT["project"]["optional-dependencies"]):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def test_conda_environment_has_every_requirement_in_the_same_range():
    yaml = pytest.importorskip("yaml", reason="PyYAML, of the extra `train`, is missing")
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    for requirement in requirements("train", "mesh", "audio", "viz", "accelerators"):
        name = canonicalize_name(requirement.name)
        wanted = f"{CONDA_NAMES.get(name, name)}{requirement.specifier}"
        assert wanted in environment["dependencies"]


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
def test_python_in_the_documentation_runs(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        # PyG keeps the code that it generates in this process, under names that may meet again.
        subprocess.run([sys.executable, "-c", block], check=True)


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md", "docs/results/README.md"])
def test_links_between_pages_lead_to_files(page):
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not (folder / link).exists()] == []


def test_a_checkout_has_its_data_sets_whatever_is_installed(tmp_path):
    for folder in SOURCES.values():
        shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("*.so"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    code = "import ccnn_geo.datasets; print(ccnn_geo.datasets.__file__)"
    assert run_python(code, cwd=tmp_path).strip() == str(tmp_path / "datasets" / "__init__.py")
