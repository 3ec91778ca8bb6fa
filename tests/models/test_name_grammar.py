"""The grammar of names as properties (wire-spec section 7)."""

from hypothesis import given
from hypothesis import strategies as st

from mlx_ollama.errors import InvalidRequest
from mlx_ollama.models.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName, Reference, Source

_FIRST = "abcXYZ019_"


def _part(later: str, longest: int = 80) -> st.SearchStrategy[str]:
    return st.builds(str.__add__, st.sampled_from(_FIRST), st.text(_FIRST + later, max_size=longest - 1))


HOSTS, NAMESPACES, MODELS, TAGS = _part("-.:", 350), _part("-"), _part("-."), _part("-.")


@given(HOSTS, NAMESPACES, MODELS, TAGS)
def test_whole_names_are_read_and_printed_alike(host: str, namespace: str, model: str, tag: str) -> None:
    name = ModelName.parse(f"{host}/{namespace}/{model}:{tag}")
    assert name.parts == (host, namespace, model, tag)
    assert ModelName.parse(name.full) == name
    assert ModelName.parse(name.display) == name


@given(NAMESPACES, MODELS, TAGS)
def test_what_is_left_out_is_the_default(namespace: str, model: str, tag: str) -> None:
    assert ModelName.parse(model).parts == (DEFAULT_HOST, DEFAULT_NAMESPACE, model, DEFAULT_TAG)
    assert ModelName.parse(f"{model}:{tag}").parts == (DEFAULT_HOST, DEFAULT_NAMESPACE, model, tag)
    assert ModelName.parse(f"{namespace}/{model}").parts == (DEFAULT_HOST, namespace, model, DEFAULT_TAG)
    assert ModelName.parse(f"https://h/{namespace}/{model}").parts == ("h", namespace, model, DEFAULT_TAG)


@given(st.text(max_size=100))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        name = ModelName.parse(text)
    except InvalidRequest:
        return
    assert ModelName.parse(name.full) == name
    # What becomes a path stays inside its folder.
    assert not {"", ".", ".."} & set(name.parts)
    assert not any("/" in part or "\\" in part or "\0" in part for part in name.parts)


@given(NAMESPACES, MODELS, TAGS)
def test_case_tells_no_names_apart(namespace: str, model: str, tag: str) -> None:
    name = ModelName.parse(f"{namespace}/{model}:{tag}")
    assert name.matches(ModelName.parse(name.full.swapcase()))
    assert not name.matches(ModelName.parse(f"{namespace}/{model}x:{tag}") if len(model) < 80 else ModelName.parse("x"))


@given(MODELS, st.sampled_from(["cloud", "CLOUD", "local", "Local"]))
def test_a_source_is_taken_off(model: str, source: str) -> None:
    reference = Reference.parse(f" {model}:{source} ")
    assert reference.source is Source(source.lower())
    assert reference.name.model == model
