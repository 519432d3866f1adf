"""Files fetched from an address: resumed, verified before use, whole or not at all.

What has arrived lies in ``.NAME.partial`` beside its place, and ``.NAME.partial.json`` says of which version of the
file it is the beginning. The next try asks for the missing bytes of that very version (RFC 9110, If-Range) and starts
anew if the server has another. Nothing that is fetched is executed or unpacked.
"""

import fcntl
import os
import re
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse, responses
from io import FileIO
from pathlib import Path
from typing import IO, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from tspbench import __version__
from tspbench.config import Settings
from tspbench.errors import UserError
from tspbench.progress import Advance
from tspbench.storage.atomic import replacing, write_json
from tspbench.storage.catalog import DATA_VARIABLE, Entry
from tspbench.storage.hashes import hash_file

TIMEOUT_SECONDS: Final = 30.0
# Waits before the second and third try, when a transfer breaks off or a server is too busy.
PAUSES_SECONDS: Final = (1.0, 5.0)
CHUNK_BYTES: Final = 1 << 20
_BUSY: Final = frozenset({408, 429, 500, 502, 503, 504})


class _BrokenOffError(Exception):
    """A transfer that another try may finish; the text says what happened."""


class _Version(Settings):
    """Which content an address had: what a partial file is the beginning of."""

    address: str
    bytes: int | None
    etag: str | None
    modified: str | None

    @property
    def validator(self) -> str | None:
        """The value of If-Range; a weak tag (W/"…") does not promise the same bytes and must not stand there."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


def fetch(entry: Entry, report: Advance, timeout_seconds: float = TIMEOUT_SECONDS) -> Path:
    """Return the path of an entry's file, which is fetched unless it is there.

    Args:
        entry: of the catalog.
        report: told how many bytes have arrived, and of how many (0: unknown).
        timeout_seconds: how long a server may be silent.

    Raises:
        UserError: the file that is there is another one; or it cannot be fetched, is not the one that the catalog
            describes, or cannot be written. What has arrived is kept, unless it is wrong.
    """
    path = entry.path
    if path.exists():
        problem = _problem(entry, path)
        if problem:
            raise UserError(
                f"{path} {problem}, so it is not {entry.name} as released: move it away, then run "
                f"`tspbench fetch {entry.name}` again."
            )
        return path
    if entry.address is None:
        raise UserError(f"{entry.name} has no address: {entry.by_hand} to {path} ({_licence(entry)}).")
    with _partial(path) as file:
        _complete(entry, entry.address, file, report, timeout_seconds)
        partial = Path(file.name)
        problem = _problem(entry, partial)
        if problem:
            _forget(partial)
            raise _failure(entry, f"what came {problem}, and was removed")
        with replacing(path) as temporary:
            os.fsync(file.fileno())
            partial.replace(temporary)
        _forget(partial)
    return path


def _problem(entry: Entry, path: Path) -> str | None:
    """Return what about a file is not as the catalog has it; one without content is wrong, whatever is known of it."""
    size = path.stat().st_size
    if path.is_file() and not size:
        return "is empty"
    if entry.bytes is not None and size != entry.bytes:
        return f"has {size} bytes instead of {entry.bytes}"
    if entry.sha256 is None:
        return None
    found = hash_file(path)[: len(entry.sha256)]
    return None if found == entry.sha256 else f"has the SHA-256 {found} instead of {entry.sha256}"


@contextmanager
def _partial(path: Path) -> Iterator[FileIO]:
    """Open the partial sibling of ``path`` for this process alone; an empty one does not stay."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(partial, "a+")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): set {DATA_VARIABLE} to another folder."
        ) from error
    with file:
        if not _is_mine(file, partial):
            raise UserError(
                f"{path} is being fetched by another process: wait for it, then run the same command again."
            )
        try:
            yield file
        finally:
            if partial.exists() and not partial.stat().st_size:
                _forget(partial)


def _is_mine(file: FileIO, partial: Path) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    # The process that had the lock may have finished and renamed the file since it was opened here.
    return partial.exists() and os.path.samestat(os.fstat(file.fileno()), partial.stat())


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _card(partial).unlink(missing_ok=True)


