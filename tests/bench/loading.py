"""What mlx-lm alone takes: a process with its imports done loads the directory that it is told, and says its seconds.

`load` is that of `mlx_lm.load`; `first` also has the first token of the bare loop in it.
"""

import json
import sys
import time

from mlx_ollama.worker.blas import preload_openblas


def main() -> None:
    preload_openblas()
    import mlx_lm  # noqa: PLC0415 - after the BLAS
    from mlx_lm.generate import BatchGenerator  # noqa: PLC0415 - as above

    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        began = time.perf_counter()
        model, tokenizer = mlx_lm.load(order["directory"])
        loaded = time.perf_counter() - began
        generator = BatchGenerator(model)
        generator.insert([tokenizer.apply_chat_template(order["messages"], add_generation_prompt=True)])
        while not generator.next()[1]:
            pass
        print(json.dumps({"load": loaded, "first": time.perf_counter() - began}), flush=True)
        generator.close()


if __name__ == "__main__":
    main()
