"""A server on this machine that serves files as OpenAI's bucket does, and misbehaves when it is told to."""

import contextlib
import os
import socket
import struct
import sys
import threading
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cases import counts


class WeightsServer:
    """Serves `files` (path -> bytes, or a pathlib.Path) on 127.0.0.1.

    Attributes:
        faults: functions of a handler; the first one is taken off and called for the next request that it is for. It
            returns whether it answered the request.
        always: a fault for all requests.
        ranges: whether Range is understood.
        log: (path, Range) of every request.
        connections: how many were opened.
    """

    def __init__(self, files):
        self.files, self.faults, self.always, self.ranges, self.log = files, [], None, True, []
        self.lock = threading.Lock()
        self.connections = 0
        self.etags = True
        self.headers = {}
        self.httpd = Quiet(("127.0.0.1", 0), type("Bound", (Handler,), {"owner": self}))
        self.url = f"http://127.0.0.1:{self.httpd.server_port}/"
        self.thread = threading.Thread(target=self.httpd.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.httpd.shutdown()
        self.httpd.server_close()

    def next_fault(self):
        with self.lock:
            return self.faults.pop(0) if self.faults else self.always

    def asked(self, end):
        """First bytes of the ranges that were asked for of files whose names end so."""
        ranges = [asked.removeprefix("bytes=") for name, asked in self.log if name.endswith(end)]
        return [int(asked.partition("-")[0] or 0) for asked in ranges]


class Quiet(ThreadingHTTPServer):
    """A client that goes away is nothing to report."""

    daemon_threads = True

    def get_request(self):
        self.RequestHandlerClass.owner.connections += 1
        return super().get_request()

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError | ValueError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    owner: WeightsServer

    def do_GET(self):
        name = self.path.lstrip("/")
        self.owner.log.append((name, self.headers.get("Range", "")))
        fault = self.owner.next_fault()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            faulty = fault is not None and fault(self)
            counts["answers of servers with a fault"] += bool(faulty)
            if not faulty:
                self.serve(self.owner.files.get(name))

    def serve(self, content, *, most=None, length=None, headers=()):
        """Answer with a file: `most` bytes of it only, or with a false length, or with other headers."""
        if content is None:
            self.fail(404)
            return
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        tag = f'"{sha256(content).hexdigest()[:16]}"' if isinstance(content, bytes) else f'"{size:x}"'
        start, stop, whole = self.wanted(size, tag)
        if start >= size and not whole:
            self.fail(416, Content_Range=f"bytes */{size}")
            return
        self.send_response(200 if whole else 206)
        own = {"Content-Length": stop - start if length is None else length}
        if self.owner.etags:
            own["ETag"] = tag
        if not whole:
            own["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        for key, value in {**own, **self.owner.headers, **dict(headers)}.items():
            if value is not None:
                self.send_header(key, str(value))
        self.end_headers()
        self.wfile.flush()
        stop = stop if most is None else min(stop, start + most)
        self.send_bytes(content, start, stop)
        if most is not None or length is not None:
            self.hang_up()

    def wanted(self, size, tag):
        asked = self.headers.get("Range", "")
        if not asked or not self.owner.ranges or not self.same(tag):
            return 0, size, True
        first, _, last = asked.removeprefix("bytes=").partition("-")
        return int(first), min(int(last) + 1, size) if last else size, False

    def same(self, tag):
        names = (tag if self.owner.etags else None, self.owner.headers.get("Last-Modified"))
        return self.headers.get("If-Range", names[0] or names[1]) in names

    def send_bytes(self, content, start, stop):
        if isinstance(content, bytes):
            self.wfile.write(content[start:stop])
            self.wfile.flush()
            return
        with content.open("rb") as file:
            while start < stop:
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, stop - start)

    def fail(self, status, **headers):
        self.send_response(status)
        for key, value in {"Content-Length": 0, **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()

    def hang_up(self, *, hard=False):
        """Close the connection in the middle; hard is a reset."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            if hard:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_):
        pass
