from typing import Any

import pytest

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.models.parameters import DEPRECATED, typed_parameters


def typed(*pairs: tuple[str, str]) -> dict[str, Any]:
    return typed_parameters(pairs, pytest.fail)


def test_types() -> None:
    pairs = [
        ("num_ctx", "+64"),
        ("temperature", ".5"),
        ("use_mmap", "T"),
        ("stop", "a"),
        ("top_p", "1e0"),
        ("stop", "b"),
    ]
    assert typed(*pairs) == {"num_ctx": 64, "temperature": 0.5, "use_mmap": True, "stop": ["a", "b"], "top_p": 1}
    assert typed(("seed", "-1"), ("seed", "7")) == {"seed": 7}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.7", 0.7),
        ("0.1234567891", 0.12345679),
        ("1e-45", 1e-45),
        ("16777217", 16777216),
        ("3.4028235e38", 3.4028235e38),
    ],
)
def test_floats_have_32_bits(text: str, value: float) -> None:
    assert typed(("top_p", text)) == {"top_p": value}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("num_ctx", "many", "invalid int value [many]"),
        ("num_ctx", "1_0", "invalid int value [1_0]"),
        ("num_ctx", "5.0", "invalid int value [5.0]"),
        ("num_ctx", "", "invalid int value []"),
        ("num_ctx", "٣", "invalid int value [٣]"),
        ("num_ctx", "9223372036854775808", "invalid int value [9223372036854775808]"),
        ("top_p", "much", "invalid float value [much]"),
        ("top_p", "1e40", "invalid float value [1e40]"),
        ("top_p", "1e400", "invalid float value [1e400]"),
        ("top_p", "nan", "invalid float value [nan]"),
        ("use_mmap", "tRue", "invalid bool value [tRue]"),
        ("nope", "1", "unknown parameter 'nope'"),
        ("numa", "1", "unknown parameter 'numa'"),
        ("Seed", "1", "unknown parameter 'Seed'"),
    ],
)
def test_values_of_the_wrong_type(name: str, text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        typed((name, text))
    assert str(caught.value) == message


def test_parameters_of_the_past_are_warned_of() -> None:
    warnings: list[str] = []
    assert typed_parameters([(name, "1") for name in sorted(DEPRECATED)] + [("seed", "1")], warnings.append) == {
        "seed": 1
    }
    assert "parameter mirostat is deprecated" in warnings
    assert len(warnings) == len(DEPRECATED)
