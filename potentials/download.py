"""Getting a file over HTTP, or out of an archive that pip fetches."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as RichProgress

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
PIP_TIMEOUT_S = 1800.0
_BLOCK_BYTES = 1 << 18


class DownloadError(Exception):
    """One source did not deliver; the text says why, and the next source is tried."""


class Progress:
    """A progress bar on stderr, or nothing at all.

    Parameters
    ----------
    enabled
        Whether to show anything.
    """

    def __init__(self, enabled: bool) -> None:
        self._rich = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True, force_terminal=enabled or None),
            disable=not enabled,
        )

    def __enter__(self) -> Progress:
        self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rich.stop()

    def start(self, description: str, total_bytes: int) -> int:
        """Open a line of the display; returns its handle."""
        return int(self._rich.add_task(description, total=total_bytes))

    def set(self, task: int, completed_bytes: int) -> None:
        """Say how far a line is."""
        self._rich.update(task, completed=completed_bytes)  # type: ignore[arg-type]

    def end(self, task: int) -> None:
        """Take a line off the display."""
        self._rich.remove_task(task)  # type: ignore[arg-type]


def _resolves(host: str, timeout_s: float) -> bool:
    """Whether a host name resolves within a time; a machine without internet may wait minutes for its resolver."""
    answers: list[bool] = []

    def ask() -> None:
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            answers.append(False)
        else:
            answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return bool(answers and answers[0])


def download_file(
    url: str, target: Path, size_bytes: int, description: str, progress: Progress, unreachable: set[str]
) -> None:
    """Download one file.

    Parameters
    ----------
    url
        Address, http or https.
    target
        File to write; its content is not to be trusted before its hash is checked.
    size_bytes
        Expected length; a longer answer is cut off as an error.
    description
        Text in front of the progress bar.
    progress
        Display.
    unreachable
        Hosts that could not be connected to; skipped, and added to.

    Raises
    ------
    DownloadError
        The host cannot be reached, or does not answer with the file.
    """
    host = urlsplit(url).hostname or ""
    if host in unreachable:
        raise DownloadError(f"no connection to {host}")
    # Through a proxy, the proxy resolves the name.
    if not requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url)) and not _resolves(
        host, CONNECT_TIMEOUT_S
    ):
        unreachable.add(host)
        raise DownloadError(f"no connection to {host}")
    task = progress.start(description, size_bytes)
    try:
        with requests.get(url, stream=True, timeout=(CONNECT_TIMEOUT_S, READ_TIMEOUT_S)) as response:
            if response.status_code != requests.codes.ok:
                raise DownloadError(
                    f"{host} answered {response.status_code} {response.reason} for {urlsplit(url).path}"
                )
            done = 0
            with target.open("wb") as stream:
                for block in response.iter_content(_BLOCK_BYTES):
                    done += len(block)
                    if done > size_bytes:
                        raise DownloadError(f"{host} sent more than the {size_bytes} bytes of {target.name}")
                    stream.write(block)
                    progress.set(task, done)
    except requests.ConnectionError as error:
        unreachable.add(host)
        raise DownloadError(f"no connection to {host}") from error
    except requests.RequestException as error:
        raise DownloadError(f"{host}: {type(error).__name__}") from error
    finally:
        progress.end(task)


def _pip_command() -> list[str]:
    """How to run pip: this interpreter's, else one on the PATH."""
    probe = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
    if probe.returncode == 0:
        return [sys.executable, "-m", "pip"]
    if other := shutil.which("pip3") or shutil.which("pip"):
        return [other]
    raise DownloadError("this Python has no pip")


def _bytes_below(folder: Path) -> int:
    """Length of the largest file below a folder that other processes write to."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, (Path(root) / name).stat().st_size)
            except FileNotFoundError:
                continue
    return largest


def pip_download(
    requirement: str, sha256: str, size_bytes: int, work: Path, progress: Progress, wheel: bool = False
) -> Path:
    """Fetch a source distribution, or a wheel, from whatever package index pip is set up for.

    Parameters
    ----------
    requirement
        Exact requirement, for instance ``janus-core==0.8.1``.
    sha256
        SHA-256 of the archive. pip checks it before it runs the package's build backend for the metadata.
    size_bytes
        Length of the archive, for the progress bar.
    work
        Empty-handed folder to work in; the caller removes it.
    progress
        Display.
    wheel
        Take the wheel.

    Returns
    -------
    Path
        The archive.

    Raises
    ------
    DownloadError
        pip is not there, cannot reach an index, or the index has another file.
    """
    project = requirement.partition("==")[0]
    folder, scratch = work / "package", work / "scratch"
    for place in (folder, scratch):
        place.mkdir(exist_ok=True)
    wanted = work / "requirement.txt"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    # Only the package itself must be a source distribution: its build backend may come as a wheel.
    kind = ["--only-binary" if wheel else "--no-binary", project]
    command = [*_pip_command(), "download", "--no-deps", *kind, "--disable-pip-version-check"]
    command += ["--no-input", "--progress-bar", "off", "--timeout", "15", "--retries", "1", "-d", str(folder)]
    command += ["-r", str(wanted)]
    task = progress.start(f"{requirement} (Python package index)", size_bytes)
    log = work / "pip.log"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(scratch)},
            )
            try:
                _wait(process, scratch, task, progress)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
    finally:
        progress.end(task)
    archives = sorted(folder.glob("*.whl" if wheel else "*.tar.gz"))
    if process.returncode != 0 or not archives:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        raise DownloadError(f"pip could not download it ({errors[0] if errors else 'no message'})")
    return archives[0]


def _wait(process: subprocess.Popen[bytes], scratch: Path, task: int, progress: Progress) -> None:
    """Wait for pip while the progress bar follows the file that it writes."""
    waited_s, step_s = 0.0, 0.25
    while True:
        try:
            process.wait(timeout=step_s)
        except subprocess.TimeoutExpired:
            waited_s += step_s
            progress.set(task, _bytes_below(scratch))
            if waited_s > PIP_TIMEOUT_S:
                raise DownloadError(f"pip was still at it after {PIP_TIMEOUT_S / 60:.0f} minutes") from None
        else:
            return


def extract_members(archive: Path, members: dict[str, str], folder: Path) -> None:
    """Take single files out of a source distribution.

    Only the named regular files are read, and written under names that the caller chose; no path or link of the
    archive is followed.

    Parameters
    ----------
    archive
        A ``.tar.gz`` whose files lie in one ``name-version`` folder.
    members
        Path inside that folder -> file name to write.
    folder
        Where to write.

    Raises
    ------
    DownloadError
        The archive is damaged or lacks a file.
    """
    missing = dict(members)
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for info in tar:
                name = missing.get(info.name.partition("/")[2])
                if name is None or not info.isreg():
                    continue
                stream = tar.extractfile(info)
                if stream is None:
                    continue
                with stream, (folder / name).open("wb") as output:
                    shutil.copyfileobj(stream, output)
                del missing[info.name.partition("/")[2]]
                if not missing:
                    return
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DownloadError(f"the archive {archive.name} is damaged ({error})") from error
    raise DownloadError(f"the archive {archive.name} lacks {', '.join(missing)}")
