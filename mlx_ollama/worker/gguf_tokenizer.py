"""tokenizer.json and tokenizer_config.json, from the metadata of a GGUF file."""

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mlx_ollama.worker.gguf_file import ConversionError
from mlx_ollama.worker.pretokenizers import PRE_TOKENIZERS, PreTokenizer

# Tokens that end a turn under any template: a model may end with one that its file does not name as its end.
TURN_ENDS = frozenset(
    {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "<|end|>"}
)

_SPACE = "\u2581"  # SentencePiece's visible space
_CONTINUED = "##"  # what WordPiece puts before a piece that begins no word
_OWN_SPECIALS = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "t5": {"eos": 1, "unknown": 2, "padding": 0},
    "bert": {"bos": 101, "eos": 102, "unknown": 100, "padding": 0},
}
_OTHER_KEYS = {"bos": ("cls",), "eos": ("separator", "seperator")}
_PHI3_KEEP_BLANKS = frozenset({"<unk>", "<s>", "<|endoftext|>"})


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`: what a token is for."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def build_tokenizer(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that the file describes: byte-level BPE ("gpt2"), SentencePiece BPE ("llama"), its other kind
    ("t5") or WordPiece ("bert").

    Raises ConversionError, with the name, for another kind or another way of cutting words.
    """
    kind = _require(metadata, "model")
    builders = {"gpt2": _byte_level, "llama": _sentence_piece, "t5": _unigram, "bert": _word_piece}
    if kind not in builders:
        raise ConversionError(f"unsupported tokenizer: {kind}")
    try:
        tokenizer = builders[kind](metadata)
    except ConversionError:
        raise
    except Exception as error:  # the library raises plain Exception for a merge of pieces that are no tokens
        raise ConversionError(f"the file's tokenizer is inconsistent: {error}") from error
    _add_tokens(tokenizer, metadata)
    tokenizer.post_processor = _post_processor(metadata)
    return tokenizer


def tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _special(metadata, "bos"),
        "eos_token": _special(metadata, "eos"),
        "unk_token": _special(metadata, "unknown"),
        "pad_token": _special(metadata, "padding"),
        "add_bos_token": adds_bos(metadata),
        "add_eos_token": adds_eos(metadata),
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata.get(f"{metadata.get('general.architecture')}.context_length"),
        "chat_template": metadata.get("tokenizer.chat_template"),
    }
    return {key: value for key, value in config.items() if value is not None}


def end_token_ids(metadata: Mapping[str, Any]) -> list[int]:
    """The tokens that end an answer: the file's own first, then those known by their text."""
    named = [
        *(special_id(metadata, name) for name in ("eos", "eot")),
        *metadata.get("tokenizer.ggml.eos_token_ids", []),
    ]
    known = [i for i, (token, kind) in enumerate(_tokens(metadata)) if token in TURN_ENDS and kind in _ADDED]
    return list(dict.fromkeys([i for i in named if i is not None] + known))


def special_id(metadata: Mapping[str, Any], name: str) -> int | None:
    """The id of "bos", "eos", "eot", "unknown" or "padding"; None when there is none.

    llama.cpp has defaults for some kinds of vocabularies; a byte-level one has none worth keeping. What begins and ends
    a text of BERT's has names of its own, one of them misspelt.
    """
    model = str(metadata.get("tokenizer.ggml.model"))
    others = _OTHER_KEYS.get(name, ()) if model == "bert" else ()
    given = (metadata.get(f"tokenizer.ggml.{key}_token_id") for key in (*others, name))
    value = next((token for token in given if token is not None), _OWN_SPECIALS.get(model, {}).get(name))
    # files write 2^32 - 1 or -1 for "none"
    return value if value is not None and 0 <= value < len(_require(metadata, "tokens")) else None


def adds_bos(metadata: Mapping[str, Any]) -> bool:
    if special_id(metadata, "bos") is None:
        return False
    default = metadata.get("tokenizer.ggml.model") in ("llama", "bert") or _pre_tokenizer(metadata).bos
    return bool(metadata.get("tokenizer.ggml.add_bos_token", default))


def adds_eos(metadata: Mapping[str, Any]) -> bool:
    default = metadata.get("tokenizer.ggml.model") == "bert"
    return special_id(metadata, "eos") is not None and bool(metadata.get("tokenizer.ggml.add_eos_token", default))


_SPECIAL = (TokenType.CONTROL, TokenType.UNKNOWN)
_ADDED = (TokenType.CONTROL, TokenType.USER_DEFINED)


def _byte_level(metadata: Mapping[str, Any]) -> Tokenizer:
    pre_tokenizer = _pre_tokenizer(metadata)
    # a byte-level token holds no space of its own, so the first one parts the two
    merges = [tuple(merge.split(" ", 1)) for merge in _require(metadata, "merges")]
    model = models.BPE(_vocabulary(metadata), merges, ignore_merges=pre_tokenizer.whole_words)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer.build()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(metadata: Mapping[str, Any]) -> Tokenizer:
    """Spaces become visible, one is put before the text, and characters without a token become bytes."""
    vocabulary = _vocabulary(metadata)
    unknown = _special(metadata, "unknown")
    merges = _merges_by_score(vocabulary, _require(metadata, "scores"))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", not _is_gemma(metadata))
    prepend = [normalizers.Prepend(_SPACE)] if prefix else []
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", _SPACE)])
    # mlx-lm knows this very list, and streams such tokens in linear time
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _unigram(metadata: Mapping[str, Any]) -> Tokenizer:
    """SentencePiece of the kind that takes the likeliest pieces, which XLM-RoBERTa has."""
    tokens = list(zip(_require(metadata, "tokens"), _require(metadata, "scores"), strict=True))
    tokenizer = Tokenizer(models.Unigram(tokens, unk_id=special_id(metadata, "unknown"), byte_fallback=False))
    # What characters are exchanged for others first; values may have been written as signed ones.
    table = bytes(value & 0xFF for value in metadata.get("tokenizer.ggml.precompiled_charsmap") or [])
    if table:
        tokenizer.normalizer = normalizers.Precompiled(table)
    scheme = "always" if metadata.get("tokenizer.ggml.add_space_prefix", True) else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(_SPACE, prepend_scheme=scheme)
    return tokenizer


def _word_piece(metadata: Mapping[str, Any]) -> Tokenizer:
    """BERT's. llama.cpp marks the pieces that begin a word, where BERT marks the others; all are in lower case."""
    vocabulary = {_as_published(token): token_id for token, token_id in _vocabulary(metadata).items()}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=_special(metadata, "unknown")))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUED)
    return tokenizer


def _as_published(token: str) -> str:
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[1:] if token.startswith(_SPACE) else f"{_CONTINUED}{token}"


def _merges_by_score(vocabulary: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """SentencePiece joins the two neighbours whose union scores highest, so each union's rank is its score's.

    Every way to cut a token into two tokens is such a pair; those of one token are ordered by their ids.
    """
    pairs = [
        (-scores[token_id], vocabulary[left], vocabulary[right], left, right)
        for token, token_id in vocabulary.items()
        for left, right in _cuts(token)
        if left in vocabulary and right in vocabulary
    ]
    return [(left, right) for *_, left, right in sorted(pairs)]


def _cuts(token: str) -> Iterator[tuple[str, str]]:
    return ((token[:i], token[i:]) for i in range(1, len(token)))


def _add_tokens(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> None:
    """Control tokens are special, so decoding may leave them out; user-defined ones are ordinary text in one piece."""
    tokens = [(token, kind) for token, kind in _tokens(metadata) if token]
    phi3 = _is_phi3(metadata)
    tokenizer.add_special_tokens([_whole(token, phi3=phi3) for token, kind in tokens if kind in _SPECIAL])
    tokenizer.add_tokens([_whole(token, phi3=phi3) for token, kind in tokens if kind == TokenType.USER_DEFINED])


def _whole(token: str, *, phi3: bool) -> AddedToken:
    """Phi-3's tokens of a conversation swallow the blanks behind them."""
    return AddedToken(token, normalized=False, rstrip=phi3 and token not in _PHI3_KEEP_BLANKS)


def _is_phi3(metadata: Mapping[str, Any]) -> bool:
    """Nothing else in a file tells Phi-3 from other SentencePiece vocabularies; llama.cpp goes by the name, too."""
    name = str(metadata.get("general.name", "")).lower()
    return "phi-3" in name or "phi3" in name


def _is_gemma(metadata: Mapping[str, Any]) -> bool:
    """Its texts begin without a space, which a file written by the reference server does not say."""
    return str(metadata.get("general.architecture", "")).startswith("gemma")


def _post_processor(metadata: Mapping[str, Any]) -> processors.PostProcessor | None:
    before = [_special(metadata, "bos")] if adds_bos(metadata) else []
    after = [_special(metadata, "eos")] if adds_eos(metadata) else []
    if not before and not after:
        return None
    ids = {_special(metadata, name): special_id(metadata, name) for name in ("bos", "eos")}
    return processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *before, "$B:1", *after],
        special_tokens=[(token, ids[token]) for token in {*before, *after}],
    )


def _pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    name = metadata.get("tokenizer.ggml.pre", "default")
    try:
        return PRE_TOKENIZERS[name]
    except KeyError:
        raise ConversionError(f"unsupported pre-tokenizer: {name}") from None


def _tokens(metadata: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Each token with its type, in the order of ids; a file without types has ordinary tokens only."""
    tokens = _require(metadata, "tokens")
    kinds = metadata.get("tokenizer.ggml.token_type") or [TokenType.NORMAL] * len(tokens)
    return zip(tokens, kinds, strict=False)


def _vocabulary(metadata: Mapping[str, Any]) -> dict[str, int]:
    return {token: i for i, token in enumerate(_require(metadata, "tokens"))}


def _special(metadata: Mapping[str, Any], name: str) -> str | None:
    index = special_id(metadata, name)
    return None if index is None else str(_require(metadata, "tokens")[index])


def _require(metadata: Mapping[str, Any], name: str) -> Any:
    try:
        return metadata[f"tokenizer.ggml.{name}"]
    except KeyError:
        raise ConversionError(f"the file's metadata lacks tokenizer.ggml.{name}") from None
