"""The use cases that need an engine: chat, complete, embed. No HTTP and no JSON: calls in, events out."""

import itertools
import logging
import random
import string
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeAlias

from mlx_ollama import gotime
from mlx_ollama.embeddings import EmbeddingService
from mlx_ollama.errors import (
    CloudDisabled,
    InvalidRequest,
    MlxOllamaError,
    ModelMissing,
    TemplateFailed,
    Unsupported,
)
from mlx_ollama.formats import schema_of
from mlx_ollama.library import Library
from mlx_ollama.memory.estimate import Demand
from mlx_ollama.meter import Meter, measured
from mlx_ollama.models.capabilities import capabilities, family, parser_name, uses_harmony
from mlx_ollama.models.describe import details_of, embeds
from mlx_ollama.models.directory import jinja_template
from mlx_ollama.models.names import Reference, Source
from mlx_ollama.models.parsers import RENDERERS
from mlx_ollama.models.store import StoredModel
from mlx_ollama.options import Options
from mlx_ollama.pool import Pool
from mlx_ollama.protocol import Prompt, Ready, Sampling
from mlx_ollama.resident import Lease
from mlx_ollama.schemas import known_parts
from mlx_ollama.survival import Ask, Survival
from mlx_ollama.thinking import Thinking, speaks_harmony, without_thoughts
from mlx_ollama.types import (
    Chat,
    Completion,
    Delta,
    Done,
    Embed,
    Event,
    Generation,
    Leased,
    LoadedModel,
    Message,
    Recalled,
    ToolCall,
)

logger = logging.getLogger(__name__)

Events: TypeAlias = AsyncGenerator[Event | Leased, None]

MINIMAL_CONTEXT = 4
SMALL_CONTEXT = 4096
_CONTEXT_BY_GPU_MEMORY = ((47 << 30, 262_144), (23 << 30, 32_768))
MOST_TOP_LOGPROBS = 20
MOST_CONTEXT_TOKENS = 1 << 20
MOST_STOPS = 256
LONGEST_STOP = 1024
"""Characters. Each is looked for after every token, and its beginnings at the end of the text."""

_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH = 8
_PULL_AGAIN = ". Pull the model again to get the latest version with full thinking support"
_random = random.SystemRandom()


