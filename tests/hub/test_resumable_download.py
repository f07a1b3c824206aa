"""Downloads of one file from a local server that misbehaves in every way."""

import errno
import hashlib
import random
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import faults as bad
import pytest
from cases import counts
from weights_server import WeightsServer

from zoo.errors import DownloadError, OutputError
from zoo.hub.http import client as http
from zoo.hub.http import resumable_download
from zoo.hub.http.client import Client
from zoo.hub.http.partial_file import Part
from zoo.hub.http.resumable_download import fetch
from zoo.hub.source_table import RemoteFile

SIZE = 1_234_567
CONTENT = random.Random(5).randbytes(SIZE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.4)
    monkeypatch.setattr(resumable_download, "PAUSE", 0.001)


@pytest.fixture
def server():
    with WeightsServer({"a/weights.bin": CONTENT, "b/weights.bin": CONTENT}) as running:
        yield running


def remote(server, *, size=SIZE, sha256=SHA256, places=("a",)):
    return RemoteFile("weights.bin", tuple(f"{server.url}{place}/weights.bin" for place in places), size, sha256)


def get(file, target, **options):
    with Client() as client:
        return fetch(file, target, client=client, **options)


def names(directory):
    return sorted(path.name for path in directory.iterdir())


UNKNOWN = {"size": None, "sha256": None}


@pytest.mark.parametrize("known", [{}, UNKNOWN, {"size": None}], ids=["pinned", "unknown", "hash only"])
@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("etags", [True, False])
def test_a_file_arrives_as_it_is(tmp_path, server, known, ranges, etags):
    """For all abilities of a server and all known facts, the bytes are right and nothing else remains."""
    server.ranges, server.etags = ranges, etags
    seen = []

    found = get(remote(server, **known), tmp_path / "w.bin", on_bytes=lambda done, total: seen.append((done, total)))

    assert SHA256 == found
    assert CONTENT == (tmp_path / "w.bin").read_bytes()
    assert ["w.bin"] == names(tmp_path)
    assert (len(CONTENT), len(CONTENT)) == seen[-1]
    assert seen == sorted(seen)


PASSING = {
    "reset": bad.hang_up,
    "500": bad.status(500),
    "503": bad.status(503),
    "429": bad.status(429),
    "408": bad.status(408),
    "cut at once": bad.cut(0),
    "cut": bad.cut(99_999),
    "stall": bad.stall(50_000, 1.0),
    "more announced than sent": bad.lying_length(1000),
    "429 until a date": bad.status(429, Retry_After="Wed, 21 Oct 2099 07:28:00 GMT"),
}


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_is_waited_for(tmp_path, server, fault, ranges):
    """A temporary fault of a server, at the first request or later, costs only time."""
    if fault is PASSING["more announced than sent"] and not ranges:
        pytest.skip("without ranges the announced length is all that is known of the file: it is refused, below")
    server.ranges = ranges
    server.faults = [fault, None, fault, None, None, fault]

    assert SHA256 == get(remote(server), tmp_path / "w.bin")
    assert ["w.bin"] == names(tmp_path)


LASTING = {
    "404": (bad.status(404), "HTTP 404"),
    "403": (bad.status(403), "HTTP 403"),
    "401": (bad.status(401), r"HTTP 401.*netrc"),
    "500": (bad.status(500), r"HTTP 500.*5 times"),
    "429": (bad.status(429), r"HTTP 429.*5 times"),
    "reset": (bad.hang_up, "5 times"),
    "trickle": (bad.trickle, r"5 times|bytes in"),
    "stall": (bad.stall(1000, 1.0), r"timed out.*5 times"),
    "other bytes": (bad.other_bytes, "a different file"),
    "longer": (bad.wrong_length(10), r"1,234,577 bytes, not 1,234,567"),
    "shorter": (bad.wrong_length(-10), r"1,234,557 bytes, not 1,234,567"),
    "endless": (bad.endless, r"more than 16,777,216 bytes"),
    "compressed": (bad.bomb, "compressed"),
    "redirect to a file": (bad.redirect("file:///etc/passwd"), "not https"),
    "redirect to ftp": (bad.redirect("ftp://127.0.0.1/x"), "not https"),
    "circle": (bad.redirect("/a/weights.bin"), "more than 5 times"),
    "part of something": (bad.without_range_head, "without its position"),
    "another range": (bad.another_range, "not requested"),
    "range of nothing": (bad.status(416), "keeps changing during"),
}


@pytest.mark.parametrize("fault", LASTING, ids=LASTING)
def test_what_does_not_pass_is_said(tmp_path, server, fault):
    """A permanent fault gives one error with the address and the cause; the final name does not exist."""
    server.always, said = LASTING[fault]

    with pytest.raises(DownloadError, match=said) as caught:
        get(remote(server), tmp_path / "w.bin")

    assert server.url in str(caught.value)
    assert not (tmp_path / "w.bin").exists()
    server.always = None
    assert SHA256 == get(remote(server), tmp_path / "w.bin")
    assert ["w.bin"] == names(tmp_path)


