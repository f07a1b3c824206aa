"""Servers that break the rules, dead connections, and proxies, certificates and mirrors."""

import hashlib
import random
import shutil
import signal
import ssl
import subprocess
import sys
import time

import faults as bad
import pytest
from weights_server import Handler, WeightsServer

from zoo.errors import DownloadError
from zoo.hub.http import client as http
from zoo.hub.http import resumable_download
from zoo.hub.http.client import Client
from zoo.hub.http.resumable_download import fetch
from zoo.hub.http.sha256 import Hasher
from zoo.hub.source_table import RemoteFile

CONTENT = random.Random(15).randbytes(2_345_671)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.4)
    monkeypatch.setattr(resumable_download, "PAUSE", 0.001)


@pytest.fixture
def server():
    with WeightsServer({"a/w.bin": CONTENT, "b/w.bin": CONTENT}) as running:
        yield running


def get(target, *urls, sha256=None):
    with Client() as client:
        return fetch(RemoteFile("w.bin", urls, None, sha256), target, client=client)


@pytest.mark.parametrize("address", ["https://[bad/w.bin", f"https://{'a' * 70}.com/w.bin", "https://a:b/w.bin"])
def test_what_is_no_address_is_said(tmp_path, server, address):
    """An invalid address is reported, both from the user and from a redirect."""
    with pytest.raises(DownloadError, match="address is invalid"):
        get(tmp_path / "w.bin", address, sha256=SHA256)
    server.always = bad.redirect(address)
    with pytest.raises(DownloadError, match="address is invalid"):
        get(tmp_path / "w.bin", f"{server.url}a/w.bin")


def test_a_server_here_may_not_lead_to_http_elsewhere(tmp_path, server):
    """Plain http is trusted on this machine only."""
    server.always = bad.redirect("http://192.0.2.1/w.bin")

    with pytest.raises(DownloadError, match="not https"):
        get(tmp_path / "w.bin", f"{server.url}a/w.bin", sha256=SHA256)


@pytest.mark.parametrize(
    "headers",
    [{"Content_Length": "9" * 5000}, {"Content_Range": f"bytes 0-1/{'9' * 5000}"}, {"Retry_After": "9" * 5000}],
)
def test_endless_numbers_do_no_harm(tmp_path, server, monkeypatch, headers):
    """A length of more than 4,300 digits, which Python refuses to parse, causes at most one error."""
    server.always = bad.status(503, **headers) if "Retry_After" in headers else bad.head(**headers)
    server.faults = [None] * 2

    monkeypatch.setattr(http, "_MOST_WAIT", 0.01)

    try:
        assert SHA256 == get(tmp_path / "w.bin", f"{server.url}a/w.bin", sha256=SHA256)
    except DownloadError as error:
        assert "127.0.0.1" in str(error)


def test_a_server_that_does_not_know_if_range_is_found_out(tmp_path, server, monkeypatch):
    """If a server ignores If-Range and the file changes to another of the same length, its new ETag reveals that."""
    other = CONTENT[::-1]
    monkeypatch.setattr(Handler, "same", lambda *_: True)

    def change(handler):
        server.files["a/w.bin"] = other
        return False

    server.faults = [None, None, change]

    assert hashlib.sha256(other).hexdigest() == get(tmp_path / "w.bin", f"{server.url}a/w.bin")


def test_a_body_without_an_end_is_taken_with_a_hash_only(tmp_path, server):
    """A body without a marked end is accepted only with a known hash, because the connection may have broken."""
    server.always = bad.without_length(chunked=False)
    url = f"{server.url}a/w.bin"

    with pytest.raises(DownloadError, match="how long the file is"):
        get(tmp_path / "w.bin", url)
    assert SHA256 == get(tmp_path / "w.bin", url, sha256=SHA256)


def test_chunks_have_an_end(tmp_path, server):
    """A chunked body is accepted if it is complete, and not if it ends before the last chunk."""
    server.always = bad.without_length(chunked=True, most=1_000_000)
    url = f"{server.url}a/w.bin"

    with pytest.raises(DownloadError, match="tried 5 times"):
        get(tmp_path / "w.bin", url)
    server.always = bad.without_length(chunked=True)
    assert SHA256 == get(tmp_path / "w.bin", url)


