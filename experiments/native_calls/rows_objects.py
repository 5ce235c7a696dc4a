"""Objects with a lock of their own: compressors, digests, directory iterators; and the ones that have none."""

from __future__ import annotations

import bz2
import hashlib
import hmac
import lzma
import os
import queue
import random
import tempfile
import uuid
import zlib
from typing import Any

from lab import Forks, row

NOISE = random.Random(1).randbytes(2_000_000)


def _object(name: str, make: Any, hold: Any, child: Any, **options: Any) -> None:
    """One row for a child that uses the same object, one for a child that has its own."""
    needs = options.pop("needs", "")

    @row(f"{name} / child: the same object", needs=needs)
    def _() -> Forks:
        thing = make()
        return Forks(lambda: hold(thing), lambda: child(thing), **options)

    @row(f"{name} / child: its own", needs=needs)
    def _() -> Forks:
        thing = make()
        return Forks(lambda: hold(thing), lambda: child(make()), **{"forks": 60, **options})


_object("zlib.Compress.compress", zlib.compressobj, lambda o: o.compress(NOISE), lambda o: o.compress(b"x"))
_object(
    "zlib.Compress.flush",
    zlib.compressobj,
    lambda o: (o.compress(NOISE), o.flush(zlib.Z_SYNC_FLUSH)),
    lambda o: o.flush(),
)
_object("zlib.Decompress.decompress", zlib.decompressobj,
        lambda o: zlib.decompressobj().decompress(b"") if o.eof else o.decompress(_endless()), lambda o: o.decompress(b""))  # fmt: skip
_object(
    "bz2.BZ2Compressor.compress", bz2.BZ2Compressor, lambda o: o.compress(NOISE), lambda o: o.compress(b"x")
)


def _decompressor(name: str, module: Any, kind: Any) -> None:
    """The object is given much compressed data at the first call; each later one decompresses a part of it."""
    payload: list[bytes] = []
    made: list[Any] = []

    def make() -> Any:
        if not made:  # in the parent; a child only makes an object of its own
            payload.append(
                module.compress((NOISE * 4).hex().encode(), **({"preset": 0} if module is lzma else {}))
            )
        made.append(kind())
        return made[-1]

    def hold(thing: Any) -> None:
        thing.decompress(payload.pop() if payload else b"", 500_000)

    _object(name, make, hold, lambda o: None if o.eof else o.decompress(b"", 1), settle=0.01, forks=15)


_decompressor("bz2.BZ2Decompressor.decompress", bz2, bz2.BZ2Decompressor)
_decompressor("lzma.LZMADecompressor.decompress", lzma, lzma.LZMADecompressor)
_object("lzma.LZMACompressor.compress", lambda: lzma.LZMACompressor(preset=1), lambda o: o.compress(NOISE),
        lambda o: o.compress(b"x"))  # fmt: skip


def _endless(state: dict[str, Any] = {}) -> bytes:  # noqa: B006  kept between calls
    """More and more of one zlib stream that never ends."""
    if "c" not in state:
        state["c"] = zlib.compressobj(0)
    return bytes(state["c"].compress(NOISE))


_object(
    "hashlib.sha256 (OpenSSL) update", hashlib.sha256, lambda o: o.update(NOISE), lambda o: o.update(NOISE)
)
_object("hashlib.sha256 update / digest", hashlib.sha256, lambda o: o.update(NOISE), lambda o: o.hexdigest())
_object(
    "hashlib update of 2000 bytes",
    hashlib.sha256,
    lambda o: o.update(NOISE[:2000]),
    lambda o: o.update(NOISE[:2000]),
)
_object(
    "hmac (OpenSSL) update",
    lambda: hmac.new(b"k", digestmod="sha256"),
    lambda o: o.update(NOISE),
    lambda o: o.update(NOISE),
)
_object("blake2b update", hashlib.blake2b, lambda o: o.update(NOISE), lambda o: o.update(NOISE))


def _own_digest(module: str, name: str, **options: Any) -> None:
    def make() -> Any:
        return getattr(__import__(module), name)()

    _object(f"{module}.{name} update", make, lambda o: o.update(NOISE), lambda o: o.update(NOISE), **options)


_own_digest("_sha1", "sha1")
_own_digest("_md5", "md5")
_own_digest("_sha3", "sha3_256")
_own_digest("_sha2", "sha256", needs=">=3.12")
_own_digest("_sha2", "sha512", needs=">=3.12")


def _hmac_object() -> Any:
    import _hmac

    return _hmac.new(b"k", None, "sha256")


_object(
    "_hmac.HMAC update", _hmac_object, lambda o: o.update(NOISE), lambda o: o.update(NOISE), needs=">=3.14"
)


def _zstd() -> Any:
    from compression import zstd  # type: ignore[import-not-found,unused-ignore]

    return zstd.ZstdCompressor()


_object(
    "zstd.ZstdCompressor.compress",
    _zstd,
    lambda o: o.compress(NOISE),
    lambda o: o.compress(b"x"),
    needs=">=3.14",
)


def _zlib_decompressor() -> Any:
    return zlib._ZlibDecompressor()  # type: ignore[attr-defined,unused-ignore]


_object("zlib._ZlibDecompressor.decompress", _zlib_decompressor, lambda o: o.decompress(_endless()),
        lambda o: o.decompress(b"", 1), needs=">=3.12")  # fmt: skip


@row("one-shot zlib, bz2, lzma, hashlib, crc32")
def _() -> Forks:
    def hold() -> None:
        zlib.compress(NOISE, 1)
        zlib.crc32(NOISE)
        hashlib.sha256(NOISE)
        bz2.compress(NOISE[:200_000])

    def child() -> None:
        zlib.compress(b"x")
        hashlib.sha256(NOISE)
        bz2.compress(b"x")
        lzma.compress(b"x")

    return Forks(hold, child, threads=2, forks=60)


@row("random, os.urandom, uuid, secrets")
def _() -> Forks:
    def call() -> None:
        random.random()
        os.urandom(1_000_000)
        random.SystemRandom().random()
        uuid.uuid4()
        uuid.uuid1()
        os.getrandom(1000)

    return Forks(call, call, threads=2, forks=100)


@row("SimpleQueue.get, waiting / child: put and get")
def _() -> Forks:
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()

    def child() -> None:
        waiting.put(1)
        assert waiting.get() == 1

    return Forks(waiting.get, child, blocks=True, forks=20)


def _folder() -> str:
    folder = tempfile.mkdtemp()
    for number in range(3000):
        with open(f"{folder}/a-file-with-a-rather-long-name-{number}", "w"):
            pass
    return folder


@row("os.scandir iterator / child: the same iterator", strace=("getdents64",), delay=10_000)
def _() -> Forks:
    folder = _folder()
    shared = [os.scandir(folder)]

    def hold() -> None:
        for _entry in shared[0]:
            pass
        shared[0] = os.scandir(folder)

    return Forks(hold, lambda: next(shared[0], None), forks=60)


@row("os.scandir, os.listdir / child: its own", strace=("getdents64",), delay=5_000)
def _() -> Forks:
    folder = _folder()
    return Forks(
        lambda: (os.listdir(folder), list(os.scandir(folder))), lambda: list(os.scandir(folder)), forks=60
    )
