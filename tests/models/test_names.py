import pytest

from mlx_ollama.errors import InvalidRequest, NameConflict
from mlx_ollama.models.names import ModelName, Reference, Source


@pytest.mark.parametrize(
    ("text", "display", "full"),
    [
        ("tiny", "tiny:latest", "registry.ollama.ai/library/tiny:latest"),
        ("library/tiny:q4", "tiny:q4", "registry.ollama.ai/library/tiny:q4"),
        ("registry.ollama.ai/library/tiny", "tiny:latest", "registry.ollama.ai/library/tiny:latest"),
        ("ns/m:tag", "ns/m:tag", "registry.ollama.ai/ns/m:tag"),
        ("http://h/ns/m", "h/ns/m:latest", "h/ns/m:latest"),
        ("https://reg.example:5000/ns/m:t", "reg.example:5000/ns/m:t", "reg.example:5000/ns/m:t"),
        ("h:5000/ns/m", "h:5000/ns/m:latest", "h:5000/ns/m:latest"),
        ("_under-score.d:1.5b", "_under-score.d:1.5b", "registry.ollama.ai/library/_under-score.d:1.5b"),
    ],
)
def test_names(text: str, display: str, full: str) -> None:
    name = ModelName.parse(text)
    assert (name.display, name.full) == (display, full)
    assert ModelName.parse(name.full) == name


@pytest.mark.parametrize(
    "text",
    [
        *("", ":tag", "nope:", "ns/", "/nope", "a//b", "a.b/m", ".hidden", "-dash", "a" * 81, "m:t:u", "nope:t/x"),
        *("a/b/c/d", "bad name!", "m@sha256:abc", "m:" + "t" * 81, "ä"),
    ],
)
def test_invalid_names(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^invalid model name$"):
        ModelName.parse(text)


@pytest.mark.parametrize(
    ("text", "source", "display"),
    [
        ("x", Source.ANY, "x:latest"),
        (" x ", Source.ANY, "x:latest"),
        ("x:local", Source.LOCAL, "x:latest"),
        ("x:7b:CLOUD", Source.CLOUD, "x:7b"),
        ("gpt-oss:20b-cloud", Source.CLOUD, "gpt-oss:20b"),
        ("gpt-oss:20b:cloud", Source.CLOUD, "gpt-oss:20b"),
    ],
)
def test_source_suffixes(text: str, source: Source, display: str) -> None:
    reference = Reference.parse(text)
    assert (reference.source, reference.name.display) == (source, display)


def test_two_suffixes_conflict() -> None:
    with pytest.raises(NameConflict, match='use either :local or :cloud, not both: "x:cloud:local"'):
        Reference.parse("x:cloud:local")


def test_case_does_not_matter() -> None:
    assert ModelName.parse("Full:V1").matches(ModelName.parse("FULL:v1"))
    assert not ModelName.parse("Full:V1").matches(ModelName.parse("Full:V2"))
