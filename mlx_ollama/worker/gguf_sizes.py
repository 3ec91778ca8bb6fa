"""How large the model in a GGUF file is. Every function raises ConversionError for what the file lacks."""

from mlx_ollama.worker.gguf_file import ConversionError, GgufFile


def layer_count(file: GgufFile) -> int:
    layers = file.count("block_count")
    if layers > len(file.tensors):
        raise ConversionError(f"the file lacks the tensors of {layers} layers")
    return layers


def hidden_size(file: GgufFile) -> int:
    return file.count("embedding_length")


def head_count(file: GgufFile) -> int:
    return file.count("attention.head_count")


def kv_head_count(file: GgufFile) -> int:
    return file.count("attention.head_count_kv", head_count(file))


def head_size(file: GgufFile) -> int:
    return file.count("attention.key_length", hidden_size(file) // head_count(file))


def rotated_size(file: GgufFile) -> int:
    """How many numbers of a head are rotated by their position."""
    return file.count("rope.dimension_count", head_size(file))


def vocabulary_size(file: GgufFile) -> int:
    """The embedding counts: some files pad it beyond the tokens they list."""
    embedding = file.tensor("token_embd.weight")
    if embedding is None:
        raise ConversionError("the file lacks the tensor token_embd.weight")
    return embedding.shape[-1]