class Service:
    """What this server can do. `default_context` is the operator's choice of tokens, 0 for one by memory."""

    def __init__(self, library: Library, pool: Pool, meter: Meter, *, default_context: int) -> None:
        self._library = library
        self._pool = pool
        self._meter = meter
        self._default_context = default_context
        self._survival = Survival(pool)
        self.embed = EmbeddingService(library, self._survival, meter, self._context).embed

    def chat(self, call: Chat) -> Events:
        """Answer a conversation. The checks come first, in the order of wire-spec 4.2.

        Raises:
            MlxOllamaError: before the first event for all that is wrong with the call; later if the worker fails.
        """
        _check_logprobs(call)
        if not call.model:
            raise InvalidRequest("model is required")
        model = self._find(call)
        if call.unloads:
            return self._unload(model)
        self._check_thinking(call, model)
        self._check_chat(call, model)
        options = Options.merge(model.parameters, call.options)
        return self._generate(call, model, options, self._chat_prompt(call, model) if call.messages else None)

    def complete(self, call: Completion) -> Events:
        """Continue a prompt. The checks come first, in the order of wire-spec 3.2.

        Raises:
            MlxOllamaError: as `chat` does.
        """
        _check_logprobs(call)
        if not call.model:
            raise ModelMissing("")
        model = self._find(call)
        if call.unloads:
            return self._unload(model)
        if len(call.context or ()) > MOST_CONTEXT_TOKENS:
            raise InvalidRequest(f"context of more than {MOST_CONTEXT_TOKENS} tokens")
        if call.raw and (call.template or call.system or call.context):
            raise InvalidRequest("raw mode does not support template, system, or context")
        self._check_thinking(call, model)
        self._check_completion(call, model)
        options = Options.merge(model.parameters, call.options)
        return self._generate(call, model, options, self._completion_prompt(call, model) if call.prompt else None)

    async def preload(self, names: Sequence[str]) -> None:
        """Load models that nobody has asked for yet, one after the other; what cannot be loaded is logged."""
        for name in names:
            try:
                await self._preload(name)
            except MlxOllamaError as error:
                logger.warning("%s is not preloaded: %s", name, error.message)

    async def _preload(self, name: str) -> None:
        model = self._find(Completion(model=name))
        if embeds(model):
            await self.embed(Embed(model=name))
            return
        async with aclosing(self.complete(Completion(model=name))) as events:
            async for _ in events:
                pass

    def loaded(self) -> Sequence[LoadedModel]:
        """Every model in memory, the latest to expire first."""
        now, wall = time.monotonic(), gotime.now()
        return [
            LoadedModel(
                name=resident.model.name.display,
                size=resident.ready.weight_bytes,
                size_vram=resident.ready.weight_bytes if resident.ready.gpu_memory else 0,
                digest=resident.model.digest,
                details=details_of(resident.model),
                expires=wall + int(resident.expires_in(now) * 1e9),
                context_length=resident.context_length,
            )
            for resident in self._pool.residents()
            if resident.ready is not None
        ]

    def _find(self, call: Generation) -> StoredModel:
        reference = Reference.parse(call.model)
        if reference.source is Source.CLOUD:
            raise CloudDisabled
        model = self._library.find(reference.name)
        if model is None:
            raise ModelMissing(call.model)
        if model.remote_host:
            raise CloudDisabled
        return model

    def _check_chat(self, call: Chat, model: StoredModel) -> None:
        capabilities = self._capabilities(model)
        if "completion" not in capabilities:
            raise Unsupported(f'"{call.model}" does not support chat')
        if call.tools and "tools" not in capabilities:
            raise Unsupported(f"{model.name.full} does not support tools")
        _check_media([message.images for message in call.messages], [message.audio for message in call.messages])

    def _check_completion(self, call: Completion, model: StoredModel) -> None:
        capabilities = self._capabilities(model)
        missing = []
        if "completion" not in capabilities:
            missing.append(f'"{call.model}" does not support generate')
        if call.suffix and "insert" not in capabilities:
            missing.append(f"{model.name.full} does not support insert")
        if missing:
            raise Unsupported("\n".join(missing))
        _check_media([call.images])

    def _capabilities(self, model: StoredModel) -> tuple[str, ...]:
        """What the model can do here (wire-spec 10.2)."""
        return capabilities(model)

    def _check_thinking(self, call: Generation, model: StoredModel) -> None:
        if call.think and not call.think_if_able and "thinking" not in self._capabilities(model):
            is_older = family(model) == "qwen3" or model.name.model == "deepseek-r1"
            raise Unsupported(f'"{call.model}" does not support thinking' + (_PULL_AGAIN if is_older else ""))

    def _unload(self, model: StoredModel) -> Events:
        self._pool.expire(model)
        return _only(Done("unload"))

    async def _generate(self, call: Generation, model: StoredModel, options: Options, prompt: Prompt | None) -> Events:
        entered = time.monotonic_ns()
        demand = Demand.of(prompt, limit=max(0, options.num_predict), context=options.num_ctx or self._default_context)
        if prompt is None:
            async with self._pool.lease(model, call.keep_alive, demand) as lease:
                yield Leased()
                lease.resident.context_length = self._context(options, lease)
                yield Done("load")
            return
        request = self._survival.request(model, call.keep_alive, demand, prompt)
        answer = request.events(self._asking(call, model, options, prompt))
        calls = itertools.count()
        loaded = entered
        async with aclosing(measured(answer, self._meter, model=model.name.display, entered=entered)) as events:
            async for event in events:
                match event:
                    case Leased() if loaded == entered:
                        loaded = time.monotonic_ns()
                        yield event
                    case Done():
                        yield _timed(event, entered, loaded)
                    case Delta(tool_calls=(_, *_)):
                        named = tuple(_named(call, next(calls)) for call in event.tool_calls)
                        yield event._replace(tool_calls=named)
                    case _:
                        yield event

    def _asking(self, call: Generation, model: StoredModel, options: Options, prompt: Prompt) -> Ask:
        """How a worker is asked. What is chosen by chance is chosen once, for all workers that it takes."""
        sampling = _sampling(call, options)
        wants_context = isinstance(call, Completion) and not call.raw

        def ask(lease: Lease, known: tuple[int, ...]) -> AsyncGenerator[Event | Recalled, None]:
            context = lease.resident.context_length = self._context(options, lease)
            fitted = replace(prompt, context=context, keep=options.num_keep)
            if call.render_only:
                return _rendered(lease, fitted)
            return lease.link.generate(
                fitted, sampling, want_context=wants_context, grammar=schema_of(call.format), resume=known
            )

        return ask

    def _context(self, options: Options, lease: Lease) -> int:
        return context_length(options, lease.ready, self._default_context)

    def _chat_prompt(self, call: Chat, model: StoredModel) -> Prompt:
        """Modelfile MESSAGEs, then the request's; SYSTEM in front unless the request brings one (wire-spec 4.3)."""
        messages = [*model.messages, *call.messages]
        if model.system and call.messages[0].role != "system":
            messages.insert(0, Message("system", model.system))
        if family(model).startswith("qwen3") or model.name.model == "deepseek-r1":
            messages = without_thoughts(messages)
        template = _template(model)
        thinking = self._thinking(call, model, template)
        prompt = _prompt(call, thinking, template, messages, drop_oldest=call.truncate, tools=call.tools)
        return replace(prompt, parser=parser_name(model))

    def _completion_prompt(self, call: Completion, model: StoredModel) -> Prompt:
        template = call.template or _template(model)
        if call.raw:
            return replace(_prompt(call, Thinking(), "", []), style="raw", text=call.prompt)
        thinking = self._thinking(call, model, template)
        if call.suffix:
            return replace(_prompt(call, thinking, template, []), style="fill", text=call.prompt, suffix=call.suffix)
        system = call.system or model.system
        messages = [Message("system", system)] if system else []
        if call.context is None:
            messages += model.messages
        messages.append(Message("user", call.prompt))
        prompt = _prompt(call, thinking, template, messages)
        return replace(prompt, prefix=call.context or (), parser="" if call.template else parser_name(model))

    def _thinking(self, call: Generation, model: StoredModel, template: str) -> Thinking:
        harmony = speaks_harmony(template) if template else uses_harmony(model)
        can_think = "thinking" in self._capabilities(model)
        wanted = call.think if can_think or not call.think_if_able else None
        return Thinking.settle(wanted, can_think=can_think, harmony=harmony)


