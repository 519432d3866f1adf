import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from dataclasses import dataclass, field, replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError

import pytest

from tests.tspbench.helpers import full_disk, names, one_sentence, silent
from tspbench import __version__
from tspbench.errors import UserError
from tspbench.storage import download
from tspbench.storage.catalog import DATA_VARIABLE, Entry
from tspbench.storage.download import fetch

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes
OTHER = CONTENT[::-1]
HALF = 150_000


@dataclass
class Site:
    """What the server holds and how it behaves; ``asked`` are the requests that came."""

    content: bytes = CONTENT
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"', "Content-Type": "application/x-any"})
    cut: int | None = None  # the connection ends once this byte of the file was sent
    stall: bool = False  # it stays open instead, and silent
    ranges: bool = True
    conditions: bool = True  # whether If-Range is heeded
    sized: bool = True
    status: list[int] = field(default_factory=list)  # answers to the next requests, instead of the file
    location: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    done: threading.Event = field(default_factory=threading.Event)

    def first_byte(self, request):
        """Return where the answer to a request begins, None where it is the whole file."""
        wanted = re.fullmatch(r"bytes=(\d+)-", request.get("Range", "")) if self.ranges else None
        valid = {self.headers.get("ETag"), self.headers.get("Last-Modified")}
        if wanted is None or (self.conditions and request["If-Range"] not in valid):
            return None
        return int(wanted[1])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        site = self.server.site
        site.asked.append(dict(self.headers))
        self.close_connection = True
        if self.path.startswith("/moved"):
            return self.answer(302, b"", {"Location": site.location})
        if site.status:
            return self.answer(site.status.pop(0), b"sorry", {})
        start = site.first_byte(self.headers)
        total = len(site.content)
        if start is not None and start >= total:
            return self.answer(416, b"", {"Content-Range": f"bytes */{total}"})
        extra = {} if start is None else {"Content-Range": f"bytes {start}-{total - 1}/{total}"}
        return self.answer(200 if start is None else 206, site.content, site.headers | extra, start or 0)

    def answer(self, status, content, headers, start=0):
        site = self.server.site
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if site.sized or status >= 300:
            self.send_header("Content-Length", str(len(content) - start))
        else:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cut = None if site.cut is None else max(site.cut, start)
        body = content[start:cut]
        with contextlib.suppress(ConnectionError):
            if site.sized or status >= 300:
                self.wfile.write(body)
            else:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(body), body))
                if cut is None:
                    self.wfile.write(b"0\r\n\r\n")
            if site.stall and cut is not None:
                self.wfile.flush()
                site.done.wait(20)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Serve a file on loopback; the data root is a new folder and nobody waits between tries."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0, 0.0))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.site = Site(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.site
    server.site.done.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def entry(site):
    digits = hashlib.sha256(CONTENT).hexdigest()[:8]
    return Entry("file", "weights", "file.pth", "weights", f"{site.url}/file.pth", None, digits, "MIT", "this test")


def partial(entry):
    return entry.path.with_name(f".{entry.file}.partial")


def interrupted(entry, site, monkeypatch):
    """Fetch until the transfer breaks off in the middle for the last time, as a first session of a user does."""
    monkeypatch.setattr(download, "PAUSES_SECONDS", ())
    site.cut = HALF
    with one_sentence(f"broke off after {HALF} of {len(CONTENT)} bytes", "what has arrived is kept"):
        fetch(entry, silent)
    site.cut = None
    assert partial(entry).read_bytes() == CONTENT[:HALF]
    assert not entry.path.exists()


def refused(entry, *parts, **options):
    """Expect that a fetch fails with a sentence that names the file, its address, its place and its licence."""
    parts = (entry.name, entry.address, entry.path, "by hand", "licence: MIT", *parts)
    with one_sentence(*parts):
        fetch(entry, silent, **options)
    assert not entry.path.exists()


def test_a_file_is_fetched_whole(entry, site):
    seen = []
    assert fetch(entry, lambda done, total: seen.append((done, total))) == entry.path
    assert entry.path.read_bytes() == CONTENT
    assert names(entry.path.parent) == ["file.pth"]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert [request["User-Agent"] for request in site.asked] == [f"tspbench/{__version__}"]
    assert "Range" not in site.asked[0]


