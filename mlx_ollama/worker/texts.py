"""Texts to be embedded as token ids, with the marks around them that the model was trained with."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from mlx_ollama.errors import InvalidRequest, LoadFailed

TOO_LONG = "the input length exceeds the context length"
NO_ROOM = "input after truncation exceeds maximum context length"

FRONT_CHARACTERS = 64
"""For each token that a text may have, this many characters are read first: hardly a text needs more."""

_OLDER_FILES = ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model")


class TextTokenizer:
    """Wraps a tokenizer of the `tokenizers` library.

    `before` and `after` are ids that the model wants around each text and the tokenizer does not add by itself;
    `lower_case` is what sentence-transformers does to a text first, where a model's files say so.
    """

    def __init__(
        self,
        backend: Tokenizer,
        *,
        before: Sequence[int] = (),
        after: Sequence[int] = (),
        lower_case: bool = False,
    ) -> None:
        # Files bring along how they were used last: cut to 128 tokens and filled up to as many.
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self._before, self._after = list(before), list(after)
        self._lower_case = lower_case
        self._marks = backend.num_special_tokens_to_add(False) + len(before) + len(after)

    @classmethod
    def read(cls, directory: Path, *, lower_case: bool) -> "TextTokenizer":
        """The tokenizer in a model directory.

        Raises:
            LoadFailed: if there is none that can be read.
        """
        backend = _backend(directory)
        settings = _settings(directory)
        specials = list(backend.encode("").ids)
        bos, eos = (backend.token_to_id(_content(settings.get(key))) for key in ("bos_token", "eos_token"))
        # Llama-like embedders say here, and not in tokenizer.json, that they want an end token.
        before = [bos] if settings.get("add_bos_token") is True and bos is not None and bos not in specials else []
        after = [eos] if settings.get("add_eos_token") is True and eos is not None and eos not in specials else []
        return cls(backend, before=before, after=after, lower_case=lower_case)

    def encode(self, texts: Sequence[str], *, longest: int, truncate: bool) -> list[list[int]]:
        """The ids of each text, at least one, at most `longest`; a text that has more loses its end if it may.

        Raises:
            InvalidRequest: in the reference's words (wire-spec 6.8).
        """
        room = longest - self._marks
        if room <= 0:
            raise InvalidRequest(NO_ROOM)
        read = FRONT_CHARACTERS * longest
        encodings = self._encodings([text[:read] for text in texts])
        # A front that is clearly more than there is room for tells all; words at its very end may be cut.
        rest = [at for at, text in enumerate(texts) if len(text) > read and len(encodings[at]) < 2 * room]
        for at, encoding in zip(rest, self._encodings([texts[at] for at in rest]), strict=True):
            encodings[at] = encoding
        return [self._marked(encoding, room, truncate=truncate) for encoding in encodings]

    def _encodings(self, texts: list[str]) -> list[Encoding]:
        lowered = [text.lower() for text in texts] if self._lower_case else texts
        return list(self._backend.encode_batch_fast(lowered, add_special_tokens=False))

    def _marked(self, encoding: Encoding, room: int, *, truncate: bool) -> list[int]:
        if len(encoding) > room:
            if not truncate:
                raise InvalidRequest(TOO_LONG)
            encoding.truncate(room)
        ids = self._before + list(self._backend.post_process(encoding).ids) + self._after
        # Of an empty text some tokenizers make nothing, and a model cannot start from that.
        return ids or list(self._backend.encode(" ").ids[:1]) or [0]


def _backend(directory: Path) -> Tokenizer:
    file = directory / "tokenizer.json"
    older = any((directory / name).is_file() for name in _OLDER_FILES)
    if not file.is_file() and not older:
        # transformers would make up a tokenizer that knows no word.
        raise LoadFailed(f"{directory} has no tokenizer.json")
    try:
        backend = Tokenizer.from_file(str(file)) if file.is_file() else _by_transformers(directory)
    except Exception as error:  # neither library promises a type
        raise LoadFailed(f"the tokenizer in {directory} cannot be loaded: {error}") from error
    if not isinstance(backend, Tokenizer):
        raise LoadFailed(f"the tokenizer in {directory} is of a kind that is not supported for embeddings")
    return backend


def _by_transformers(directory: Path) -> Any:
    """A tokenizer from older files, which take a second of imports to understand."""
    from mlx_lm.utils import load_tokenizer  # noqa: PLC0415 - see above

    wrapper = load_tokenizer(directory, {"trust_remote_code": False, "local_files_only": True})
    return wrapper.backend_tokenizer


def _settings(directory: Path) -> dict[str, Any]:
    try:
        settings = json.loads((directory / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _content(token: Any) -> str:
    """A special token's text, which stands alone or in an object with its properties."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