@pytest.mark.parametrize("fault", LASTING, ids=LASTING)
def test_a_mirror_takes_over(tmp_path, server, fault):
    """If the first address fails permanently, the second one is used."""
    broken = LASTING[fault][0]
    server.always = lambda handler: handler.path.startswith("/a/") and broken(handler)

    assert SHA256 == get(remote(server, places=("a", "b")), tmp_path / "w.bin")
    assert ["w.bin"] == names(tmp_path)


def test_a_false_length_is_refused(tmp_path, server):
    """A server without ranges that announces more bytes than it sends is refused."""
    server.ranges, server.always = False, bad.lying_length(1000)

    with pytest.raises(DownloadError, match=r"1,235,567 bytes, not 1,234,567"):
        get(remote(server), tmp_path / "w.bin")


def test_a_server_that_is_not_there_is_named(tmp_path):
    """A refused connection gives the same kind of error."""
    with WeightsServer({}) as server:
        file = remote(server)

    with pytest.raises(DownloadError, match=r"127\.0\.0\.1.*refused"):
        get(file, tmp_path / "w.bin")


@pytest.mark.parametrize("size", [0, 1, 255, 262_143, 262_144, 262_145, 700_000])
def test_a_part_is_gone_on_with_from_any_byte(tmp_path, server, size):
    """Bytes that a killed process left are not downloaded again."""
    (tmp_path / ".w.bin.part").write_bytes(CONTENT[:size])

    assert SHA256 == get(remote(server), tmp_path / "w.bin")
    assert (f"bytes={size}-{size + 262_143}") == server.log[0][1]
    assert ["w.bin"] == names(tmp_path)


def test_a_part_of_other_bytes_is_thrown_away(tmp_path, server):
    """If the hash shows that the partial file was wrong, the file is downloaded again from its start."""
    (tmp_path / ".w.bin.part").write_bytes(b"wrong" + CONTENT[5:70_000])

    assert SHA256 == get(remote(server), tmp_path / "w.bin")


def test_a_part_that_nothing_vouches_for_is_not_used(tmp_path, server):
    """A partial file without a hash or a validator is not resumed."""
    (tmp_path / ".w.bin.part").write_bytes(CONTENT[:70_000])

    assert SHA256 == get(remote(server, **UNKNOWN), tmp_path / "w.bin")
    assert "bytes=0-262143" == server.log[0][1]


def test_a_file_that_changes_between_two_ranges_is_begun_anew(tmp_path, server):
    """If the file changes during the download, the result is one of the two versions, never a mixture."""
    other = random.Random(6).randbytes(1_100_000)

    def change(handler):
        server.files["a/weights.bin"] = other
        return False

    server.faults = [None, None, change]

    assert hashlib.sha256(other).hexdigest() == get(remote(server, **UNKNOWN), tmp_path / "w.bin")
    assert other == (tmp_path / "w.bin").read_bytes()


def test_a_part_of_yesterdays_file_is_not_mixed_with_todays(tmp_path, server):
    """Resuming requests the same version of the file; a new version is downloaded completely."""
    server.faults = [None, *[bad.status(403)] * 8]
    with pytest.raises(DownloadError):
        get(remote(server, **UNKNOWN), tmp_path / "w.bin")
    assert Part(tmp_path / "w.bin").path.stat().st_size > 0
    server.faults, server.files["a/weights.bin"] = [], CONTENT[::-1]

    get(remote(server, **UNKNOWN), tmp_path / "w.bin")

    assert CONTENT[::-1] == (tmp_path / "w.bin").read_bytes()


def test_clocks_that_differ_do_no_harm(tmp_path, server):
    """A server's dates, far in the future or the past, only decide whether the file is the same."""
    server.etags = False
    for year in (1970, 2099):
        date = f"Wed, 21 Oct {year} 07:28:00 GMT"
        server.headers = {"Date": date, "Last-Modified": date}
        server.faults = [None, bad.hang_up, bad.status(503, Retry_After=date)]

        assert SHA256 == get(remote(server, **UNKNOWN), tmp_path / f"{year}.bin")


def test_plain_http_needs_a_known_hash(tmp_path):
    """Except from this machine, plain http is accepted only with a known hash."""
    file = RemoteFile("w.bin", ("http://example.invalid/w.bin",))

    with pytest.raises(DownloadError, match="not https"):
        get(file, tmp_path / "w.bin")


def test_connections_are_few_and_kept(tmp_path, server, monkeypatch):
    """A large file is downloaded in many ranges, over one connection per thread."""
    monkeypatch.setattr(http, "TIMEOUT", 30.0)  # a busy machine must not cause a retry
    server.files["a/weights.bin"] = CONTENT * 40

    get(remote(server, **UNKNOWN), tmp_path / "w.bin")

    assert len(server.log) > 2 * http.CONNECTIONS
    assert server.connections <= http.CONNECTIONS


