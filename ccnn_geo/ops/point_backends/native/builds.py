"""Compiling the native backend on the user's machine, and finding what was compiled before."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from ccnn_geo.files import atomic_write

COMMAND = "python -m ccnn_geo build"
SCALARS = {torch.float32: "float", torch.float64: "double"}

_SOURCES = Path(__file__).parent / "csrc"
_FLAGS = [
    "-std=c++17", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden", "-fno-math-errno",
    "-fno-trapping-math", "-w",
]  # fmt: skip
_TUNING: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])
_OPENMP_PROBE = "#include <omp.h>\nint probe() { return omp_get_max_threads(); }\n"
# What ATen's vectors need of the compiler's target; without either they take NEON or plain loops.
_CAPABILITIES = {
    "AVX512": {"__AVX512F__", "__AVX512BW__", "__AVX512DQ__", "__AVX512VL__", "__FMA__"},
    "AVX2": {"__AVX2__", "__FMA__", "__F16C__"},
}
_logger = logging.getLogger(__name__)


class NotBuiltError(RuntimeError):
    """There is no usable library; the message says why and what to do."""


def cache_folder() -> Path:
    """Return the folder of builds: `$CCNN_GEO_CACHE`, or `ccnn_geo` in the user's cache folder."""
    chosen = os.environ.get("CCNN_GEO_CACHE")
    if chosen:
        try:
            return Path(chosen).expanduser()
        except RuntimeError as error:
            raise NotBuiltError(
                f"the folder {chosen!r} of the environment variable CCNN_GEO_CACHE cannot be found "
                f"({error})"
            ) from None
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ccnn_geo"


def manifest_path() -> Path:
    """Return the file that names the library for this torch, these sources and this CPU."""
    return cache_folder() / f"native-{_identity()}.json"


def build(*, verbose: bool = False) -> Path:
    """Compile the native backend for this machine's CPU, in some ten seconds.

    The result goes to the cache folder in one piece, whoever else is building at the same time.

    Args:
        verbose: If True, report progress on standard output.

    Returns:
        The library.

    Raises:
        RuntimeError: If there is no C++ compiler, or it fails, or the cache folder cannot be
            written; says what happened.
    """
    report: Callable[[str], object] = _write_line if verbose else _logger.debug
    compiler = _compiler()
    target = _target_flags(compiler)
    report(f"Compiling for {_cpu_name()} with {shlex.join([*compiler, *target])}")
    with tempfile.TemporaryDirectory(prefix="ccnn_geo-") as folder:
        library = _compile(compiler, target, Path(folder))
        digest = hashlib.sha256(library.read_bytes()).hexdigest()
        final = manifest_path().with_name(f"{manifest_path().stem}-{digest[:16]}.so")
        _install(final, library.read_bytes())
    manifest = {
        "library": final.name,
        "sha256": digest,
        "torch": torch.__version__,
        "cpu": _cpu_name(),
        "compiler": shlex.join([*compiler, *target]),
    }
    _install(manifest_path(), json.dumps(manifest, indent=2).encode())
    load()
    report(f"Built {final}")
    return final


def load() -> ctypes.CDLL:
    """Load the library that was built for this torch, these sources and this CPU.

    Raises:
        NotBuiltError: If there is none, or it is damaged; says what to do.
    """
    path = manifest_path()
    try:
        for each in (path.parent, path):
            _check_trusted(each)
        manifest = json.loads(path.read_text())
        library, digest = path.with_name(Path(manifest["library"]).name), manifest["sha256"]
        _check_trusted(library)
        content = library.read_bytes()
    except FileNotFoundError:
        raise NotBuiltError(_missing(path)) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise NotBuiltError(f"{path} cannot be read ({error}); run `{COMMAND}` again") from None
    # A truncated library would take the process down as soon as it is mapped.
    if hashlib.sha256(content).hexdigest() != digest:
        raise NotBuiltError(f"{library} is damaged; run `{COMMAND}` again")
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise NotBuiltError(
            f"{library} cannot be loaded ({error}); run `{COMMAND}` again"
        ) from None


def _check_trusted(path: Path) -> None:
    """Check that nobody else can have written a file or folder whose code will run, as ssh does.

    Raises:
        NotBuiltError: If it belongs to another user, or others may write to it.
    """
    if os.name != "posix":
        return
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise NotBuiltError(
            f"{path} belongs to another user, whose code would run; set CCNN_GEO_CACHE to a folder "
            f"of your own and run `{COMMAND}`"
        )
    sticky = path.is_dir() and status.st_mode & stat.S_ISVTX
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        raise NotBuiltError(
            f"{path} may be written by others, whose code would run: chmod go-w {path}, or set "
            "CCNN_GEO_CACHE to a folder of your own"
        )


