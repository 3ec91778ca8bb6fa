"""Forms as bodies."""

import random
import time

import pytest

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.multipart import Form, read_form

TYPE = "multipart/form-data; boundary=xYz"


def _body(*parts: tuple[str, bytes]) -> bytes:
    told = [
        b"--xYz\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), text) for head, text in parts
    ]
    return b"".join(told) + b"--xYz--\r\n"


def test_fields_and_files() -> None:
    binary = bytes(range(256)) + b"\r\n--xY\r\n\r\n-- \n\r"
    body = _body(
        ('name="model"', "größer".encode()),
        ('name="file"; filename="a \\"b\\".wav"', binary),
        ('name="empty"; filename="a"', b""),
        ('name="model"', b"second"),
        ("name=bare", b"\xff"),
    )
    expected = Form({"model": "größer", "bare": "\ufffd"}, {"file": binary, "empty": b""})
    assert read_form(body, TYPE) == read_form(b"preamble\r\n" + body + b"epilogue", TYPE) == expected
    assert read_form(body, 'Multipart/Form-Data; charset=x; boundary="xYz"') == expected


def test_parts_with_odd_headers_are_nobodys() -> None:
    body = b"--xYz\r\n\r\nno headers\r\n--xYz\r\nContent-Disposition: form-data\r\n\r\nno name\r\n--xYz\r\n--xYz--"
    assert read_form(body, TYPE).fields == {"": "no headers"}


def test_a_file_may_be_named_in_any_way() -> None:
    body = _body(
        ("name=a; filename*=UTF-8''%e2%82%ac", b"1"), ('NAME="b";FileName=x', b"2"), ('name=c; filename=""', b"3")
    )
    assert read_form(body, TYPE) == Form({"c": "3"}, {"a": b"1", "b": b"2"})


def test_odd_headers_do_no_harm() -> None:
    generator = random.Random(1)
    bits = [
        "; name*=",
        "idna''",
        "\0",
        "%FF",
        "; filename=",
        '"',
        "\\",
        ";",
        "=",
        "\r\n",
        "\n",
        ":",
        "*0*",
        "é",
        "name",
        '; a="',
    ]
    for _ in range(3000):
        head = "".join(generator.choices(bits, k=generator.randint(1, 12)))
        form = read_form(_body((head, b"v")), TYPE)
        assert len(form.fields) + len(form.files) <= 1
    began = time.process_time()
    read_form(_body(('; a="\\' * 2500, b"v")), TYPE)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("body", "content_type", "why"),
    [
        (b"{}", "application/json", "request Content-Type isn't multipart/form-data"),
        (b"", "", "request Content-Type isn't multipart/form-data"),
        (b"", "multipart/mixed; boundary=x", "request Content-Type isn't multipart/form-data"),
        (b"", "multipart/form-data", "no multipart boundary param in Content-Type"),
        (b"", TYPE, "multipart: NextPart: EOF"),
        (_body(('name="a"', b"b"))[:-4], TYPE, "multipart: NextPart: EOF"),
        (b"--xYz\r\n" * 20_000, TYPE, "multipart: message too large"),
        (b"--xYz\r\n" + b"a: b\r\n" * 20_000 + b"\r\n--xYz--", TYPE, "multipart: message too large"),
    ],
)
def test_what_is_no_form(body: bytes, content_type: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_form(body, content_type)
    assert raised.value.message == f"failed to parse multipart form: {why}"
