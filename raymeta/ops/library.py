"""The native kernels: built once a machine by its own C++ compiler, found again in raymeta's cache, called on tensors.

There is a library for each type of number, built when it is first asked for. Its name in the cache tells its source,
the flags (the widest vectors that this processor has) and the compiler.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from raymeta.storage.files import cache_folder

SOURCES = Path(__file__).parent / "native"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++20", "-fPIC", "-shared", "-ffp-contract=fast")
VECTORS = {  # by what torch finds that this processor can do
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}
PORTABLE: tuple[str, ...] = ()
BUILD_S = 300
TYPES = {torch.float32: "float", torch.float64: "double"}
# How many pointers each takes, after the sizes and, where there is one, a number.
_POINTERS = {"convolve": 5, "convolve_back": 5, "moments": 3}
_NUMBER_AND_POINTERS = {
    "statistics": 3, "tail": 8, "tail_back": 10, "tail_twice": 15, "first": 5, "first_picked": 5, "first_back": 5,
    "fold": 8, "fold_back": 9, "fold_twice": 13,
}  # fmt: skip


class NoKernels(Exception):
    """The native kernels can't be had here; the message is a sentence that says why, and what to install."""


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL:
    """The kernels for numbers of a type, built if the cache has none.

    Raises:
        NoKernels: there is no compiler, or it can't build them.
    """
    return load(build(dtype, _vectors()))


def builds_with() -> str:
    """The compiler that would build the kernels for float32 now; "": there is none, or they are built."""
    compiler = _compiler()
    if compiler is None or _place(_flags(torch.float32, _vectors()), compiler, cache_folder() / "kernels").exists():
        return ""
    return compiler


@cache
def unusable(dtype: torch.dtype = torch.float32) -> str:
    """Why the native kernels can't be had on this machine, a sentence; "": they can."""
    try:
        library(dtype)
    except NoKernels as error:
        return str(error)
    return ""


def takes(x: Any) -> bool:
    """Whether the kernels can compute with a tensor, or with what has a tensor's type and place."""
    return x.device.type == "cpu" and x.dtype in TYPES and len(x) > 0 and not unusable(x.dtype)


def call(name: str, like: Tensor, *arguments: Any) -> None:
    """Call a kernel for the type of `like`; tensors are passed as they lie in memory, None as a null pointer."""
    function = _function(name, like.dtype)
    function(*[one.data_ptr() if isinstance(one, Tensor) else one for one in arguments])


def refuse_third_order() -> None:
    """In a backward pass of a second derivative: say that there is no third one, if this pass is to have a graph."""
    if torch.is_grad_enabled():
        raise RuntimeError("engine.kernels: the native kernels have no third derivatives; set it to torch, which has")


@cache
def sizes(*values: int) -> ctypes.Array[ctypes.c_long]:
    """Whole numbers as kernels take them."""
    return (ctypes.c_long * len(values))(*values)


@cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    function: Callable[..., None] = getattr(library(dtype), name)
    return function


def build(dtype: torch.dtype, vectors: tuple[str, ...], more: tuple[str, ...] = (), folder: Path | None = None) -> Path:
    """The shared library of the kernels, compiled unless the cache has it. One process of a machine compiles.

    Args:
        dtype: of the numbers.
        vectors: flags of the processor, a value of `VECTORS` or `PORTABLE`.
        more: further flags.
        folder: where it lies; None: in raymeta's cache.

    Raises:
        NoKernels: there is no compiler, or it can't build them.
    """
    flags, compiler = _flags(dtype, vectors, more), _compiler()
    folder = folder or cache_folder() / "kernels"
    if compiler is None:  # what was built while there was one is as good
        for known in sorted(folder.glob(f"{_source(flags)}-*.so")):
            return known
        raise NoKernels(
            f"found no C++ compiler ({', '.join(COMPILERS)}) on the PATH: install one, such as the package g++ "
            "(Xcode's command line tools on a Mac)"
        )
    library = _place(flags, compiler, folder)
    if library.exists():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(library.with_suffix(".lock")):
            if not library.exists():
                _compile(compiler, flags, library, tried=not more)
    except OSError as error:
        raise NoKernels(
            f"{folder}: can't write there ({error.strerror}): set RAYMETA_CACHE to a folder of yours"
        ) from error
    return library


def load(path: Path) -> ctypes.CDLL:
    """A library with the types of its functions' arguments.

    Raises:
        NoKernels: it is no such library, or not for this machine.
    """
    try:
        found = ctypes.CDLL(str(path))
        for numbers, kernels in (((), _POINTERS), ((ctypes.c_double,), _NUMBER_AND_POINTERS)):
            for name, count in kernels.items():
                function = getattr(found, name)
                function.restype = None
                function.argtypes = (ctypes.c_void_p, *numbers, *[ctypes.c_void_p] * count)
    except (OSError, AttributeError) as error:
        raise NoKernels(f"{path}: can't be loaded ({error}): remove it, and it is built again") from error
    return found


def _vectors() -> tuple[str, ...]:
    """The flags of this processor."""
    return VECTORS.get(torch.backends.cpu.get_cpu_capability(), PORTABLE)


def _flags(dtype: torch.dtype, vectors: tuple[str, ...], more: tuple[str, ...] = ()) -> tuple[str, ...]:
    return (*FLAGS, f"-DNUMBER={TYPES[dtype]}", *vectors, *more)


def _place(flags: tuple[str, ...], compiler: str, folder: Path) -> Path:
    """Where the library lies that a compiler builds with some flags."""
    return folder / f"{_source(flags)}-{_digest(_identity(compiler))}.so"


def _compiler() -> str | None:
    """The path of the compiler; `$CXX` first."""
    named = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, [named, *COMPILERS] if named else COMPILERS)), None)


def _identity(compiler: str) -> tuple[str, ...]:
    """What changes with a compiler, without a call of it."""
    path = Path(compiler).resolve()
    about = path.stat()
    return str(path), str(about.st_size), str(about.st_mtime_ns)


def _source(flags: tuple[str, ...]) -> str:
    files = sorted(path for path in SOURCES.iterdir() if path.suffix in (".h", ".cpp"))
    return _digest(
        (*flags, platform.system(), platform.machine(), *(path.read_text(encoding="utf-8") for path in files))
    )


def _digest(words: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


def _compile(compiler: str, flags: tuple[str, ...], library: Path, *, tried: bool) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".building-") as folder:
        made = Path(folder) / library.name
        command = [compiler, *flags, str(SOURCES / "kernels.cpp"), "-o", str(made)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
        except subprocess.TimeoutExpired:
            raise NoKernels(f"{compiler} did not build the kernels in {BUILD_S} s") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or [""]
            raise NoKernels(
                f"{compiler} can't build the kernels ({lines[0].strip()[:200]}): install g++ 11 or clang++ 14 or newer"
            )
        if tried:  # a sanitizer's needs a process that began with its runtime
            load(made)
        os.replace(made, library)
