"""The use case of embedding: checks in the reference's order, then vectors from a worker (wire-spec 6.8, 6.9)."""

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing

from mlx_ollama.errors import (
    CloudDisabled,
    GenerationFailed,
    InvalidRequest,
    ModelNotFound,
    NoEmbeddings,
)
from mlx_ollama.gojson import Written
from mlx_ollama.library import Library
from mlx_ollama.meter import Meter
from mlx_ollama.models.describe import details_of, embeds
from mlx_ollama.models.names import Reference, Source
from mlx_ollama.models.store import StoredModel
from mlx_ollama.options import Options
from mlx_ollama.resident import Lease
from mlx_ollama.survival import Survival
from mlx_ollama.types import Embed, Embeddings, Usage

ContextOf = Callable[[Options, Lease], int]

MOST_NUMBERS = 1 << 25
"""In one answer, which is in memory as a whole: twelve bytes each, and as many again while it is written."""


class EmbeddingService:
    """Embeds with the models of a library; `context_of` says how many tokens a text may have."""

    def __init__(self, library: Library, survival: Survival, meter: Meter, context_of: ContextOf) -> None:
        self._library = library
        self._survival = survival
        self._meter = meter
        self._context_of = context_of

    async def embed(self, call: Embed) -> Embeddings:
        """Vectors of the call's texts, in their order.

        Raises:
            MlxOllamaError: for all that is wrong with the call, or if the worker fails.
        """
        if call.inputs is None:
            raise InvalidRequest("invalid input type")
        model = self._model(call)
        options = Options.merge(model.parameters, call.options)
        if call.inputs and not embeds(model):
            if call.legacy:
                # clients.md, 3: the same refusal, but its own status.
                raise GenerationFailed(str(NoEmbeddings(call.model)))
            raise NoEmbeddings(call.model)
        self._check_size(call, call.inputs, model)
        try:
            return await self._embed(call, call.inputs, model, options)
        except InvalidRequest as error:
            # The old endpoint takes whatever the engine says for a fault of the server.
            raise GenerationFailed(error.message) if call.legacy else error from error

    def _model(self, call: Embed) -> StoredModel:
        if not call.model:
            raise InvalidRequest("model is required") if call.legacy else ModelNotFound("model '' not found")
        reference = Reference.parse(call.model)
        if reference.source is Source.CLOUD:
            raise CloudDisabled
        model = self._library.find(reference.name)
        # The old endpoint takes a name as it is spelt (wire-spec 7.4).
        if model is None or (call.legacy and model.name.parts != reference.name.parts):
            raise ModelNotFound(f'model "{call.model}" not found, try pulling it first')
        if model.remote_host:
            raise CloudDisabled
        return model

    def _check_size(self, call: Embed, inputs: tuple[str, ...], model: StoredModel) -> None:
        width = max(1, details_of(model).embedding_length)
        width = min(width, call.dimensions) if call.dimensions > 0 else width
        if len(inputs) * width > MOST_NUMBERS:
            most = MOST_NUMBERS // width
            raise InvalidRequest(f"{len(inputs)} inputs: {most} are the most at once for vectors of {width} numbers")

    async def _embed(self, call: Embed, inputs: tuple[str, ...], model: StoredModel, options: Options) -> Embeddings:
        entered = time.monotonic_ns()
        request = self._survival.request(model, call.keep_alive, None, inputs)
        while True:
            async with request.attempt() as lease:
                loaded = time.monotonic_ns()
                context = self._context_of(options, lease)
                lease.resident.context_length = context
                if not inputs:
                    return Embeddings(())
                vectors: list[Sequence[float]] = [()] * len(inputs)
                tokens = 0
                pieces = lease.link.embed(
                    inputs,
                    context=context,
                    truncate=call.truncate,
                    normalize=call.normalize,
                    dimensions=call.dimensions,
                )
                async with aclosing(pieces):
                    async for piece in pieces:
                        request.goes_on()
                        tokens += piece.tokens
                        for index, vector in piece.vectors:
                            vectors[index] = Written(vector)
                now = time.monotonic_ns()
                usage = Usage(tokens, now - loaded, 0, 0, load_ns=max(1, loaded - entered), total_ns=now - entered)
                self._meter.answered(model.name.display, usage)
                return Embeddings(vectors, usage)
