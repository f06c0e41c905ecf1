"""Content-Encoding of requests: gzip and zstd, undone piece by piece, so that who reads may stop at any size."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from service.errors import Undecodable, UnsupportedMediaType

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PIECE_BYTES = 1 << 18  # the most that is decoded at once
MAX_MEMBERS = 4096  # each costs a decompressor, and may be of twenty bytes
ACCEPTED = "gzip, zstd"
_WINDOW_LOG = 23  # 8 MiB, the most that RFC 9659 lets a zstd encoder use in HTTP; bounds the decoder's memory


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib's decompressor, used as that of zstd is."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(out) < max_length
        return out


def _unzstd() -> _Decompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG})


_CODINGS: dict[bytes, Callable[[], _Decompressor]] = {b"gzip": _Gunzip, b"x-gzip": _Gunzip, b"zstd": _unzstd}


class Decoder:
    """One body on its way through a decompressor. Several members (frames) in a row are one body."""

    def __init__(self, make: Callable[[], _Decompressor]) -> None:
        self._make = make
        self._member = make()
        self._members = 1

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes out of some more bytes, in pieces of at most PIECE_BYTES. Raises Undecodable."""
        while True:
            if self._member.eof:
                if not data:
                    return
                self._next_member()
            try:
                piece = self._member.decompress(data, PIECE_BYTES)
            except (zlib.error, zstd.ZstdError):
                raise Undecodable(
                    "The body is not what its Content-Encoding says, or was damaged on its way; send it again."
                ) from None
            data = self._member.unused_data if self._member.eof else b""
            if piece:
                yield piece
            if self._member.needs_input and not self._member.eof:
                return

    def _next_member(self) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise Undecodable(f"The body has more than {MAX_MEMBERS} compressed members; send it as one.")
        self._member = self._make()

    def end(self) -> None:
        """Raises Undecodable when the body stopped in the middle."""
        if not self._member.eof:
            raise Undecodable("The body ends before its Content-Encoding does; send it whole.")


def decoder(encodings: Sequence[bytes]) -> Decoder | None:
    """The decoder for the Content-Encoding fields of a request; None where there is nothing to undo.

    Raises UnsupportedMediaType for another coding, and for several of them one over the other.
    """
    codings = [coding for value in encodings for part in value.split(b",") if (coding := part.strip().lower())]
    if not codings or codings == [b"identity"]:
        return None
    if len(codings) > 1 or codings[0] not in _CODINGS:
        raise UnsupportedMediaType(
            f"Of a Content-Encoding this service undoes one: {ACCEPTED}; send the body with one of these or without.",
            accept_encoding=ACCEPTED,
        )
    return Decoder(_CODINGS[codings[0]])
