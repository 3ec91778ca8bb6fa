from typing import Any

import pytest

from mlx_ollama.errors import InvalidOption
from mlx_ollama.options import Options, without_effect


def test_defaults_are_the_references() -> None:
    options = Options.merge()
    assert (options.temperature, options.top_k, options.top_p, options.min_p) == (0.8, 40, 0.9, 0.0)
    assert (options.repeat_penalty, options.repeat_last_n, options.seed, options.num_predict) == (1.0, 64, -1, -1)


def test_later_layers_win_and_null_says_nothing() -> None:
    merged = Options.merge({"temperature": 0, "stop": ["a"]}, {"stop": ["b", ""], "temperature": None, "nope": 1})
    assert merged.temperature == 0
    assert merged.stop == ("b",)


def test_what_has_no_effect_is_known_by_name() -> None:
    given = {"num_gpu": 1, "temperature": 0, "mirostat": 2, "num_thread": None, "typical_p": 0.5}
    assert without_effect(given) == ["num_gpu", "mirostat"]


def test_numbers_beyond_all_measure_are_the_largest() -> None:
    options = Options.merge({"num_predict": 1e300, "seed": float("inf"), "top_k": -1e300})
    assert (options.num_predict, options.seed, options.top_k) == (2**63 - 1, 2**63 - 1, -(2**63 - 1))


def test_fractions_are_cut_off_for_integers() -> None:
    assert Options.merge({"num_predict": 5.9, "top_k": -1.5}).num_predict == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_ctx": "a"}, 'option "num_ctx" must be of type integer'),
        ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
        ({"temperature": float("inf")}, 'option "temperature" must be of type float32'),
        ({"temperature": True}, 'option "temperature" must be of type float32'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": [1]}, 'option "stop" must be of an array of strings'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"main_gpu": "x"}, 'option "main_gpu" must be of type integer'),
        ({"num_predict": None, "top_k": "a"}, 'option "top_k" must be of type integer'),
    ],
)
def test_wrong_types(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        Options.merge(given)
    assert str(caught.value) == message
