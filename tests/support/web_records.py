"""WARC records written by hand, for the tests of the sources that read web archives."""


def warc_record(kind, content, length=None, **headers):
    """One record; `length` is what it claims, by default the truth."""
    length = len(content) if length is None else length
    lines = [b"WARC/1.0", b"WARC-Type: " + kind.encode(), b"WARC-Target-URI: https://example.org/"]
    lines += [f"{name.replace('_', '-')}: {value}".encode() for name, value in headers.items()]
    lines += [f"Content-Length: {length}".encode()]
    return b"\r\n".join(lines) + b"\r\n\r\n" + content + b"\r\n\r\n"


def conversion(text, **values):
    """A record of a WET file."""
    return warc_record("conversion", text.encode(), Content_Type="text/plain", **values)


def response(body, *headers, status="200 OK", content_type="text/html"):
    """A record of a WARC file: a page as a server sent it."""
    lines = [f"HTTP/1.1 {status}", *([f"Content-Type: {content_type}"] if content_type else []), *headers]
    content = "\r\n".join(lines).encode() + b"\r\n\r\n" + (body.encode() if isinstance(body, str) else body)
    return warc_record("response", content, Content_Type="application/http; msgtype=response")
