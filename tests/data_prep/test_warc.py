"""WARC: the main text of HTML pages, in whatever encoding they came; everything else is counted."""

import contextlib
import gzip
import time
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_reading import read_kept, read_texts
from web_records import response, warc_record

from data_prep.sources import warc
from foreword.errors import DataError, ForewordError

TEXT = "A first paragraph that says something, and says it in a whole sentence. Грüße, naïve café."
PAGE = """<html><head><title>Title</title><script>var x = 1;</script>{head}</head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About us</a></li></ul></nav>
<article><h1>Heading</h1><p>{text}</p><p>A second paragraph, of some length as well, ends the article.</p></article>
<footer>Copyright, imprint and a cookie banner</footer></body></html>"""


def page(text=TEXT, head=""):
    return PAGE.format(text=text, head=head)


def write(path, *records):
    path.write_bytes(b"".join(records))
    return {"kind": "warc", "path": str(path)}


def test_a_page_becomes_its_main_text(tmp_path):
    source = write(
        tmp_path / "a.warc.gz",
        *map(
            gzip.compress,
            [
                warc_record("warcinfo", b"software: a crawler\r\n"),
                warc_record("request", b"GET / HTTP/1.1\r\n\r\n", Content_Type="application/http; msgtype=request"),
                response(page()),
                warc_record("metadata", b"fetchTimeMs: 3\r\n"),
                response(page("Another page."), content_type="application/xhtml+xml; charset=utf-8"),
            ],
        ),
    )
    (first, second), bad = read_texts(**source)
    assert first.split("\n\n") == ["Heading", TEXT, "A second paragraph, of some length as well, ends the article."]
    assert "Another page." in second
    assert bad == {}


def chunked(body):
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:50], body[50:], b""))


def test_what_http_did_to_the_body_is_undone(tmp_path):
    body = page().encode()
    source = write(
        tmp_path / "a.warc",
        response(gzip.compress(body), "Content-Encoding: gzip"),
        response(zlib.compress(body), "Content-Encoding: deflate"),
        response(chunked(body), "Transfer-Encoding: chunked"),
        response(chunked(gzip.compress(body)), "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
        response(body, "X-Crawl-Content-Encoding: gzip"),
    )
    texts, bad = read_texts(**source)
    assert len(texts) == 5
    assert all(TEXT in text for text in texts)
    assert bad == {}


@pytest.mark.parametrize(
    ("text", "encoding", "in_http", "in_html"),
    [
        ("naïve café", "utf-8", None, None),
        ("naïve café", "utf-8", "iso-8859-1", None),  # servers say so by default, and valid UTF-8 is no accident
        ("naïve café", "utf-8-sig", None, None),
        ("naïve café", "cp1252", "iso-8859-1", None),
        ("привет, мир", "koi8-r", None, "koi8-r"),
        ("привет, мир", "cp1251", '"windows-1251"', "utf-8"),
        ("日本語のページ", "shift-jis", "Shift_JIS", None),
        ("日本語のページ", "iso-2022-jp", None, "iso-2022-jp"),
        ("naïve café", "utf-16", None, None),
        ("naïve café", "utf-8", "no-such-encoding", None),
    ],
)
def test_pages_are_decoded_as_they_say_or_as_they_look(tmp_path, text, encoding, in_http, in_html):
    head = f'<meta charset="{in_html}">' if in_html else ""
    content_type = f"text/html; charset={in_http}" if in_http else "text/html"
    body = PAGE.format(text=text, head=head).encode(encoding)
    (read,), bad = read_texts(**write(tmp_path / "a.warc", response(body, content_type=content_type)))
    assert text in read
    assert bad == {}


def test_what_is_no_page_is_counted_and_never_refused(tmp_path):
    source = write(
        tmp_path / "a.warc",
        response(page(), status="404 Not Found"),
        response(page(), status="301 Moved"),
        response("%PDF", content_type="application/pdf"),
        response(page(), content_type=None),
        response(b"not gzip", "Content-Encoding: gzip"),
        response(b"zz\r\n", "Transfer-Encoding: chunked"),
        warc_record("response", b"no HTTP at all", Content_Type="application/http; msgtype=response"),
        warc_record("response", b"\x01\x02", Content_Type="text/dns"),
        warc_record("revisit", b"HTTP/1.1 200 OK\r\n\r\n", Content_Type="application/http; msgtype=response"),
        response("<div>" * 5000 + page()),
        response(page()),
    )
    texts, bad = read_texts(**source)
    assert len(texts) == 1
    assert bad == {"not_200": 2, "not_html": 2, "undecodable": 4, "too_deep": 1}


def test_the_crawler_may_know_the_type_that_the_server_did_not_tell(tmp_path):
    content = b"HTTP/1.1 200 OK\r\n\r\n" + page().encode()
    identified = {"Content_Type": "application/http", "WARC_Identified_Payload_Type": "text/html"}
    (text,), _ = read_texts(**write(tmp_path / "a.warc", warc_record("response", content, **identified)))
    assert TEXT in text


def test_a_page_without_text_is_an_empty_document(tmp_path):
    assert read_texts(**write(tmp_path / "a.warc", response("<html></html>"), response(""))) == (["", ""], {})


def test_headers_are_kept(tmp_path):
    source = write(tmp_path / "a.warc", response(page()))
    assert read_kept(id_field="WARC-Target-URI", **source) == ([("https://example.org/", None)], {})


def test_a_broken_record_is_named_or_counted_and_the_next_page_is_read(tmp_path):
    broken = warc_record("response", b"HTTP/1.1 200 OK\r\n\r\n" + page().encode(), length=50)
    source = write(tmp_path / "a.warc", broken, response(page()))
    with pytest.raises(DataError, match=r"a\.warc, record at byte 0: the record does not end where"):
        read_texts(**source)
    texts, bad = read_texts(refuse=False, **source)
    assert len(texts) == 1
    assert bad == {"broken_record": 1}


def test_a_small_body_that_stands_for_a_large_page_takes_bounded_memory(tmp_path):
    body = gzip.compress(page().encode() + b" " * (2 * warc.PAGE_BYTES))
    (text,), _ = read_texts(**write(tmp_path / "a.warc", response(body, "Content-Encoding: gzip")))
    assert TEXT in text


@pytest.mark.parametrize("tags", ["<div><p>x</p>", "<article>", "<table><tr><td>", "<ul><li>", "<b><i>", "<a href=x>y"])
def test_no_nesting_makes_a_page_slow(tmp_path, tags):
    begun = time.process_time()
    read_texts(**write(tmp_path / "a.warc", response("<html><body>" + tags * 5000 + "end")))
    assert time.process_time() - begun < 10


@given(
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=6)), max_size=8),
    tags=st.lists(st.sampled_from(["<div>", "</div>", "<!--", "<svg>", "<select>", "&#x110000;", "<plaintext>", "\0"])),
    charset=st.sampled_from(["utf-8", "utf-16", "shift_jis", "x"]),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_pages_and_records_are_errors_of_ours_or_counted(tmp_path, changes, tags, charset):
    body = page(head="".join(tags)).encode()
    content = bytearray(response(body, content_type=f"text/html; charset={charset}") + response(page()))
    for position, change in changes:
        content[position % len(content) : position % len(content) + len(change)] = change
    source = write(tmp_path / "a.warc", bytes(content))
    read_texts(refuse=False, **source)
    with contextlib.suppress(ForewordError):
        read_texts(**source)