def test_a_file_that_is_there_is_not_fetched_again(entry, site):
    fetch(entry, silent)
    assert fetch(entry, silent) == entry.path
    assert len(site.asked) == 1


@pytest.mark.parametrize(
    ("changes", "part"), [({}, "has the SHA-256"), ({"sha256": None, "bytes": 5}, "has 7 bytes instead of 5")]
)
def test_another_file_that_is_there_stays_and_is_told(entry, site, changes, part):
    entry = replace(entry, **changes)
    entry.path.parent.mkdir(parents=True)
    entry.path.write_bytes(b"another")
    with one_sentence(entry.path, part, "move it away", "`tspbench fetch file`"):
        fetch(entry, silent)
    assert entry.path.read_bytes() == b"another"
    assert not site.asked


def test_a_file_of_unknown_size_and_checksum_is_taken_as_it_is(entry):
    entry = replace(entry, sha256=None)
    entry.path.parent.mkdir(parents=True)
    entry.path.write_bytes(b"whatever")
    assert fetch(entry, silent) == entry.path
    entry.path.unlink()
    assert fetch(entry, silent).read_bytes() == CONTENT


def test_an_entry_without_address_says_what_to_do(entry, site):
    entry = replace(entry, address=None, by_hand="copy it")
    with one_sentence("file", "copy it to", entry.path, "licence: MIT"):
        fetch(entry, silent)
    assert not entry.path.parent.exists()


@pytest.mark.parametrize(
    "headers", [{"ETag": '"one"'}, {"Last-Modified": "Tue, 01 Jun 2021 10:00:00 GMT"}, {"ETag": 'W/"one"'}]
)
def test_an_interrupted_fetch_goes_on_with_the_missing_bytes(entry, site, monkeypatch, headers):
    weak = headers.get("ETag", "").startswith("W/")
    site.headers = headers
    if weak:  # promises nothing about bytes: not a word of what is kept, and another time all is asked for
        monkeypatch.setattr(download, "PAUSES_SECONDS", ())
        site.cut = HALF
        with pytest.raises(UserError, match=r"broke off after 150000 of 307200 bytes\)"):
            fetch(entry, silent)
        site.cut = None
    else:
        interrupted(entry, site, monkeypatch)
    seen = []
    fetch(entry, lambda done, total: seen.append((done, total)))
    assert entry.path.read_bytes() == CONTENT
    assert names(entry.path.parent) == ["file.pth"]
    assert site.asked[-1].get("Range") == (None if weak else f"bytes={HALF}-")
    assert site.asked[-1].get("If-Range") == (None if weak else next(iter(headers.values())))
    assert seen[0] == (0 if weak else HALF, len(CONTENT))


def test_a_fetch_that_breaks_off_is_tried_again_a_few_times(entry, site):
    site.cut = 100
    refused(entry, f"broke off after 100 of {len(CONTENT)} bytes")
    assert [request.get("Range") for request in site.asked] == [None, "bytes=100-", "bytes=100-"]


def test_a_try_that_succeeds_ends_the_tries(entry, site):
    site.status = [503, 500]
    assert fetch(entry, silent).read_bytes() == CONTENT
    assert len(site.asked) == 3


def test_a_server_that_ignores_ranges_sends_all_of_it_anew(entry, site, monkeypatch):
    interrupted(entry, site, monkeypatch)
    site.ranges = False
    assert fetch(entry, silent).read_bytes() == CONTENT
    assert site.asked[-1]["Range"] == f"bytes={HALF}-"


@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize("size", [len(CONTENT), len(CONTENT) + 1000])
def test_a_file_that_changed_in_between_is_fetched_anew(entry, site, monkeypatch, conditions, size):
    """Without conditions the server ignores If-Range and answers with the end of the new file."""
    entry = replace(entry, sha256=None)
    interrupted(entry, site, monkeypatch)
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0,))
    site.content = (OTHER * 2)[:size]
    site.headers, site.conditions = {"ETag": '"two"'}, conditions
    assert fetch(entry, silent).read_bytes() == site.content
    assert [request.get("Range") for request in site.asked[1:]] == [f"bytes={HALF}-", None][: 2 - conditions]


