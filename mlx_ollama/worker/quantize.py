"""Bring a model's weights into another form: `python -m mlx_ollama.worker.quantize SRC DEST FORM`.

FORM is F32, F16 or BF16, or one of the quantisations that `create` knows: Q8_0, Q4_K_S, Q4_K_M, which become affine
groups of 32 with 8 and 4 bits. Standard output is as with `mlx_ollama.worker.convert`.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_ollama.models.files import partial_directory, publish
from mlx_ollama.models.making import FLOATS, QUANTIZED_BITS
from mlx_ollama.worker.blas import preload_openblas
from mlx_ollama.worker.contained import contained
from mlx_ollama.worker.gguf_file import ConversionError
from mlx_ollama.worker.importing import import_mlx_lm
from mlx_ollama.worker.reports import Report, reporting

GROUP_SIZE = 32


def quantize(source: Path, destination: Path, form: str, report: Report) -> None:
    """Read the directory `source`, write `destination`, which appears when it is whole, and not before.

    Raises ConversionError for what the user must know, and OSError when the disk fails.
    """
    preload_openblas()
    total = sum(file.stat().st_size for file in source.glob("model*.safetensors"))
    report("quantizing", 0, total)
    with partial_directory(destination) as directory:
        _write(source, directory, form)
        _copy_rest(source, directory)
        publish(directory, destination)
    report("quantizing", total, total)


def _write(source: Path, directory: Path, form: str) -> None:
    """The configuration and the weights, by mlx-lm."""
    with _or_else("the model cannot be read"):
        # Only now: OpenBLAS must come before the first import of mlx.
        import_mlx_lm()
        from mlx_lm.utils import load_model, quantize_model, save_config, save_model  # noqa: PLC0415 - see above

        model, config = load_model(source, lazy=True)
    if config.get("quantization"):
        raise ConversionError("quantization is only supported for F16, BF16 and F32 models")
    with _or_else(f"the model cannot be brought into the form {form}"):
        model, config = _in_form(model, config, form, quantize_model)
        save_model(directory, model, donate_model=True)
        save_config(config, config_path=directory / "config.json")


@contextmanager
def _or_else(failure: str) -> Iterator[None]:
    """Around calls of mlx-lm. What the disk will not do is left as it is."""
    try:
        with contained():
            yield
    except OSError:
        raise
    except Exception as error:  # mlx-lm runs a module per architecture, and each fails in its own way
        raise ConversionError(f"{failure}: {error or type(error).__name__}") from error


def _in_form(model: Any, config: dict[str, Any], form: str, quantize_model: Any) -> tuple[Any, dict[str, Any]]:
    import mlx.core as mx  # noqa: PLC0415 - after OpenBLAS

    if form in FLOATS:
        name = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[form]
        model.set_dtype(getattr(mx, name))
        return model, {**config, "torch_dtype": name}
    quantised: tuple[Any, dict[str, Any]] = quantize_model(model, config, GROUP_SIZE, QUANTIZED_BITS[form])
    return quantised


def _copy_rest(source: Path, directory: Path) -> None:
    """Tokenizer, templates and whatever else belongs to the model."""
    for file in source.iterdir():
        is_weights = file.suffix == ".safetensors" or file.name.endswith(".safetensors.index.json")
        if file.is_file() and not is_weights and file.name != "config.json":
            shutil.copy(file, directory)


def main(arguments: list[str]) -> int:
    source, destination, form = arguments
    return reporting(lambda report: quantize(Path(source), Path(destination), form, report))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
