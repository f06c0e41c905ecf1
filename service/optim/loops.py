"""Making compiled loops in the background, and keeping them between processes in the user's cache directory.

numba keeps what it compiled beside the file that a function came from. A loop's text is made at run time, so it is
written to a file of its own, whose name is the digest of all that the loop is made of: a rule that changes has another
file, and nothing in the directory is ever out of date. Deleting the directory costs a compile.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

AVAILABLE = importlib.util.find_spec("numba") is not None
OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True}

Key = tuple[Callable[..., Any], Any]  # the function that a loop is made of, and in which form

_made: dict[Key, Any] = {}
_underway: set[Key] = set()
_lock = threading.Lock()


def made(key: Key, make: Callable[[], Any]) -> Any:
    """The loop of this key, made now if it is not there yet; needs numba."""
    with _lock:
        if key not in _made:
            _made[key] = make()
    return _made[key]


def ready(key: Key, make: Callable[[], Any]) -> Any:
    """The loop of this key, or None while a thread makes it; for ever where it cannot be made, or without numba."""
    loop = _made.get(key)
    if loop is None and AVAILABLE and key not in _underway:
        _underway.add(key)
        threading.Thread(target=_attempt, args=(key, make), daemon=True, name="compile").start()
    return loop


def _attempt(key: Key, make: Callable[[], Any]) -> None:
    try:
        made(key, make)
    except Exception:
        logging.getLogger(__name__).exception("cannot compile %s; it runs in NumPy", key[0].__name__)


def compile_source(
    source: str, called: tuple[Callable[..., Any], ...], namespace: dict[str, Any], signature: Any
) -> Any:
    """The function `loop` of a source text, compiled for these types, or read back from the disk.

    `namespace` holds what the text calls by name, and `called` the plain functions that this comes to.
    """
    from numba import njit

    scope = {**namespace, "__name__": __name__}  # numba imports the module of that name when it reads a loop back
    path = place(source, called)
    if path is not None:
        exec(compile(source, path, "exec"), scope)
        with contextlib.suppress(Exception):  # a damaged entry, a full disk: whatever it is, a compile mends it
            return njit(signature, cache=True, **OPTIONS)(scope["loop"])
    exec(compile(source, "<loop>", "exec"), scope)
    return njit(signature, **OPTIONS)(scope["loop"])


def directory() -> Path:
    """`thalweg` in $XDG_CACHE_HOME, or in ~/.cache."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if os.path.isabs(named) else Path("~/.cache").expanduser()) / "thalweg"


def place(source: str, called: tuple[Callable[..., Any], ...]) -> str | None:
    """The path of a file with this source, for a loop that calls these functions; None where none can be kept."""
    try:
        home = directory()
        path = home / f"loop_{digest(source, called)}.py"
        if path.exists():
            return str(path) if os.access(home, os.W_OK) else None
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=home, suffix=".tmp")
        with os.fdopen(handle, "w") as file:
            file.write(source)
        os.replace(name, path)
    except (OSError, RuntimeError):  # read-only, full, or no home at all
        return None
    return str(path)


def digest(source: str, called: tuple[Callable[..., Any], ...]) -> str:
    """Changes with the source and with the code of everything that it calls, numba and its LLVM included."""
    seen: dict[FunctionType, None] = {}
    for function in called:
        _reach(function, seen)
    parts = [source, *map(importlib.metadata.version, ("numba", "llvmlite", "numpy"))]
    parts += [text for function in seen for text in _texts(function.__code__)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _reach(function: Any, seen: dict[FunctionType, None]) -> None:
    """The plain functions that one calls by name, each once, in the order in which they are met."""
    if not isinstance(function, FunctionType) or function in seen:
        return
    seen[function] = None
    for name in function.__code__.co_names:
        _reach(function.__globals__.get(name), seen)


def _texts(code: CodeType) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _texts(constant)
        else:
            yield repr(constant)
