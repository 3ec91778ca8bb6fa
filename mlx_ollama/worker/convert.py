"""Turn a GGUF file into an MLX model directory: `python -m mlx_ollama.worker.convert SRC.gguf DEST`.

It tells of bytes of the GGUF file (`reports.py`), with the statuses reading, converting, writing and success.
"""

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mlx_ollama.models.files import partial_directory, publish
from mlx_ollama.worker.gguf_config import model_config
from mlx_ollama.worker.gguf_families import family_of
from mlx_ollama.worker.gguf_file import ConversionError, GgufFile, read_gguf
from mlx_ollama.worker.gguf_tokenizer import build_tokenizer, tokenizer_config
from mlx_ollama.worker.gguf_weights import Weight, converted_pieces, forms, plan_weights
from mlx_ollama.worker.reports import Report, fail, reporting
from mlx_ollama.worker.shards import ArraySpec, plan_shards, write_json, write_shards, write_text

_READ_BYTES = 16 << 20
# what the tokenizer and the other small files take, generously
_SMALL_FILES_BYTES = 64 << 20


def convert(source: Path, destination: Path, report: Report) -> None:
    """Convert `source`; `destination` appears when it is whole, and not before.

    Raises ConversionError for what the user must know, and OSError when the disk fails.
    """
    report("reading", 0, source.stat().st_size)
    file = read_gguf(source)
    weights, config, tokenizer = _plan(file)
    specs = [spec for weight in weights for spec in weight.specs()]
    check_destination(destination, sum(spec.nbytes for spec in specs) + _SMALL_FILES_BYTES)

    digest = _sha256(file, report)
    with partial_directory(destination) as directory:
        _write_weights(directory, file, weights, specs, report)
        report("writing", file.size, file.size)
        write_json(directory / "config.json", config)
        write_text(directory / "tokenizer.json", tokenizer.to_str())
        write_json(directory / "tokenizer_config.json", tokenizer_config(file.metadata))
        write_json(directory / "gguf.json", file.summary(digest))
        publish(directory, destination)
    report("success", file.size, file.size)


def _plan(file: GgufFile) -> tuple[list[Weight], dict[str, Any], Tokenizer]:
    """What the directory will hold. Raises ConversionError for a file that is not supported, or contradicts itself."""
    try:
        family = family_of(file)
        weights = plan_weights(file, family)
        return weights, model_config(file, family, forms(weights)), build_tokenizer(file.metadata)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:  # a value may be of any type
        raise ConversionError(f"the file's metadata is inconsistent: {error}") from error


def check_destination(destination: Path, needed: int) -> None:
    """Make the parent of `destination`. Raises ConversionError when it lacks `needed` bytes, or has `destination`."""
    if destination.exists():
        raise ConversionError(f"{destination} exists already")
    destination.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(destination.parent).free
    if free < needed:
        raise ConversionError(f"no room on disk: {needed} bytes are needed, {free} are free")


def _sha256(file: GgufFile, report: Report) -> str:
    digest = hashlib.sha256()
    completed = 0
    with file.path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
            completed += len(block)
            report("reading", completed, file.size)
    return digest.hexdigest()


def _write_weights(
    directory: Path, file: GgufFile, weights: list[Weight], specs: list[ArraySpec], report: Report
) -> None:
    def done(completed: int) -> None:
        report("converting", completed, file.size)

    done(0)
    write_shards(directory, plan_shards(specs), converted_pieces(weights, done))
    # The rest of the file is its header.
    done(file.size)


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:  # noqa: PLR2004
        return fail("usage: python -m mlx_ollama.worker.convert SRC.gguf DEST")
    source, destination = map(Path, arguments)
    return reporting(lambda report: convert(source, destination, report))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
