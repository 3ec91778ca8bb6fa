"""The bare loop: mlx-lm's `BatchGenerator` with nothing around it. Jobs come as JSON lines, answers go back so."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from mlx_ollama.worker.blas import preload_openblas


def main() -> None:
    preload_openblas()
    import mlx.core as mx  # noqa: PLC0415 - after the BLAS
    from mlx_lm.generate import BatchGenerator  # noqa: PLC0415 - as above
    from mlx_lm.sample_utils import make_sampler  # noqa: PLC0415 - as above

    from mlx_ollama.worker.load import load  # noqa: PLC0415 - as above

    mx.set_default_device(mx.cpu)
    loaded = load(Path(sys.argv[1]), device="cpu")
    print("ready", flush=True)
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        prompts = [loaded.tokenizer.encode(text, add_special_tokens=False) for text in job["prompts"]]
        sampler = make_sampler(**job["sampler"])
        generator = BatchGenerator(
            loaded.model,
            max_tokens=job["tokens"],
            sampler=sampler,
            stop_tokens=[[token] for token in loaded.eos_token_ids],
        )
        began, tokens, running = time.perf_counter(), 0, len(prompts)
        generator.insert(prompts)
        while running:
            _, responses = generator.next()
            tokens += len(responses)
            running -= sum(response.finish_reason is not None for response in responses)
        print(json.dumps({"tokens": tokens, "seconds": time.perf_counter() - began}), flush=True)
        generator.close()


if __name__ == "__main__":
    main()
