import time

import pytest

from mlx_ollama import gojson


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ('<b>&\u2028\u2029é😀\n\t"\\', b'"\\u003cb\\u003e\\u0026\\u2028\\u2029\xc3\xa9\xf0\x9f\x98\x80\\n\\t\\"\\\\"'),
        ({"b": 1, "a": [None, True]}, b'{"b":1,"a":[null,true]}'),
        (1.0, b"1"),
        (0.6, b"0.6"),
        (-0.0, b"-0"),
        (100000.0, b"100000"),
        (1e-5, b"0.00001"),
        (1.2345e-6, b"0.0000012345"),
        (1e-7, b"1e-7"),
        (1.5e-10, b"1.5e-10"),
        (1e20, b"100000000000000000000"),
        (1e21, b"1e+21"),
        (3.4e38, b"3.4e+38"),
    ],
)
def test_writes_as_go_does(value: object, written: bytes) -> None:
    assert gojson.dumps(value) == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "EOF"),
        (b"  \n", "EOF"),
        (b'{"model": ', "unexpected EOF"),
        (b'{"a":"x', "unexpected EOF"),
        (b"{bad", "invalid character 'b' looking for beginning of object key string"),
        (b"{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b'{"a":1 "b":2}', "invalid character '\"' after object key:value pair"),
        (b"[1 2]", "invalid character '2' after array element"),
        (b"[1,]", "invalid character ']' looking for beginning of value"),
        (b'{"a":trux}', "invalid character 'x' in literal true (expecting 'e')"),
        (b'{"a":NaN}', "invalid character 'N' looking for beginning of value"),
        (b'["\\x"]', "invalid character 'x' in string escape code"),
        (b'["\\u12g4"]', "invalid character 'g' in \\u hexadecimal character escape"),
        (b'["\x01"]', "invalid character '\\x01' in string literal"),
        (b'["\n"]', "invalid character '\\n' in string literal"),
        (b"[-x]", "invalid character 'x' in numeric literal"),
        (b"[1.x]", "invalid character 'x' after decimal point in numeric literal"),
        (b"[1ex]", "invalid character 'x' in exponent of numeric literal"),
        (b"[" * 100_000, "exceeded max depth"),
        pytest.param(b"[" * 201 + b"]" * 201, "exceeded max depth", id="arrays"),
        pytest.param(b'[0,{"a":' * 101 + b"1" + b"}]" * 101, "exceeded max depth", id="objects in arrays"),
        (b'{"a":[1e999]} trailing', "json: cannot unmarshal number 1e999 into Go value of type float64"),
        (b"-1.5E+400", "json: cannot unmarshal number -1.5E+400 into Go value of type float64"),
        pytest.param(
            b"9" * 400,
            f"json: cannot unmarshal number {'9' * 400} into Go value of type float64",
            id="digits",
        ),
        (b"[1e999,x]", "invalid character 'x' looking for beginning of value"),
    ],
)
def test_complains_as_go_does(text: bytes, message: str) -> None:
    with pytest.raises(gojson.GoSyntaxError) as caught:
        gojson.loads(text)
    assert str(caught.value) == message


def test_forgives_what_go_forgives() -> None:
    assert gojson.loads(b'{"a":1} trailing') == {"a": 1}
    assert gojson.loads(b'"\\ud800x"') == "\ufffdx"
    assert gojson.loads(b'"\\ud83d\\ude00"') == "😀"
    assert gojson.loads(b'"\xff"') == "\ufffd"


@pytest.mark.parametrize(
    "text",
    [b"[" * 200 + b"]" * 200, b'{"a":' * 200 + b"1" + b"}" * 200, b"1 " + b"[" * 300, b'"' + b"[" * 300 + b'"'],
    ids=["arrays", "objects", "what follows", "a string"],
)
def test_what_was_read_can_be_written_again_within_an_answer(text: bytes) -> None:
    value = gojson.loads(text)
    assert gojson.loads(gojson.dumps(value)) == value
    assert gojson.dumps([[[[[[[[value]]]]]]]])


@pytest.mark.parametrize("number", [b"1e308", b"-1e-999", b"9" * 300], ids=["large", "tiny", "long"])
def test_numbers_that_a_float64_holds_are_read(number: bytes) -> None:
    assert gojson.loads(number) == float(number)


def test_many_values_in_a_deep_text_take_no_longer_than_it_is_long() -> None:
    wide = b"[" * 199 + b"[" + b",".join([b"[]"] * 200_000) + b"]" + b"]" * 199
    began = time.process_time()
    with pytest.raises(gojson.GoSyntaxError, match="exceeded max depth"):
        gojson.loads(wide)
    assert time.process_time() - began < 2


def test_floats_remember_how_they_were_written() -> None:
    assert gojson.loads(b"[1.50]")[0].raw == "1.50"
    assert gojson.loads(b"[99999999999999999999]")[0].raw == "99999999999999999999"


def test_maps_are_sorted_all_the_way_down() -> None:
    value = {"b": [{"z": 1, "a": ({"y": 2, "x": 3},)}], "a": None, "ä": 1, "Z": 2}
    assert (
        gojson.dumps(gojson.in_key_order(value)) == '{"Z":2,"a":null,"b":[{"a":[{"x":3,"y":2}],"z":1}],"ä":1}'.encode()
    )
