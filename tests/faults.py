"""What a server may do wrong: functions of a handler of weights_server.py, which say whether they answered."""

import time


def content_of(handler):
    return handler.owner.files.get(handler.path.lstrip("/"))


def status(code, **headers):
    """Answer with an error."""

    def fault(handler):
        handler.fail(code, **headers)
        return True

    return fault


def hang_up(handler):
    """No answer at all: the connection is reset."""
    handler.hang_up(hard=True)
    return True


def cut(most):
    """The connection ends after this many bytes of the body."""

    def fault(handler):
        handler.serve(content_of(handler), most=most)
        return True

    return fault


def stall(most, seconds):
    """The body stops after this many bytes, and nothing comes for some seconds."""

    def fault(handler):
        content = content_of(handler)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[:most])
        handler.wfile.flush()
        time.sleep(seconds)
        handler.hang_up()
        return True

    return fault


def pause(seconds):
    """Answer late."""

    def fault(handler):
        time.sleep(seconds)
        return False

    return fault


def trickle(handler):
    """The body comes byte by byte, for ever."""
    content = content_of(handler)
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    for i in range(200):
        handler.wfile.write(content[i : i + 1])
        handler.wfile.flush()
        time.sleep(0.05)
    handler.hang_up()
    return True


def other_bytes(handler):
    """The right length, but a bit is flipped."""
    content = content_of(handler)
    if len(content) == 0:
        return False
    middle = len(content) // 2
    handler.serve(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    return True


def wrong_length(extra):
    """The whole file is longer or shorter than it should be, and says so."""

    def fault(handler):
        content = content_of(handler)
        handler.serve(content[:extra] if extra < 0 else content + bytes(extra))
        return True

    return fault


def lying_length(extra):
    """The head says another length than the body has."""

    def fault(handler):
        content = content_of(handler)
        handler.serve(content, length=len(content) + extra)
        return True

    return fault


def redirect(to):
    """Go elsewhere."""

    def fault(handler):
        handler.fail(302, Location=to)
        return True

    return fault


def endless(handler):
    """A body without end, and without a length."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.close_connection = True
    while True:
        handler.wfile.write(bytes(1 << 16))


def without_length(*, chunked, most=None):
    """A body whose end is the connection's, or that comes in chunks; most of it, if it is not the whole."""

    def fault(handler):
        content = content_of(handler)[:most]
        handler.send_response(200)
        handler.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")))
        handler.end_headers()
        if chunked:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(content), content) + (b"0\r\n\r\n" if most is None else b""))
        else:
            handler.wfile.write(content)
        handler.wfile.flush()
        if most is not None or not chunked:
            handler.hang_up()
        return True

    return fault


def head(**headers):
    """The file, under a head in which something is changed."""

    def fault(handler):
        handler.serve(content_of(handler), headers={key.replace("_", "-"): value for key, value in headers.items()})
        return True

    return fault


def bomb(handler):
    """A small body that unpacks to a large one."""
    handler.serve(content_of(handler)[:100], headers={"Content-Encoding": "gzip"})
    return True


def without_range_head(handler):
    """A part of the file that does not say which."""
    handler.serve(content_of(handler), headers={"Content-Range": None})
    return True


def another_range(handler):
    """Bytes that were not asked for."""
    handler.serve(content_of(handler), headers={"Content-Range": "bytes 7-9/10"})
    return True
