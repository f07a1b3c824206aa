"""Request a range of a file over HTTP and check everything in the answer."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

import zoo
from zoo.hub.source_table import redacted

CONNECTIONS = 4
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as dead."""

_SLOWEST = 100
"""Bytes per second. A server that stays below this rate for TIMEOUT seconds counts as stalled."""

_PIECE = 1 << 18
_MOST_REDIRECTS = 5
_MOST_WAIT = 60.0
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}


class RefusedError(Exception):
    """The address will never return the file, so it is not requested again."""


class InterruptedTransferError(Exception):
    """The transfer failed but may succeed when it is repeated, `wait` seconds from now."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


class ChangedError(Exception):
    """The remote file is not the one that was partially downloaded."""


@dataclass(frozen=True)
class Answer:
    """The head of a server's answer, before its body is read.

    Attributes:
        start: Offset of the body in the file: the requested one, or 0 if the server ignores ranges.
        length: Length of the body; None if the server does not send it.
        total: Length of the file; None if the server does not send it.
        validator: Identifier of this version of the file (an ETag or a date); "" without one.
        body: Body, to be read with `pieces`.
    """

    start: int
    length: int | None
    total: int | None
    validator: str
    body: requests.Response

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.body.close()  # A connection whose body was read completely is kept for the next request anyway.

    @property
    def has_end(self) -> bool:
        """Whether the end of the body can be distinguished from a broken connection."""
        return self.length is not None or self.body.headers.get("Transfer-Encoding", "").lower() == "chunked"

    def pieces(self) -> Iterator[bytes]:
        """Yield the body in pieces as it arrives.

        Raises:
            InterruptedTransferError: The connection broke or stalled before the end.
        """
        received, marked, since = 0, 0, time.monotonic()
        raw = self.body.raw
        try:
            while self.length is None or received < self.length:
                piece = raw.read1(_PIECE, decode_content=False)
                if not piece:
                    break
                received += len(piece)
                yield piece
                if (passed := time.monotonic() - since) > TIMEOUT:
                    if received - marked < _SLOWEST * passed:
                        raise InterruptedTransferError(f"it sent {received - marked} bytes in {passed:.0f} seconds")
                    marked, since = received, time.monotonic()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise InterruptedTransferError(_short(error)) from error
        if self.length is not None and received < self.length:
            raise InterruptedTransferError(f"the connection ended after {received:,} of {self.length:,} bytes")


class Client:
    """Requests ranges of files. Proxies, certificates and .netrc come from the environment. Thread-safe."""

    def __init__(self) -> None:
        self._session = requests.Session()
        adapter = HTTPAdapter(pool_connections=CONNECTIONS, pool_maxsize=CONNECTIONS)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)
        # A compressed body would have another length and could be a decompression bomb.
        self._session.headers.update({"User-Agent": f"zoo/{zoo.__version__}", "Accept-Encoding": "identity"})

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(self, url: str, start: int, stop: int | None = None, validator: str = "") -> Answer:
        """Request the bytes from start to stop of a file.

        Args:
            url: Address of the file.
            start: First byte.
            stop: End, exclusive; None means the end of the file.
            validator: Validator of an earlier answer. If the file has changed since, the server sends all of it, from
                byte 0.

        Raises:
            RefusedError: The server refuses the request or sends an invalid answer.
            InterruptedTransferError: The connection failed, or the server has a temporary problem.
        """
        headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if start or stop is not None else {}
        if validator and headers:
            headers["If-Range"] = validator
        response = self._follow(url, headers)
        try:
            answer = _check(response, start, stop)
            if response.status_code == 206 and validator:
                if answer.validator not in ("", validator):  # The server supports ranges but not If-Range.
                    raise ChangedError
                answer = replace(answer, validator=validator)
            return answer
        except BaseException:
            response.close()
            raise

    def _follow(self, url: str, headers: dict[str, str]) -> requests.Response:
        for _ in range(_MOST_REDIRECTS):
            try:
                response = self._session.get(
                    url, headers=headers, stream=True, timeout=(10, TIMEOUT), allow_redirects=False
                )
            except requests.exceptions.SSLError as error:
                raise RefusedError(f"{_short(error)}; check the clock, or set REQUESTS_CA_BUNDLE") from error
            except ValueError as error:  # raised by requests, urllib3 or the standard library for an invalid address
                raise RefusedError(f"the address is invalid: {error}") from error
            except requests.RequestException as error:
                raise InterruptedTransferError(_short(error)) from error
            if "Location" not in response.headers or response.status_code not in (301, 302, 303, 307, 308):
                return response
            response.close()
            url = _redirected(url, response.headers["Location"])
        raise RefusedError(f"it redirects more than {_MOST_REDIRECTS} times")


def is_safe(url: str) -> bool:
    """Return whether a URL is safe from manipulation in transit: https, or a server on this machine."""
    try:
        parts = urlsplit(url)
        if parts.scheme != "http":
            return parts.scheme == "https"
        return parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _redirected(old: str, location: str) -> str:
    try:
        url = urljoin(old, location)
        downgrade = urlsplit(old).scheme == "https" != urlsplit(url).scheme  # to this machine, too
        if urlsplit(url).scheme not in ("http", "https") or downgrade or (is_safe(old) and not is_safe(url)):
            raise RefusedError(f"it redirects to {redacted(url)!r}, which is not https")
    except ValueError as error:
        raise RefusedError(f"it redirects to {redacted(location)!r}, which is not a valid address") from error
    return url


def _check(response: requests.Response, start: int, stop: int | None) -> Answer:
    status, headers = response.status_code, response.headers
    if status in _TEMPORARY:
        raise InterruptedTransferError(_status(response), _retry_after(headers.get("Retry-After", "")))
    if status == 416 and headers.get("Content-Range") == "bytes */0":  # an empty file has no ranges
        return Answer(0, 0, 0, "", response)
    if status == 416:
        raise ChangedError
    if status not in (200, 206):
        raise RefusedError(_status(response))
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RefusedError(f"it sends the file compressed ({headers['Content-Encoding']}), which was not requested")
    length = _number(headers.get("Content-Length"))
    etag = headers.get("ETag", "")
    validator = (
        etag if etag.startswith('"') else headers.get("Last-Modified", "")
    )  # a weak ETag cannot be used for ranges
    if status == 200:
        return Answer(0, length, length, validator, response)
    found = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", headers.get("Content-Range", ""))
    if not found:
        raise RefusedError("it sends a part of the file without its position")
    first, last, total = map(int, found.groups())
    if first != start or not first <= last < total or (stop is not None and last >= stop):
        raise RefusedError(f"it sends bytes {first:,} to {last:,}, which were not requested")
    return Answer(first, last + 1 - first, total, validator, response)


def _status(response: requests.Response) -> str:
    hint = {401: "; it requires a login, which you can put into ~/.netrc", 404: "; there is no such file"}
    return f"HTTP {response.status_code} {response.reason}{hint.get(response.status_code, '')}"


def _retry_after(text: str) -> float:
    """Return the seconds to wait. A date is ignored, because clocks differ."""
    return min(float(text), _MOST_WAIT) if text.isdecimal() else 0.0


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"\d{1,18}", text) else None


def _short(error: Exception) -> str:
    """Return the innermost reason: requests and urllib3 wrap it several times."""
    while True:
        inner = getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, Exception)), None)
        if not isinstance(inner, Exception):
            break
        error = inner
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r"^.*object at 0x[0-9a-f]+>: ", "", re.sub(r"^\w+\(.*\): ", "", str(text)))