def test_a_redirect_to_the_file_is_followed(tmp_path, server):
    """A redirect to the file is followed, as mirrors send them."""
    server.faults = [bad.redirect("/b/weights.bin")]

    assert SHA256 == get(remote(server), tmp_path / "w.bin")


def test_an_empty_file_is_a_file(tmp_path, server):
    """An empty file can be downloaded."""
    server.files["a/weights.bin"] = b""

    assert hashlib.sha256(b"").hexdigest() == get(remote(server, **UNKNOWN), tmp_path / "w.bin")
    assert ["w.bin"] == names(tmp_path)


def test_no_byte_is_written_where_there_is_no_room(tmp_path, server, monkeypatch):
    """The size is compared with the free disk first; the message has both numbers."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000))

    with pytest.raises(OutputError, match=r"1,000 bytes free.*1,234,567 more"):
        get(remote(server), tmp_path / "w.bin")
    assert 0 == (tmp_path / ".w.bin.part").stat().st_size


@pytest.mark.parametrize("after", [0, 100_000, 600_000, 1_234_566])
def test_a_disk_that_fills_up_is_named_and_the_part_is_kept(tmp_path, server, monkeypatch, after):
    """If the disk becomes full during the download, it can be resumed when there is space again."""
    honest = Part.append

    def append(self, piece):
        if self.size + len(piece) > after:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(self, piece)

    monkeypatch.setattr(Part, "append", append)
    with pytest.raises(OutputError, match="disk is full"):
        get(remote(server), tmp_path / "w.bin")
    monkeypatch.undo()

    assert not (tmp_path / "w.bin").exists()
    assert SHA256 == get(remote(server), tmp_path / "w.bin")


def test_faults_at_random_end_in_the_file_or_in_one_sentence(tmp_path, server):
    """In 200 downloads under random faults, the final name only ever has the right file, which arrives in the end."""
    chance = random.Random(7)
    faults = [*PASSING.values(), *(fault for fault, _ in LASTING.values() if fault is not bad.trickle)]
    faults = [fault for fault in faults if fault not in (PASSING["stall"], LASTING["stall"][0])]
    ends = {"whole": 0, "refused": 0}
    for i in range(200):
        target = tmp_path / f"{i}.bin"
        server.ranges, server.etags = chance.random() < 0.8, chance.random() < 0.8
        # Wrong bytes can be told from right ones by nothing but a known hash.
        file = remote(server, size=chance.choice([None, len(CONTENT)]), places=chance.choice([("a",), ("a", "b")]))
        server.faults = [chance.choice(faults) if chance.random() < 0.4 else None for _ in range(12)]
        try:
            get(file, target)
            ends["whole"] += 1
        except DownloadError:
            ends["refused"] += 1
            assert not target.exists()
            server.faults = []
            get(file, target)
        assert CONTENT == target.read_bytes()
        target.unlink()
    counts["downloads under random faults"] += 200
    assert [] == names(tmp_path)
    assert min(ends.values()) > 20


CHILD = """
import sys
from pathlib import Path
from zoo.hub.http.client import Client
from zoo.hub.source_table import RemoteFile
from zoo.hub.http.resumable_download import fetch
url, target, sha256 = sys.argv[1:]
print("ready", flush=True)
with Client() as client:
    fetch(RemoteFile("weights.bin", (url,), None, sha256), Path(target), client=client)
"""


def kill_at_random(tmp_path, times):
    """Kill a downloading process at random moments; each next one resumes."""
    chance, killed, lengths = random.Random(8), 0, set()
    content = chance.randbytes(24_000_001)
    sha256, target, part = hashlib.sha256(content).hexdigest(), tmp_path / "w.bin", tmp_path / ".w.bin.part"
    with WeightsServer({"weights.bin": content}) as server:
        for _ in range(times):
            command = [sys.executable, "-c", CHILD, f"{server.url}weights.bin", str(target), sha256]
            with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as child:
                child.stdout.readline()
                time.sleep(chance.random() * 0.08)
                child.kill()
            killed += child.returncode != 0
            if target.exists():
                assert content == target.read_bytes()
                target.unlink()
            if part.exists():
                assert content.startswith(part.read_bytes())
                lengths.add(part.stat().st_size)
        assert sha256 == get(RemoteFile("weights.bin", (f"{server.url}weights.bin",), None, sha256), target)
    counts["downloads killed"] += killed
    return killed, len(lengths)


def test_a_killed_download_leaves_a_part_that_is_gone_on_with(tmp_path):
    """SIGKILL at six random moments; the slow test has 200."""
    assert kill_at_random(tmp_path, 6) > (0, 0)


@pytest.mark.slow
def test_two_hundred_kills(tmp_path):
    """SIGKILL at 200 random moments."""
    assert kill_at_random(tmp_path, 200) > (100, 30)
