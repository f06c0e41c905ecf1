"""Every optimizer of the three libraries: how it is had here, or why it cannot be."""

from __future__ import annotations

from typing import Any

from service.optim.libraries import keras, optax, torch
from service.optim.libraries.spelling import Spelling

SPELLINGS: dict[str, Spelling] = {
    spelling.path: spelling for library in (torch, optax, keras) for spelling in library.SPELLINGS
}
REFUSED: dict[str, str] = {**torch.REFUSED, **optax.REFUSED, **keras.REFUSED}


def spellings_of(algorithm: str) -> list[dict[str, Any]]:
    """The library classes that mean this algorithm, each with its argument names."""
    return [
        {"like": s.path, "dialect": s.dialect, "arguments": list(s.arguments)}
        for s in SPELLINGS.values()
        if s.algorithm == algorithm
    ]