@pytest.mark.parametrize("conditions", [True, False])
def test_a_file_that_shrank_in_between_is_fetched_anew(entry, site, monkeypatch, conditions):
    """Without conditions the server says that the range cannot be satisfied (416)."""
    entry = replace(entry, sha256=None)
    interrupted(entry, site, monkeypatch)
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0,))
    site.content, site.headers, site.conditions = OTHER[:1000], {"ETag": '"two"'}, conditions
    assert fetch(entry, silent).read_bytes() == OTHER[:1000]


def test_another_size_under_the_same_tag_is_another_file(entry, site, monkeypatch):
    entry = replace(entry, sha256=None)
    interrupted(entry, site, monkeypatch)
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0,))
    site.content = OTHER + OTHER
    assert fetch(entry, silent).read_bytes() == OTHER + OTHER


def test_bytes_that_were_not_asked_for_are_not_added(entry, site, monkeypatch):
    entry = replace(entry, sha256=None)
    interrupted(entry, site, monkeypatch)
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0,))
    site.first_byte = lambda request: HALF - 1 if "Range" in request else None
    assert fetch(entry, silent).read_bytes() == CONTENT


def test_more_bytes_than_the_file_has_are_forgotten(entry, site, monkeypatch):
    interrupted(entry, site, monkeypatch)
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0,))
    partial(entry).write_bytes(CONTENT + b"x")
    assert fetch(entry, silent).read_bytes() == CONTENT
    assert "Range" not in site.asked[-1]


def test_what_began_at_another_address_is_fetched_anew(entry, site, monkeypatch):
    interrupted(entry, site, monkeypatch)
    fetch(replace(entry, address=f"{site.url}/elsewhere/file.pth"), silent)
    assert "Range" not in site.asked[-1]


@pytest.mark.parametrize("card", [None, b"", b"{}", b'{"address": 1}', b"\xff"])
def test_a_beginning_of_nobody_knows_what_is_fetched_anew(entry, site, monkeypatch, card):
    interrupted(entry, site, monkeypatch)
    beside = partial(entry).with_name(partial(entry).name + ".json")
    assert json.loads(beside.read_bytes())["etag"] == '"one"'
    beside.unlink() if card is None else beside.write_bytes(card)
    assert fetch(entry, silent).read_bytes() == CONTENT
    assert "Range" not in site.asked[-1]


def test_what_had_arrived_whole_needs_no_network(entry, site, monkeypatch):
    interrupted(entry, site, monkeypatch)
    partial(entry).write_bytes(CONTENT)
    assert fetch(entry, silent).read_bytes() == CONTENT
    assert len(site.asked) == 1


def test_a_file_of_unknown_length_is_fetched_and_resumed(entry, site, monkeypatch):
    site.sized, site.cut = False, HALF
    monkeypatch.setattr(download, "PAUSES_SECONDS", ())
    refused(entry, "broke off", "is kept")
    assert partial(entry).read_bytes() == CONTENT[:HALF]
    site.cut = None
    seen = []
    assert fetch(entry, lambda done, total: seen.append((done, total))).read_bytes() == CONTENT
    assert site.asked[-1]["Range"] == f"bytes={HALF}-"
    assert seen[-1] == (len(CONTENT), len(CONTENT))  # told by Content-Range


def test_an_unknown_total_is_reported_as_0(entry, site):
    site.sized = False
    seen = []
    fetch(entry, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(CONTENT), 0)


@pytest.mark.parametrize("begun", [False, True])
def test_a_wrong_checksum_leaves_nothing_behind(entry, site, monkeypatch, begun):
    if begun:
        interrupted(entry, site, monkeypatch)
        content = bytearray(CONTENT)
        content[0] ^= 1
        partial(entry).write_bytes(content[:HALF])
    else:
        site.content = OTHER
    wrong = hashlib.sha256(bytes(content) if begun else OTHER).hexdigest()[:8]
    refused(entry, f"has the SHA-256 {wrong} instead of {entry.sha256}", "removed")
    assert names(entry.path.parent) == []


