"""Compile the native backend on the user's machine, and find existing builds."""

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
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from ccnn_geo.files import atomic_write, read_json

COMMAND = "python -m ccnn_geo build"
TIME_LIMIT = 900.0
SCALARS = {torch.float32: "float", torch.float64: "double"}

_SOURCES = Path(__file__).parent / "csrc"
_FLAGS = [
    "-std=c++17", "-O3", "-fPIC", "-pthread", "-fvisibility=hidden", "-fno-math-errno",
    "-fno-trapping-math", "-w",
]  # fmt: skip
_TUNING: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])
_OPENMP_PROBE = "#include <omp.h>\nint probe() { return omp_get_max_threads(); }\n"
# Macros of the compiler that ATen's vectors need; without either they use NEON or plain loops.
_CAPABILITIES = {
    "AVX512": {"__AVX512F__", "__AVX512BW__", "__AVX512DQ__", "__AVX512VL__", "__FMA__"},
    "AVX2": {"__AVX2__", "__FMA__", "__F16C__"},
}
_MAX_OUTPUT_BYTES = 2**24
_logger = logging.getLogger(__name__)


# Temporary files in the cache, and the seconds after which they are those of a killed build.
_TEMPORARY = (".build-*", ".native-*.tmp")
_STALE_AFTER = 24 * 3600


class NotBuiltError(RuntimeError):
    """There is no usable library; the message says why and what to do."""


def cache_folder() -> Path:
    """Return the folder of builds: `$CCNN_GEO_CACHE`, or `ccnn_geo` in the user's cache folder.

    Raises:
        NotBuiltError: If there is no such home folder.
    """
    chosen = os.environ.get("CCNN_GEO_CACHE")
    try:
        if chosen:
            return Path(chosen).expanduser()
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "ccnn_geo"
    except RuntimeError as error:
        raise NotBuiltError(
            f"the folder {chosen or '~/.cache/ccnn_geo'} for builds cannot be found ({error}); the "
            "environment variable CCNN_GEO_CACHE names another one"
        ) from None


def manifest_path() -> Path:
    """Return the file that names the library for this torch, these sources and this CPU."""
    return cache_folder() / f"native-{_identity()}.json"


def build(*, verbose: bool = False, time_limit: float = TIME_LIMIT) -> Path:
    """Compile the native backend for this machine's CPU, in some ten seconds.

    Processes may build at the same time: each installs its build atomically.

    Args:
        verbose: If True, report progress on standard output.
        time_limit: Seconds after which the compiler is ended.

    Returns:
        The library.

    Raises:
        RuntimeError: If there is no working C++ compiler, if it does not end within the time limit
            or writes more than 16 MiB, or the cache folder cannot be written or is not safe, see
            `load`.
    """
    report: Callable[[str], object] = _write_line if verbose else _logger.debug
    manifest = manifest_path()
    with _workspace(manifest.parent) as folder:
        _trusted(manifest.parent)
        compiler = _Compiler(_command(), time_limit, time.monotonic() + time_limit)
        target = _target_flags(compiler, folder)
        report(f"Compiling for {_cpu_name()} with {shlex.join([*compiler.command, *target])}")
        content = _compile(compiler, target, folder).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    final = manifest.with_name(f"{manifest.stem}-{digest[:16]}.so")
    _install(final, content)
    description = {
        "library": final.name,
        "sha256": digest,
        "torch": torch.__version__,
        "cpu": _cpu_name(),
        "compiler": shlex.join([*compiler.command, *target]),
    }
    _install(manifest, json.dumps(description, indent=2).encode())
    load()
    report(f"Built {final}")
    return final


def load() -> ctypes.CDLL:
    """Load the library that was built for this torch, these sources and this CPU.

    Loading a library runs its code. Its file and all folders above it, up to the user's home
    folder, have to belong to the user or root, and nobody else may write to them, as ssh demands
    of keys.

    Raises:
        NotBuiltError: If there is none, if it is damaged, or if somebody else can have written it;
            says what to do.
    """
    path = manifest_path()
    try:
        path = _trusted(path)
        manifest = read_json(path)
        library = _trusted(path.with_name(Path(manifest["library"]).name))
        digest, content = manifest["sha256"], library.read_bytes()
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