def _card(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _complete(entry: Entry, address: str, file: FileIO, report: Advance, timeout_seconds: float) -> None:
    """Transfer what a partial file lacks, in a few tries."""
    for pause in (*PAUSES_SECONDS, None):
        try:
            _transfer(entry, address, file, report, timeout_seconds)
        except _BrokenOffError as error:
            if pause is None:
                kept = "; what has arrived is kept" if _resumable(address, Path(file.name)) else ""
                raise _failure(entry, f"{error}{kept}") from error
            time.sleep(pause)
        else:
            return


def _transfer(entry: Entry, address: str, file: FileIO, report: Advance, timeout_seconds: float) -> None:
    partial = Path(file.name)
    known = _resumable(address, partial)
    done = partial.stat().st_size if known else 0
    if known and done == known.bytes:
        return
    response = _ask(entry, address, known, done, timeout_seconds)
    if response is None:
        file.truncate(0)
        raise _BrokenOffError("it has fewer bytes than had arrived")
    with response:
        version = _version(address, response)
        if response.status == 200:
            _check_offer(entry, version, response)
            file.truncate(0)
            done = 0
            write_json(_card(partial), version.model_dump())
        elif not _continues(response, version, known, done):
            file.truncate(0)
            raise _BrokenOffError(f"it answered with bytes that were not asked for (status {response.status})")
        report(done, version.bytes or 0)
        for chunk in _chunks(response):
            _append(file, chunk, entry.path)
            done += len(chunk)
            report(done, version.bytes or 0)
    if version.bytes is not None and done != version.bytes:
        raise _BrokenOffError(f"the transfer broke off after {done} of {version.bytes} bytes")


def _resumable(address: str, partial: Path) -> _Version | None:
    """Return what the partial file is the beginning of, None if nothing can be added to it."""
    try:
        known = _Version.model_validate_json(_card(partial).read_bytes())
    except (OSError, ValueError):
        return None
    fits = known.address == address and known.validator and partial.stat().st_size
    return known if fits else None


def _ask(entry: Entry, address: str, known: _Version | None, done: int, timeout_seconds: float) -> HTTPResponse | None:
    """Return the answer to a request for the bytes from ``done`` on, None if there are none in the version known."""
    headers = {"User-Agent": f"tspbench/{__version__}", "Accept-Encoding": "identity"}
    if known and known.validator:
        headers |= {"Range": f"bytes={done}-", "If-Range": known.validator}
    try:
        request = urllib.request.Request(address, headers=headers)  # noqa: S310 - the opener speaks http(s) alone
        response: HTTPResponse = _opener().open(request, timeout=timeout_seconds)
    except HTTPError as error:
        error.close()
        if error.code == 416 and known:
            return None
        what = f"it answered with {error.code} {responses.get(error.code, '')}".rstrip()
        if error.code in _BUSY:
            raise _BrokenOffError(what) from error
        if error.code // 100 == 3:
            what = "it redirects without end or to an address that is not safe"
        raise _failure(entry, what) from error
    except (OSError, HTTPException) as error:
        raise _failure(entry, _network_words(error)) from error
    return response


def _version(address: str, response: HTTPResponse) -> _Version:
    total = response.length
    if response.status == 206:
        match = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
        total = int(match[1]) if match else None
    etag, modified = (response.headers.get(name) for name in ("ETag", "Last-Modified"))
    return _Version(address=address, bytes=total, etag=etag, modified=modified)


def _continues(response: HTTPResponse, version: _Version, known: _Version | None, done: int) -> bool:
    """Tell whether a partial answer goes on where the partial file ends, in the same version of the file."""
    if known is None or response.status != 206:
        return False
    starts = response.headers.get("Content-Range", "").startswith(f"bytes {done}-")
    tags = ((known.etag, version.etag), (known.modified, version.modified))
    same = all(old == new for old, new in tags if old is not None and new is not None)
    return starts and same and known.bytes in (None, version.bytes)


def _check_offer(entry: Entry, version: _Version, response: HTTPResponse) -> None:
    if entry.bytes is not None and version.bytes not in (None, entry.bytes):
        raise _failure(entry, f"it has {version.bytes} bytes there instead of {entry.bytes}")
    if response.headers.get_content_type() == "text/html":
        raise _failure(entry, "a web page came instead, perhaps of a network that asks for a login")


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)  # what has arrived: nothing of it is lost if the rest does not come
        except (OSError, HTTPException) as error:
            raise _BrokenOffError(f"the transfer broke off: {_network_words(error)}") from error
        if not chunk:
            return
        yield chunk


def _append(file: FileIO, chunk: bytes, path: Path) -> None:
    rest = memoryview(chunk)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): make room or set {DATA_VARIABLE} to a folder on another "
            "disk, then run the same command again; what has arrived is kept."
        ) from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http(s) alone, and from https to https alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request to the new address; an `HTTPError` refuses it."""
        safe = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in safe:
            raise HTTPError(req.full_url, code, "not a safe redirect", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener of http and https, through the proxies of the environment; files and FTP are unknown to it."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _network_words(error: OSError | HTTPException) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    kind = "no secure connection" if isinstance(reason, ssl.SSLError) else "no connection"
    return f"{kind} ({' '.join(str(getattr(reason, 'strerror', None) or reason).split())})"


def _failure(entry: Entry, what: str) -> UserError:
    return UserError(
        f"{entry.name} could not be fetched from {entry.address} ({what}): run the same command again, or put the file "
        f"at {entry.path} by hand ({_licence(entry)})."
    )


def _licence(entry: Entry) -> str:
    return f"licence: {entry.licence}"
