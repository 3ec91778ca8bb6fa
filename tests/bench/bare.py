"""The bare loop: mlx-lm's `BatchGenerator` with nothing around it. Jobs come as JSON lines, answers go back so."""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_ollama.worker.blas import preload_openblas


def main() -> None:
    preload_openblas()
    import mlx.core as mx  # noqa: PLC0415 - after the BLAS

    from mlx_ollama.worker.load import load  # noqa: PLC0415 - as above

    mx.set_default_device(mx.cpu)
    loop = Loop(load(Path(sys.argv[1]), device="cpu"))
    print("ready", flush=True)
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        done = loop.chat(job["chats"]) if "chats" in job else loop.run(**job)
        print(json.dumps(done), flush=True)


@dataclass
class Running:
    """A chat that is being answered since `arrived`."""

    arrived: float
    first: float | None = None
    tokens: list[int] = field(default_factory=list)


class Loop:
    def __init__(self, loaded: Any) -> None:
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._stop_tokens = [[token] for token in loaded.eos_token_ids]

    def run(self, prompts: list[str], tokens: int, sampler: dict[str, Any]) -> dict[str, float]:
        """Tokens and seconds of raw prompts that are answered together."""
        encoded = [self._tokenizer.encode(text, add_special_tokens=False) for text in prompts]
        generator = self._generator(**sampler)
        began, count, running = time.perf_counter(), 0, len(encoded)
        generator.insert(encoded, [tokens] * len(encoded))
        while running:
            _, responses = generator.next()
            count += len(responses)
            running -= sum(response.finish_reason is not None for response in responses)
        seconds = time.perf_counter() - began
        generator.close()
        return {"tokens": count, "seconds": seconds}

    def chat(self, chats: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Seconds to the first token, and text, of chats in the order in which they arrive."""
        prompts = [self._tokenizer.apply_chat_template(chat["messages"], add_generation_prompt=True) for chat in chats]
        generator, began = self._generator(temp=0.0), time.perf_counter()
        found: dict[int, Running] = {}
        running = 0
        while running or len(found) < len(chats):
            now = time.perf_counter() - began
            if len(found) < len(chats) and now >= chats[len(found)]["at"]:
                at = len(found)
                (handle,) = generator.insert([prompts[at]], [chats[at]["tokens"]])
                found[handle] = Running(chats[at]["at"])
                running += 1
                continue
            if not running:
                time.sleep(chats[len(found)]["at"] - now)
                continue
            _, responses = generator.next()
            for response in responses:
                answer = found[response.uid]
                answer.first = answer.first or time.perf_counter() - began - answer.arrived
                answer.tokens.append(response.token)
                running -= response.finish_reason is not None
        generator.close()
        return [{"first": each.first, "text": self._tokenizer.decode(each.tokens)} for each in found.values()]

    def _generator(self, **sampler: Any) -> Any:
        # After the BLAS and the device.
        from mlx_lm.generate import BatchGenerator  # noqa: PLC0415 - see above
        from mlx_lm.sample_utils import make_sampler  # noqa: PLC0415 - see above

        return BatchGenerator(self._model, sampler=make_sampler(**sampler), stop_tokens=self._stop_tokens)


if __name__ == "__main__":
    main()