def test_a_whole_checksum_is_compared_whole(entry):
    whole = hashlib.sha256(CONTENT).hexdigest()
    last = "0" if whole[-1] != "0" else "1"
    refused(replace(entry, sha256=whole[:-1] + last), "SHA-256")
    assert fetch(replace(entry, sha256=whole), silent).read_bytes() == CONTENT


def test_a_wrong_length_is_refused_before_it_is_fetched(entry, site):
    reports = []
    entry = replace(entry, bytes=len(CONTENT) + 1)
    with one_sentence(entry.path, f"{len(CONTENT)} bytes there instead of {len(CONTENT) + 1}"):
        fetch(entry, lambda *a: reports.append(a))
    assert not reports
    assert names(entry.path.parent) == []


def test_a_wrong_length_that_nobody_announced_is_refused(entry, site):
    site.sized = False
    refused(replace(entry, bytes=len(CONTENT) + 1), f"has {len(CONTENT)} bytes instead of {len(CONTENT) + 1}")
    assert names(entry.path.parent) == []


@pytest.mark.parametrize(
    ("status", "words", "tries"),
    [(404, "404 Not Found", 1), (403, "403 Forbidden", 1), (500, "500 Internal Server Error", 3), (599, "599", 1)],
)
def test_a_refusal_is_one_sentence(entry, site, status, words, tries):
    site.status = [status] * 5
    refused(entry, f"(it answered with {words})")
    assert len(site.asked) == tries
    assert names(entry.path.parent) == []


def test_a_login_page_is_not_taken_for_the_file_and_costs_nothing(entry, site, monkeypatch):
    entry = replace(entry, sha256=None)
    interrupted(entry, site, monkeypatch)
    site.content, site.headers = b"<html>", {"Content-Type": "text/html; charset=utf-8"}
    refused(entry, "a web page came instead")
    assert partial(entry).read_bytes() == CONTENT[:HALF]


def test_no_network_is_one_sentence(entry):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        entry = replace(entry, address=f"http://127.0.0.1:{unused.getsockname()[1]}/file.pth")
        refused(entry, "no connection (Connection refused)")
    assert names(entry.path.parent) == []


def test_an_unknown_host_is_one_sentence(entry, monkeypatch):
    def unknown(*_args, **_options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    refused(
        replace(entry, address="https://no-such-host.invalid/file.pth"), "no connection (Name or service not known)"
    )


def test_an_untrusted_or_broken_connection_is_one_sentence(entry, site):
    """The server on loopback does not speak TLS."""
    refused(replace(entry, address=entry.address.replace("http", "https")), "no secure connection")


def test_silence_before_an_answer_is_one_sentence(entry):
    with socket.create_server(("127.0.0.1", 0)) as silent_server:
        entry = replace(entry, address=f"http://127.0.0.1:{silent_server.getsockname()[1]}/file.pth")
        refused(entry, "no answer in time", timeout_seconds=0.2)


def test_silence_in_the_middle_keeps_what_has_arrived(entry, site, monkeypatch):
    monkeypatch.setattr(download, "PAUSES_SECONDS", (0.0,))
    site.cut, site.stall = HALF, True
    refused(entry, "the transfer broke off: no answer in time", "kept", timeout_seconds=0.2)
    assert partial(entry).read_bytes() == CONTENT[:HALF]
    assert len(site.asked) == 2


@pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x"])
def test_only_http_is_spoken(entry, address):
    refused(replace(entry, address=address), "unknown url type")


def test_a_redirect_is_followed_and_keeps_the_range(entry, site, monkeypatch):
    site.location = "/file.pth"
    entry = replace(entry, address=f"{site.url}/moved")
    interrupted(entry, site, monkeypatch)
    assert fetch(entry, silent).read_bytes() == CONTENT
    assert site.asked[-1]["Range"] == f"bytes={HALF}-"
    assert site.asked[-1]["If-Range"] == '"one"'


@pytest.mark.parametrize("location", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "/moved", ""])
def test_a_redirect_to_elsewhere_is_refused(entry, site, location):
    site.location = location
    refused(replace(entry, address=f"{site.url}/moved"), "redirects without end or to an address that is not safe")