def _trusted(path: Path) -> Path:
    """Resolve a path, and check that nobody else can have written or can replace what it names.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        NotBuiltError: If it or a folder above it, up to the home folder, belongs to another user
            than root, or others may write to it.
    """
    path = path.resolve(strict=True)
    if os.name != "posix":
        return path
    home = Path(os.path.expanduser("~")).resolve()
    for each in (path, *path.parents):
        status = each.stat()
        if status.st_uid not in (0, os.geteuid()):
            raise NotBuiltError(
                f"{each} belongs to another user, whose code would run; set CCNN_GEO_CACHE to a "
                f"folder of your own and run `{COMMAND}`"
            )
        # In a sticky folder, such as /tmp, nobody can replace the files of others.
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            raise NotBuiltError(
                f"{each} may be written by others, whose code would run: chmod go-w {each}, or set "
                "CCNN_GEO_CACHE to a folder of your own"
            )
        if each == home:
            break
    return path


def _missing(path: Path) -> str:
    if path.exists():
        return f"the library that {path} names is gone; run `{COMMAND}` again"
    if any(path.parent.glob("native-*.json")):
        return (
            f"the build in {path.parent} is for another torch, another CPU or an older ccnn_geo; "
            f"run `{COMMAND}` again"
        )
    return f"not built; run `{COMMAND}`"


@contextmanager
def _workspace(cache: Path) -> Iterator[Path]:
    """Make a temporary folder in the cache, and remove those that killed builds left behind."""
    try:
        _make_folder(cache)
        for pattern in _TEMPORARY:
            for each in cache.glob(pattern):
                with suppress(OSError):
                    if time.time() - each.lstat().st_mtime > _STALE_AFTER:
                        shutil.rmtree(each) if each.is_dir() else each.unlink()
        folder = tempfile.TemporaryDirectory(prefix=".build-", dir=cache)
    except OSError as error:
        raise _not_writable(cache, error) from error
    with folder as name:
        yield Path(name)


def _make_folder(path: Path) -> None:
    """Make a folder and those above it, which nobody else may write to whatever the umask is."""
    for each in (*reversed(path.parents), path):
        if not each.exists():
            each.mkdir(mode=0o755, exist_ok=True)


