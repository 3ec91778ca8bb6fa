"""Embedding calls and answers, to the byte, as the reference was recorded."""

import struct

import pytest

from mlx_ollama import gojson
from mlx_ollama.dialects.ollama_embed import decode_embed, decode_legacy, encode_embed, encode_legacy
from mlx_ollama.errors import InvalidRequest
from mlx_ollama.types import Embed, Embeddings, Usage


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        (b'{"model":"m"}', ()),
        (b'{"model":"m","input":null}', ()),
        (b'{"model":"m","input":""}', ()),
        (b'{"model":"m","input":[]}', ()),
        (b'{"model":"m","input":"a"}', ("a",)),
        (b'{"MODEL":"m","Input":["a",""]}', ("a", "")),
    ],
)
def test_inputs(body: bytes, inputs: tuple[str, ...]) -> None:
    assert decode_embed(body, {}) == Embed(model="m", inputs=inputs)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"input":3}', "invalid input type"),
        (b'{"input":{}}', "invalid input type"),
        (b'{"input":false}', "invalid input type"),
        (b'{"input":[1,2]}', "invalid input type"),
        (b'{"input":["a",null]}', "invalid input type"),
        (
            b'{"input":3,"model":4}',
            "json: cannot unmarshal number into Go struct field EmbedRequest.model of type string",
        ),
        (b"[]", "json: cannot unmarshal array into Go value of type api.EmbedRequest"),
        (b"", "missing request body"),
        (b'{"keep_alive":"abc"}', 'time: invalid duration "abc"'),
        (
            b'{"dimensions":1.5}',
            "json: cannot unmarshal number 1.5 into Go struct field EmbedRequest.dimensions of type int",
        ),
    ],
)
def test_bodies_that_are_none(body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        decode_embed(body, {})
    assert refused.value.message == message


def test_all_fields() -> None:
    body = b'{"model":"m","input":"a","truncate":false,"dimensions":8,"keep_alive":60,"options":{"num_ctx":9}}'
    call = Embed(model="m", inputs=("a",), truncate=False, dimensions=8, keep_alive=60.0, options={"num_ctx": 9})
    assert decode_embed(body, {}) == call


def test_legacy_calls() -> None:
    call = decode_legacy(b'{"model":"m","prompt":"a","truncate":true}', {})
    as_it_is = Embed(model="m", inputs=("a",), truncate=False, normalize=False, legacy=True, ignored=("truncate",))
    assert call == as_it_is
    assert decode_legacy(b"{}", {}).inputs == ()
    with pytest.raises(InvalidRequest, match=r"EmbeddingRequest\.prompt of type string"):
        decode_legacy(b'{"prompt":["a"]}', {})


def test_the_recorded_answers() -> None:
    usage = Usage(4, 5, 0, 0, load_ns=1463765, total_ns=3875727)
    assert encode_embed("emb", Embeddings([(0.6, 0.8, 0.0, 0.0)], usage)) == (
        b'{"model":"emb","embeddings":[[0.6,0.8,0,0]],'
        b'"total_duration":3875727,"load_duration":1463765,"prompt_eval_count":4}'
    )
    assert encode_embed("emb", Embeddings(())) == b'{"model":"emb","embeddings":[]}'
    assert encode_legacy(Embeddings([(3.0, 4.0, 0.0, 0.0)], usage)) == b'{"embedding":[3,4,0,0]}'
    assert encode_legacy(Embeddings(())) == b'{"embedding":[]}'


def test_numbers_are_written_as_go_writes_them() -> None:
    numbers = (1.0, -0.0, 0.1, 1e-5, -1e-6, 1e-7, -1.5e-7, 1.25e-12, 10.0, 1e20, 0.00001234, -123.0, 10.000000953674316)
    written = encode_embed("<m>", Embeddings([numbers, numbers[:1]]))
    expected = (
        b"1,-0,0.1,0.00001,-0.000001,1e-7,-1.5e-7,1.25e-12,10,100000000000000000000,0.00001234,-123,10.000000953674316"
    )
    assert written == b'{"model":"\\u003cm\\u003e","embeddings":[[' + expected + b"],[1]]}"


def test_the_old_endpoint_has_float64() -> None:
    widened = struct.unpack("f", struct.pack("f", 0.1))[0]
    assert encode_legacy(Embeddings([(0.1, 0.5)])) == b'{"embedding":[%s,0.5]}' % repr(widened).encode()


def test_what_is_written_is_not_written_again() -> None:
    numbers = gojson.Written("[1e-7,-0.5,1,-0]")
    assert encode_embed("m", Embeddings([numbers])) == b'{"model":"m","embeddings":[[1e-7,-0.5,1,-0]]}'
    assert encode_legacy(Embeddings([numbers])) == b'{"embedding":[1.0000000116860974e-7,-0.5,1,-0]}'
    assert (len(numbers), list(numbers), numbers[1]) == (4, [1e-7, -0.5, 1.0, 0.0], -0.5)
    assert list(gojson.Written("[]")) == []
