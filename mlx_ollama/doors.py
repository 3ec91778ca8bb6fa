"""Which path speaks which dialect. Dialects do not know each other; this table knows them all."""

from collections.abc import Callable, Mapping

from mlx_ollama.dialects import (
    anthropic,
    ollama,
    ollama_embed,
    ollama_models,
    openai,
    openai_answers,
    openai_audio,
    openai_embeddings,
    responses,
    v1types,
)
from mlx_ollama.dialects.answers import Door, Refuse
from mlx_ollama.dialects.anthropic_answers import CountAnswers, MessagesAnswers
from mlx_ollama.dialects.ollama_answers import ChatEncoder, GenerateEncoder
from mlx_ollama.dialects.responses_answers import ResponsesAnswers
from mlx_ollama.types import Call

DOORS: Mapping[str, Door] = {
    "/api/generate": Door(ollama.decode_generate, GenerateEncoder, ollama.refuse),
    "/api/chat": Door(ollama.decode_chat, ChatEncoder, ollama.refuse),
    "/api/embed": Door(ollama_embed.decode_embed, ollama_embed.EmbedAnswers, ollama.refuse),
    "/api/embeddings": Door(ollama_embed.decode_legacy, ollama_embed.LegacyAnswers, ollama.refuse),
    "/v1/chat/completions": Door(openai.decode_chat, openai_answers.ChatEncoder, v1types.refuse),
    "/v1/completions": Door(openai.decode_completion, openai_answers.CompletionEncoder, v1types.refuse),
    "/v1/embeddings": Door(openai_embeddings.decode, openai_embeddings.Answers, v1types.refuse),
    "/v1/audio/transcriptions": Door(openai_audio.decode, openai_audio.Answers, v1types.refuse),
    "/v1/responses": Door(responses.decode_responses, ResponsesAnswers, responses.refuse),
    "/v1/messages": Door(anthropic.decode_messages, MessagesAnswers, anthropic.refuse),
    "/v1/messages/count_tokens": Door(anthropic.decode_count, CountAnswers, anthropic.refuse),
}
"""What is asked of a model, by path."""

DECODERS: Mapping[tuple[str, str], Callable[[bytes, Mapping[str, str]], Call]] = {
    **{("POST", path): door.decode for path, door in DOORS.items()},
    ("POST", "/api/show"): ollama.decode_show,
    ("POST", "/api/create"): ollama_models.decode_create,
    ("POST", "/api/copy"): ollama_models.decode_copy,
    ("DELETE", "/api/delete"): ollama_models.decode_delete,
    ("POST", "/api/pull"): ollama_models.decode_pull,
    ("POST", "/api/push"): ollama_models.decode_push,
}
"""Every method and path whose body is a call."""


def last_words_of(path: str, call: Call) -> Callable[[str], bytes] | None:
    """How a stream of answers to a call on a path says why it ends, None where nothing is streamed."""
    answers = DOORS[path].answers(call) if path in DOORS else None
    words: Callable[[str], bytes] | None = getattr(answers, "broken", None)
    return words


def refuse_of(path: str) -> Refuse:
    """How errors on a path are worded."""
    door = DOORS.get(path)
    if door is None:
        return v1types.refuse if path.startswith("/v1/models") else ollama.refuse
    return door.refuse