def context_length(options: Options, ready: Ready, default: int) -> int:
    """How many tokens prompt and answer may fill; the model's trained context is the most (wire-spec 3.3).

    `default` is the operator's choice, 0 for one by the memory of the GPU.
    """
    by_memory = next((length for memory, length in _CONTEXT_BY_GPU_MEMORY if ready.gpu_memory >= memory), SMALL_CONTEXT)
    wanted = options.num_ctx if options.num_ctx is not None else default or by_memory
    return max(MINIMAL_CONTEXT, min(wanted, ready.context_length or wanted))


def _template(model: StoredModel) -> str:
    """The TEMPLATE to render by; empty for the chat template that came with the weights.

    Raises:
        TemplateFailed: for a RENDERER that does not exist.
    """
    renderer = str(model.config.get("renderer", ""))
    if renderer and renderer not in RENDERERS:
        raise TemplateFailed(f'unknown renderer "{renderer}"')
    return "" if renderer and jinja_template(model.directory) else model.template


def _prompt(
    call: Generation,
    thinking: Thinking,
    template: str,
    messages: Sequence[Message],
    *,
    drop_oldest: bool = False,
    tools: Sequence[Mapping[str, Any]] = (),
) -> Prompt:
    return Prompt(
        style="chat",
        context=0,
        keep=0,
        shift=call.shift and call.truncate,
        drop_oldest=drop_oldest,
        template=template or None,
        messages=tuple(messages),
        tools=tuple(known_parts(tool) for tool in tools),
        think=thinking.think,
        think_level=thinking.level,
        think_set=thinking.is_set,
        think_named=thinking.is_named,
    )


def _sampling(call: Generation, options: Options) -> Sampling:
    if len(options.stop) > MOST_STOPS or any(len(stop) > LONGEST_STOP for stop in options.stop):
        raise InvalidRequest(f'option "stop" has over {MOST_STOPS} strings, or one of over {LONGEST_STOP} characters')
    return Sampling(
        seed=options.seed if options.seed >= 0 else _random.getrandbits(32),
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        typical_p=options.typical_p,
        repeat_last_n=options.repeat_last_n,
        repeat_penalty=options.repeat_penalty,
        presence_penalty=options.presence_penalty,
        frequency_penalty=options.frequency_penalty,
        stop=options.stop,
        limit=max(0, options.num_predict),
        logprobs=call.top_logprobs if call.logprobs else None,
    )


def _named(call: ToolCall, index: int) -> ToolCall:
    """The call with its place in the answer and an id to refer to (wire-spec 4.4)."""
    return replace(call, index=index, id="call_" + "".join(_random.choices(_ID_ALPHABET, k=_ID_LENGTH)))


def _timed(done: Done, entered: int, loaded: int) -> Done:
    if done.usage is None:
        return done
    now = time.monotonic_ns()
    return replace(done, usage=replace(done.usage, load_ns=max(1, loaded - entered), total_ns=now - entered))


async def _only(event: Event) -> Events:
    yield event


async def _rendered(lease: Lease, prompt: Prompt) -> AsyncGenerator[Event | Recalled, None]:
    yield await lease.link.render(prompt)


def _check_logprobs(call: Generation) -> None:
    if not 0 <= call.top_logprobs <= MOST_TOP_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be between 0 and {MOST_TOP_LOGPROBS}")


def _check_media(images: Sequence[tuple[bytes, ...]], audio: Sequence[tuple[bytes, ...]] = ()) -> None:
    for kind, given in (("image", images), ("audio", audio)):
        if any(given):
            raise Unsupported(f"this model does not support {kind} input")