def _missing(path: Path) -> str:
    if path.exists():
        return f"the library that {path} names is gone; run `{COMMAND}` again"
    if any(path.parent.glob("native-*.json")):
        return (
            f"what was built in {path.parent} is for another torch, another CPU or an older "
            f"ccnn_geo; run `{COMMAND}` again"
        )
    return f"not built; run `{COMMAND}`"


def _compile(compiler: list[str], target: list[str], folder: Path) -> Path:
    """Compile both types side by side, and link them."""
    include = Path(torch.__file__).parent / "include"

    def compile_scalar(scalar: str) -> str:
        output = str(folder / f"{scalar}.o")
        define, source = f"-DCCNN_GEO_SCALAR={scalar}", str(_SOURCES / "magnet_conv.cpp")
        _run([*compiler, *_FLAGS, *target, define, "-isystem", str(include), "-c", source,
              "-o", output])  # fmt: skip
        return output

    with ThreadPoolExecutor(len(SCALARS)) as pool:
        objects = list(pool.map(compile_scalar, SCALARS.values()))
    library = folder / "native.so"
    _run([*compiler, *target, "-shared", *objects, "-o", str(library)])
    if not library.is_file():
        raise RuntimeError(f"{shlex.join(compiler)} compiled nothing: is it a C++ compiler?")
    return library


def _compiler() -> list[str]:
    """The C++ compiler: `$CXX`, or the first that is installed."""
    chosen = shlex.split(os.environ.get("CXX", ""))
    candidates = [chosen] if chosen else [["c++"], ["g++"], ["clang++"]]
    for command in candidates:
        if shutil.which(command[0]):
            return command
    tried = ", ".join(command[0] for command in candidates)
    raise RuntimeError(
        f"The native backend needs a C++ compiler, and none was found ({tried}): install g++ or "
        "clang, or name one in the environment variable CXX. Everything else works without."
    )


def _target_flags(compiler: list[str]) -> list[str]:
    """Flags for this CPU and for threads, as far as the compiler knows them."""
    tuning = next(flags for flags in _TUNING if not flags or _compiles(compiler, flags, ""))
    openmp = ["-fopenmp"] if _compiles(compiler, ["-fopenmp"], _OPENMP_PROBE) else []
    macros = _run([*compiler, *tuning, "-dM", "-E", "-x", "c++", os.devnull])
    defined = {line.split()[1] for line in macros.splitlines() if line.startswith("#define ")}
    level = next((name for name, needs in _CAPABILITIES.items() if needs <= defined), "DEFAULT")
    return [*tuning, *openmp, f"-DCPU_CAPABILITY={level}", f"-DCPU_CAPABILITY_{level}"]


def _compiles(compiler: list[str], flags: list[str], source: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="ccnn_geo-") as folder:
        probe = Path(folder) / "probe.cpp"
        probe.write_text(source)
        try:
            _run([*compiler, *flags, "-fPIC", "-shared", str(probe), "-o", str(probe) + ".so"])
        except RuntimeError:
            return False
    return True


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"{shlex.join(command)} did not start: {error}") from error
    if done.returncode:
        raise RuntimeError(
            f"{shlex.join(command)} failed with status {done.returncode}:\n{done.stderr[-4000:]}"
        )
    return done.stdout


def _install(path: Path, content: bytes) -> None:
    """Put a file in its place all at once: whoever reads it sees all of it or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        with atomic_write(path) as file:
            file.write(content)
        path.chmod(0o644)
    except OSError as error:
        raise RuntimeError(
            f"{path} cannot be written ({error}); the environment variable CCNN_GEO_CACHE names "
            "another folder"
        ) from error


@functools.cache
def _identity() -> str:
    """A digest of all that a build depends on."""
    digest = hashlib.sha256()
    for part in (torch.__version__, sys.platform, _cpu()):
        digest.update(f"{part}\n".encode())
    for source in sorted(_SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _cpu() -> str:
    """The name of the CPU and what it can do, as the system describes it."""
    keys = ("model name", "flags", "features", "cpu implementer", "cpu part")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()}\n{platform.processor()}"
    first: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        first.setdefault(key.strip().lower(), value.strip())
    return "\n".join([platform.machine(), *(first[key] for key in keys if key in first)])


def _cpu_name() -> str:
    return " ".join(_cpu().splitlines()[:2])[:80]


def _write_line(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
