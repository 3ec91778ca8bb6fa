"""Model names as Ollama parses, matches and prints them (wire-spec section 7)."""

import re
from dataclasses import dataclass, replace
from enum import Enum

from mlx_ollama.errors import InvalidRequest, NameConflict

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")


class Source(Enum):
    """Where a request wants its model from; a suffix of the name says so."""

    ANY = "any"
    LOCAL = "local"
    CLOUD = "cloud"


@dataclass(frozen=True)
class ModelName:
    """A complete, valid name: host, namespace, model and tag are all set."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Read `[scheme://][host/][namespace/]model[:tag]` from the right (wire-spec 7.1, 7.2).

        Raises:
            InvalidRequest: `invalid model name`.
        """
        _, separator, rest = text.partition("://")
        path, tag = _cut_tag(rest if separator else text)
        parts = path.split("/")
        if len(parts) > 3:  # noqa: PLR2004 - host, namespace, model
            raise InvalidRequest("invalid model name")
        model = parts[-1]
        namespace = parts[-2] if len(parts) > 1 else DEFAULT_NAMESPACE
        host = parts[0] if len(parts) > 2 else DEFAULT_HOST  # noqa: PLR2004 - see above
        valid = (_HOST, host), (_NAMESPACE, namespace), (_PART, model), (_PART, tag)
        if not all(pattern.fullmatch(part) for pattern, part in valid):
            raise InvalidRequest("invalid model name")
        return cls(host, namespace, model, tag)

    @property
    def display(self) -> str:
        """The shortest form with a tag, as tags, ps and show print it (wire-spec 7.5)."""
        if self.host != DEFAULT_HOST:
            return self.full
        if self.namespace != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def full(self) -> str:
        """The complete form, which capability errors use."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def parts(self) -> tuple[str, str, str, str]:
        return self.host, self.namespace, self.model, self.tag

    def matches(self, other: "ModelName") -> bool:
        """Equality that ignores case, part by part (wire-spec 7.4)."""
        return [part.lower() for part in self.parts] == [part.lower() for part in other.parts]


@dataclass(frozen=True)
class Reference:
    """A name as a request gave it: what to echo, what to look up, and where."""

    text: str
    name: ModelName
    source: Source = Source.ANY

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read a requested name with its source suffix (wire-spec 7.3).

        Raises:
            InvalidRequest: `invalid model name`.
            NameConflict: for two suffixes.
        """
        bare, source = _cut_source(text.strip())
        if source is not Source.ANY and _cut_source(bare)[1] is not Source.ANY:
            raise NameConflict(text.strip())
        return cls(text, ModelName.parse(bare), source)

    def named(self, name: ModelName) -> "Reference":
        """The same reference with the spelling under which the model is stored."""
        return replace(self, name=name)


def _cut_tag(text: str) -> tuple[str, str]:
    head, colon, tag = text.rpartition(":")
    if colon and "/" not in tag:
        return head, tag
    return text, DEFAULT_TAG


def _cut_source(text: str) -> tuple[str, Source]:
    lowered = text.lower()
    for source in (Source.CLOUD, Source.LOCAL):
        if lowered.endswith(f":{source.value}"):
            return text[: -len(source.value) - 1], source
    _, tag = _cut_tag(text)
    if tag.lower().endswith("-cloud"):
        return text[: -len("-cloud")], Source.CLOUD
    return text, Source.ANY