def test_a_part_is_gone_on_with_where_it_came_from(tmp_path, server):
    """Without a known hash, a partial file resumes at the mirror that it came from, before the first address is
    tried.
    """
    first, mirror = f"{server.url}a/w.bin", f"{server.url}b/w.bin"
    server.always = lambda handler: (
        (handler.path.startswith("/a/") or "=0-" not in handler.headers["Range"]) and bad.status(403)(handler)
    )
    with pytest.raises(DownloadError):
        get(tmp_path / "w.bin", first, mirror)
    begun = (tmp_path / ".w.bin.part").stat().st_size
    server.always = bad.status(403)  # while nobody answers, nothing is thrown away either
    with pytest.raises(DownloadError):
        get(tmp_path / "w.bin", first, mirror)
    server.always = None
    server.log.clear()

    assert SHA256 == get(tmp_path / "w.bin", first, mirror)
    assert begun == min(server.asked("w.bin")) > 0
    assert {"b/w.bin"} == {name for name, _ in server.log}


def test_a_part_of_something_else_is_no_part_of_an_empty_file(tmp_path, server):
    """A partial file of something else is not published as an empty file."""
    (tmp_path / ".w.bin.part").write_bytes(CONTENT)
    server.files["a/w.bin"] = b""
    with Client() as client:
        found = fetch(RemoteFile("w.bin", (f"{server.url}a/w.bin",), 0), tmp_path / "w.bin", client=client)

    assert (hashlib.sha256().hexdigest(), b"") == (found, (tmp_path / "w.bin").read_bytes())


def test_a_proxy_of_the_environment_is_used(tmp_path, monkeypatch):
    """The proxy here has the file itself; nobody resolves the host."""
    with WeightsServer({"http://weights.invalid/w.bin": CONTENT}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")

        assert SHA256 == get(tmp_path / "w.bin", "http://weights.invalid/w.bin", sha256=SHA256)


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes the certificate")
def test_certificates_of_the_environment_are_used(tmp_path, server, monkeypatch):
    """REQUESTS_CA_BUNDLE selects a company's own certificate authority; without it, its server is refused."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost"]
    options += ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate]
    subprocess.run(["openssl", "req", "-x509", *options], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.httpd.socket = context.wrap_socket(server.httpd.socket, server_side=True)
    url = f"{server.url.replace('http://127.0.0.1', 'https://localhost')}a/w.bin"

    with pytest.raises(DownloadError, match=r"certificate.*REQUESTS_CA_BUNDLE"):
        get(tmp_path / "w.bin", url)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert SHA256 == get(tmp_path / "w.bin", url)


CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins by ignoring it
from pathlib import Path
from zoo.hub.http.client import Client
from zoo.hub.source_table import RemoteFile
from zoo.hub.http.resumable_download import fetch
print("ready", flush=True)
with Client() as client:
    fetch(RemoteFile("w.bin", (sys.argv[1],)), Path(sys.argv[2]), client=client)
"""


def test_an_interrupt_does_not_wait_for_a_dead_line(tmp_path, server):
    """Ctrl-C while four connections get no answer ends the process at once, and the partial file is kept."""
    server.always = lambda handler: "=0-" not in handler.headers["Range"] and bool(time.sleep(15))
    command = [sys.executable, "-c", CHILD, f"{server.url}a/w.bin", str(tmp_path / "w.bin")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        while len(server.log) < 4:
            time.sleep(0.01)
        began = time.monotonic()
        child.send_signal(signal.SIGINT)
        child.wait()

    assert time.monotonic() - began < 5
    assert child.returncode != 0
    assert CONTENT.startswith((tmp_path / ".w.bin.part").read_bytes())
    assert (tmp_path / ".w.bin.part").stat().st_size > 0


def test_a_part_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    """A partial file that cannot be read is an error, and a thread that adds bytes does not block forever."""
    (tmp_path / "part").write_bytes(CONTENT)
    hasher = Hasher(tmp_path / "part", len(CONTENT))
    hasher.hexdigest()
    monkeypatch.setattr(type(tmp_path), "open", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    hasher = Hasher(tmp_path / "part", len(CONTENT))
    for _ in range(100):
        hasher.update(b"x")

    with pytest.raises(OSError, match="Input/output"):
        hasher.hexdigest()
