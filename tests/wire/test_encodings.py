"""Content-Encoding: what was compressed comes out again, in bounded pieces; what was not is refused."""

from __future__ import annotations

import gzip
import itertools
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Undecodable, UnsupportedMediaType
from service.wire.encodings import MAX_MEMBERS, PIECE_BYTES, Decoder, decoder

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENCODE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}
EVERY = pytest.mark.parametrize("coding", ENCODE)


def made(coding: str) -> Decoder:
    found = decoder([coding.encode()])
    assert found is not None
    return found


def decode(coding: str, pieces: list[bytes]) -> bytes:
    """All that comes out; each piece is bounded."""
    decoding = made(coding)
    out = []
    for piece in pieces:
        for decoded in decoding.feed(piece):
            assert 0 < len(decoded) <= PIECE_BYTES
            out.append(decoded)
    decoding.end()
    return b"".join(out)


@EVERY
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=4), st.lists(st.integers(0, 400), max_size=8))
def test_what_was_compressed_comes_out_however_it_is_cut(coding: str, members: list[bytes], cuts: list[int]) -> None:
    body = b"".join(map(ENCODE[coding], members))
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(edges)]
    assert decode(coding, pieces) == b"".join(members)


@EVERY
@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_sizes_around_a_piece(coding: str, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert decode(coding, [ENCODE[coding](data[:size])]) == data[:size]


@EVERY
@given(st.binary(min_size=1, max_size=100), st.data())
def test_a_body_that_ends_early_is_refused(coding: str, content: bytes, data: st.DataObject) -> None:
    body = ENCODE[coding](content)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(Undecodable, match="ends before"):
        decode(coding, [body[:cut]])


@EVERY
@given(st.binary(min_size=1, max_size=100))
def test_what_is_no_such_encoding_is_refused(coding: str, content: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(coding, [content])


@EVERY
def test_what_follows_must_be_a_member_too(coding: str) -> None:
    with pytest.raises(Undecodable, match="is not what"):
        decode(coding, [ENCODE[coding](b"abc") + b"nonsense"])


def test_a_flipped_bit_does_not_pass_the_checksum() -> None:
    body = bytearray(gzip.compress(b"abc" * 100))
    body[-6] ^= 1
    with pytest.raises(Undecodable, match="damaged"):
        decode("gzip", [bytes(body)])


@EVERY
def test_the_number_of_members_is_bounded(coding: str) -> None:
    member = ENCODE[coding](b"")
    assert decode(coding, [member * MAX_MEMBERS]) == b""
    with pytest.raises(Undecodable, match="members"):
        decode(coding, [member * (MAX_MEMBERS + 1)])


@EVERY
def test_who_stops_reading_a_bomb_has_paid_for_what_was_read(coding: str) -> None:
    """A gigabyte of zeros: reading one MiB of it takes no more memory than some pieces and a window."""
    bomb = bytearray()
    squeeze = zlib.compressobj(wbits=31) if coding == "gzip" else zstd.ZstdCompressor()
    for _ in range(1024):
        bomb += squeeze.compress(bytes(1 << 20))
    bomb += squeeze.flush()
    assert len(bomb) < 2 << 20
    tracemalloc.start()
    try:
        read = 0
        for piece in made(coding).feed(bytes(bomb)):
            read += len(piece)
            if read >= 1 << 20:
                break
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 << 20


def test_a_zstd_window_past_what_http_allows_is_refused() -> None:
    options = {zstd.CompressionParameter.window_log: 24, zstd.CompressionParameter.content_size_flag: 0}
    squeeze = zstd.ZstdCompressor(options=options)
    body = squeeze.compress(bytes(1 << 20)) + squeeze.flush()
    with pytest.raises(Undecodable):
        decode("zstd", [body])


@pytest.mark.parametrize("fields", [[], [b""], [b"identity"], [b" IDENTITY "], [b","]])
def test_no_coding_is_nothing_to_undo(fields: list[bytes]) -> None:
    assert decoder(fields) is None


@pytest.mark.parametrize("field", [b"gzip", b"GZip", b" x-gzip ", b"zstd"])
def test_the_codings_that_are_undone(field: bytes) -> None:
    assert decoder([field]) is not None


@pytest.mark.parametrize(
    "fields",
    [[b"br"], [b"deflate"], [b"aws-chunked"], [b"gzip, gzip"], [b"gzip", b"zstd"], [b"identity, gzip"], [b"\xff"]],
)
def test_other_codings_are_refused_and_the_accepted_ones_told(fields: list[bytes]) -> None:
    with pytest.raises(UnsupportedMediaType, match="gzip, zstd") as caught:
        decoder(fields)
    assert caught.value.headers() == {"accept-encoding": "gzip, zstd"}
