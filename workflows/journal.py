"""The embedded store's file: a log of framed records, appended with fsync, rewritten by atomic replacement.

One file is both snapshot and journal, so a stale journal can never meet a newer snapshot: compaction writes a new
log that holds each live document once, and renames it over the old one.

Layout: ``HEADER``, then frames of ``mark, payload bytes, CRC-32, sequence number, payload``. A payload is a row of BSON
documents, the entries of one state change. A frame that a crash tore off at the end of the file is ignored; a damaged
frame with sound frames after it cannot come from a crash, and is refused.
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import bson

from ..transport.errors import HopflowError

HEADER = b"hopflow store 1\n"
_MARK = b"\xf1HF\x01"
_FRAME = struct.Struct("<4sIIQ")
_FRAME_TARGET_BYTES = 4 << 20


class DatabaseError(HopflowError):
    """The database cannot be used; the text is one sentence that says why and what to do."""


def _checksum(sequence: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(sequence.to_bytes(8, "little")))


def encode_frame(sequence: int, payload: bytes) -> bytes:
    """One record of the log."""
    return _FRAME.pack(_MARK, len(payload), _checksum(sequence, payload), sequence) + payload


def _read_frame(handle: BinaryIO) -> tuple[int, bytes] | None:
    """Sequence number and payload of the frame at the handle's position; None where no sound frame starts."""
    head = handle.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    mark, length, checksum, sequence = _FRAME.unpack(head)
    if mark != _MARK:
        return None
    payload = handle.read(length)
    if len(payload) < length or _checksum(sequence, payload) != checksum:
        return None
    return sequence, payload


def fsync_directory(directory: Path) -> None:
    """Make a rename or a new file in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file so that `path` holds either its old or its new content, whatever happens on the way."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_directory(path.parent)


class Journal:
    """The log of one embedded store.

    Parameters
    ----------
    path
        The log file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sequence = 0
        self.bytes = 0
        self.bytes_when_compact = 0
        self._descriptor: int | None = None

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the entries of every sound record, in order.

        Raises
        ------
        DatabaseError
            The file is not a store of this version, or is damaged before its end.
        """
        self.sequence = self.bytes = 0
        if not self.path.exists():
            return
        with self.path.open("rb") as handle:
            header = handle.read(len(HEADER))
            if header != HEADER:
                if HEADER.startswith(header):  # the very first write was cut short: nothing was stored yet
                    return
                raise DatabaseError(f"{self.path} is not a store that this version of hopflow can read.")
            self.bytes = len(HEADER)
            while True:
                while frame := _read_frame(handle):
                    self.sequence, payload = frame
                    self.bytes = handle.tell()
                    yield from bson.decode_all(payload)
                sound = self._sound_frame_follows(handle)
                handle.seek(self.bytes)
                if not sound:
                    break
                # A writer may have finished this very frame since; then a second look finds it sound.
                if not _read_frame(handle):
                    raise DatabaseError(
                        f"{self.path} is damaged at byte {self.bytes}, with sound records after it; "
                        "restore the file from a backup."
                    )
                handle.seek(self.bytes)
        self.bytes_when_compact = self.bytes

    def _sound_frame_follows(self, handle: BinaryIO) -> bool:
        """Whether a sound frame starts anywhere behind the first frame that is not."""
        handle.seek(self.bytes)
        tail = handle.read()
        at = tail.find(_MARK, 1)
        while at >= 0:
            handle.seek(self.bytes + at)
            if _read_frame(handle):
                return True
            at = tail.find(_MARK, at + 1)
        return False

    def open(self) -> None:
        """Make ready for appending: create the file where there is none, cut off a torn tail."""
        fresh = not self.path.exists()
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        if self.bytes < len(HEADER):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, HEADER, 0)
            self.bytes = self.bytes_when_compact = len(HEADER)
        else:
            os.ftruncate(self._descriptor, self.bytes)
        os.fsync(self._descriptor)
        if fresh:
            fsync_directory(self.path.parent)

    def append(self, entries: Iterable[bytes], *, counts: bool = True) -> None:
        """Write one record and wait until it is on the disk.

        Parameters
        ----------
        entries
            BSON documents; all of them are kept or, after a crash, none.
        counts
            Whether the record changes the stored data, and so the sequence number.

        Raises
        ------
        DatabaseError
            The record could not be written; the file is as it was.
        """
        if self._descriptor is None:
            raise DatabaseError(f"The store {self.path} is closed.")
        sequence = self.sequence + counts
        frame = memoryview(encode_frame(sequence, b"".join(entries)))
        try:
            written = 0
            while written < len(frame):
                written += os.pwrite(self._descriptor, frame[written:], self.bytes + written)
            os.fdatasync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.bytes)
            raise DatabaseError(f"Nothing can be written to {self.path} ({error.strerror}).") from error
        self.bytes += len(frame)
        self.sequence = sequence

    def rewrite(self, entries: Iterable[bytes]) -> None:
        """Replace the log by one that holds `entries` alone, atomically, and go on appending to it."""
        with atomic_file(self.path) as handle:
            handle.write(HEADER)
            batch: list[bytes] = []
            size = 0
            for entry in entries:
                batch.append(entry)
                size += len(entry)
                if size > _FRAME_TARGET_BYTES:
                    handle.write(encode_frame(self.sequence, b"".join(batch)))
                    batch, size = [], 0
            handle.write(encode_frame(self.sequence, b"".join(batch)))
            end = handle.tell()
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = os.open(self.path, os.O_RDWR)
        self.bytes = self.bytes_when_compact = end

    def close(self) -> None:
        """Close the file; what was appended stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