@dataclass(frozen=True)
class _Compiler:
    """A command that compiles, and when it has to have ended."""

    command: list[str]
    time_limit: float
    deadline: float

    def run(self, *arguments: str) -> str:
        """Run the compiler and return what it writes, errors included.

        Raises:
            RuntimeError: If it fails, does not end in time or does not stop writing.
        """
        text = shlex.join([*self.command, *arguments])
        output, written = os.pipe()
        with open(output, "rb") as stream:
            try:
                process = subprocess.Popen(
                    [*self.command, *arguments], stdin=subprocess.DEVNULL, stdout=written,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise RuntimeError(f"{text} did not start: {error}") from error
            finally:
                os.close(written)
            content = self._wait(process, stream, text)
        report = content.decode(errors="replace")
        if process.returncode:
            raise RuntimeError(f"{text} failed with status {process.returncode}:\n{report[-4000:]}")
        return report

    def _wait(self, process: subprocess.Popen[bytes], stream: BinaryIO, text: str) -> bytes:
        """Return what a process writes until it ends, or end it."""
        with process, ThreadPoolExecutor(1) as pool:
            reading = pool.submit(stream.read, _MAX_OUTPUT_BYTES + 1)
            try:
                content = reading.result(self._time_left())
                if len(content) > _MAX_OUTPUT_BYTES:
                    raise RuntimeError(
                        f"{text} wrote more than {_MAX_OUTPUT_BYTES >> 20} MiB: is it a C++ "
                        "compiler?"
                    )
                process.wait(self._time_left())
            except (TimeoutError, subprocess.TimeoutExpired) as error:
                raise RuntimeError(
                    f"{text} did not end within {self.time_limit:g} s: is it a C++ compiler?"
                ) from error
            finally:
                if process.returncode is None:
                    _kill(process)
        return content

    def _time_left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process, and on POSIX those that it started: a compiler runs others."""
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _compile(compiler: _Compiler, target: list[str], folder: Path) -> Path:
    """Compile both scalar types in parallel, and link them."""
    include = Path(torch.__file__).parent / "include"

    def compile_scalar(scalar: str) -> str:
        output = str(folder / f"{scalar}.o")
        define, source = f"-DCCNN_GEO_SCALAR={scalar}", str(_SOURCES / "magnet_conv.cpp")
        compiler.run(*_FLAGS, *target, define, "-isystem", str(include), "-c", source, "-o", output)
        return output

    with ThreadPoolExecutor(len(SCALARS)) as pool:
        objects = list(pool.map(compile_scalar, SCALARS.values()))
    library = folder / "native.so"
    compiler.run(*target, "-shared", *objects, "-o", str(library))
    if not library.is_file():
        raise RuntimeError(
            f"{shlex.join(compiler.command)} compiled nothing: is it a C++ compiler?"
        )
    return library


def has_compiler() -> bool:
    """Return True if a compiler is installed; does not run it."""
    try:
        return bool(_command())
    except RuntimeError:
        return False


def _command() -> list[str]:
    """Return the command of the C++ compiler: `$CXX`, or the first that is installed."""
    try:
        chosen = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise RuntimeError(
            f"Expected a command in the environment variable CXX, got {os.environ['CXX']!r} "
            f"({error})"
        ) from error
    candidates = [chosen] if chosen else [["c++"], ["g++"], ["clang++"]]
    for command in candidates:
        if shutil.which(command[0]):
            return command
    tried = ", ".join(command[0] for command in candidates)
    raise RuntimeError(
        f"The native backend needs a C++ compiler, and none was found ({tried}): install g++ or "
        "clang, or name one in the environment variable CXX. Everything else works without."
    )


def _target_flags(compiler: _Compiler, folder: Path) -> list[str]:
    """Return the flags for this CPU and for threads that the compiler supports."""

    def compiles(flags: list[str], source: str) -> bool:
        probe = folder / "probe.cpp"
        probe.write_text(source)
        try:
            compiler.run(*flags, "-fPIC", "-shared", str(probe), "-o", str(probe) + ".so")
        except RuntimeError:
            return False
        return True

    tuning = next(flags for flags in _TUNING if not flags or compiles(flags, ""))
    openmp = ["-fopenmp"] if compiles(["-fopenmp"], _OPENMP_PROBE) else []
    macros = compiler.run(*tuning, "-dM", "-E", "-x", "c++", os.devnull)
    defined = {line.split()[1] for line in macros.splitlines() if line.startswith("#define ")}
    level = next((name for name, needs in _CAPABILITIES.items() if needs <= defined), "DEFAULT")
    return [*tuning, *openmp, f"-DCPU_CAPABILITY={level}", f"-DCPU_CAPABILITY_{level}"]


def _install(path: Path, content: bytes) -> None:
    """Write a file that others may read but not write, whatever the umask is."""
    try:
        with atomic_write(path) as file:
            file.write(content)
        path.chmod(0o644)
    except OSError as error:
        raise _not_writable(path, error) from error


def _not_writable(path: Path, error: OSError) -> RuntimeError:
    return RuntimeError(
        f"{path} cannot be written ({error}); the environment variable CCNN_GEO_CACHE names "
        "another folder"
    )


@functools.cache
def _identity() -> str:
    """Return a digest of everything that a build depends on."""
    digest = hashlib.sha256()
    for part in (torch.__version__, sys.platform, _cpu()):
        digest.update(f"{part}\n".encode())
    for source in sorted(_SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _cpu() -> str:
    """Return the name and the features of the CPU, as the system describes them."""
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