@pytest.mark.parametrize(
    ("origin", "target", "followed"),
    [("https", "https", True), ("http", "https", True), ("http", "http", True), ("https", "http", False)],
)
def test_a_redirect_never_leaves_https(origin, target, followed):
    request = urllib.request.Request(f"{origin}://a.example/file")
    arguments = (request, None, 302, "Found", Message(), f"{target}://b.example/file")
    if followed:
        assert download._Redirects().redirect_request(*arguments).full_url == f"{target}://b.example/file"
    else:
        with pytest.raises(HTTPError):
            download._Redirects().redirect_request(*arguments)


def test_a_full_disk_keeps_what_has_arrived(entry, site):
    with one_sentence(entry.path, "cannot be written", "make room", DATA_VARIABLE, "is kept"), full_disk(HALF):
        fetch(entry, silent)
    assert partial(entry).read_bytes() == CONTENT[:HALF]
    assert fetch(entry, silent).read_bytes() == CONTENT
    assert site.asked[-1]["Range"] == f"bytes={HALF}-"


def test_no_space_left_at_the_very_end_keeps_what_has_arrived(entry, site, monkeypatch):
    fsync = os.fsync

    def refuse(handle):
        if os.fstat(handle).st_size == len(CONTENT):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with one_sentence(entry.path, "No space left on device", "make room"):
            fetch(entry, silent)
    assert fetch(entry, silent).read_bytes() == CONTENT
    assert len(site.asked) == 1


def test_a_folder_that_cannot_be_made_is_one_sentence(entry, site):
    entry.path.parent.parent.mkdir()
    entry.path.parent.write_text("in the way")
    with one_sentence(entry.path, "cannot be written", DATA_VARIABLE):
        fetch(entry, silent)
    assert not site.asked


def test_an_interrupt_by_the_user_keeps_what_has_arrived(entry, site):
    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(entry, interrupt)
    kept = partial(entry).stat().st_size
    assert 0 < kept <= len(CONTENT)
    assert fetch(entry, silent).read_bytes() == CONTENT
    assert len(site.asked) == (1 if kept == len(CONTENT) else 2)
    assert site.asked[-1].get("Range") == (None if kept == len(CONTENT) else f"bytes={kept}-")


def test_a_kill_keeps_what_has_arrived(entry, site):
    site.cut, site.stall = HALF, True
    code = (
        "import os, signal, sys\n"
        "from tspbench.storage.catalog import Entry\n"
        "from tspbench.storage.download import fetch\n"
        "def report(done, total):\n"
        f"    if done == {HALF}: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"fetch({entry!r}, report)"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not entry.path.exists()
    site.cut = None
    assert fetch(entry, silent).read_bytes() == CONTENT
    assert site.asked[-1]["Range"] == f"bytes={HALF}-"


def test_two_fetches_of_one_file_do_not_meet(entry, site, monkeypatch):
    interrupted(entry, site, monkeypatch)
    with partial(entry).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with one_sentence(entry.path, "another process", "wait"):
            fetch(entry, silent)
    assert partial(entry).read_bytes() == CONTENT[:HALF]
    assert fetch(entry, silent).read_bytes() == CONTENT


@pytest.mark.parametrize("third", [False, True])
def test_a_file_that_another_process_has_just_finished_is_not_written_to(entry, site, monkeypatch, third):
    """It renames the partial file after this process has opened and before it has locked it; a third may begin anew."""
    interrupted(entry, site, monkeypatch)
    lock = fcntl.flock

    def late(file, operation):
        partial(entry).rename(entry.path)
        if third:
            partial(entry).touch()
        lock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with one_sentence(entry.path, "another process"):
        fetch(entry, silent)
    assert entry.path.read_bytes() == CONTENT[:HALF]


def test_a_file_system_without_locks_is_written_to(entry, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert fetch(entry, silent).read_bytes() == CONTENT


def test_an_empty_file_is_refused_whatever_is_known_of_it(entry, site):
    unknown = replace(entry, sha256=None)
    site.content = b""
    with one_sentence(entry.address, "what came is empty, and was removed"):
        fetch(unknown, silent)
    assert names(entry.path.parent) == []
    entry.path.touch()
    with one_sentence(entry.path, "is empty, so it is not file as released", "move it away"):
        fetch(unknown, silent)
    assert entry.path.exists()
    entry.path.write_bytes(b"x")
    assert fetch(unknown, silent) == entry.path
