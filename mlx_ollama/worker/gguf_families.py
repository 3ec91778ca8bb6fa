"""The architectures of GGUF files that become MLX models: one table, with what each calls its parts.

The names on the left are llama.cpp's, those on the right the published models' own, which are mlx-lm's and our
encoder's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from mlx_ollama.worker.gguf_file import ConversionError, GgufFile
from mlx_ollama.worker.gguf_rope import TABLES, Scaling, rope_scaling, rope_theta
from mlx_ollama.worker.gguf_sizes import (
    head_count,
    head_size,
    hidden_size,
    layer_count,
    rotated_size,
    vocabulary_size,
)
from mlx_ollama.worker.halves import Half


def _both(theirs: str, published: str) -> dict[str, str]:
    """The two parts of a layer that has a bias."""
    return {f"{theirs}.{part}": f"{published}.{part}" for part in ("weight", "bias")}


_MODEL = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_HEAD = {"output.weight": "lm_head.weight"}
_SEGMENTS = "token_types.weight"
_SPLIT_ATTENTION = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
}
_FUSED_ATTENTION = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_qkv.weight": "self_attn.qkv_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
}
_BIASES = {
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.bias": "self_attn.v_proj.bias",
}
_HEAD_NORMS = {"attn_q_norm.weight": "self_attn.q_norm.weight", "attn_k_norm.weight": "self_attn.k_norm.weight"}
_SPLIT_MLP = {
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
_FUSED_MLP = {"ffn_up.weight": "mlp.gate_up_proj.weight", "ffn_down.weight": "mlp.down_proj.weight"}
_ONE_NORM_AFTER = {"ffn_norm.weight": "post_attention_layernorm.weight"}
_GEMMA_NORMS = {
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
}

_ENCODER = {
    "token_embd.weight": "embeddings.word_embeddings.weight",
    _SEGMENTS: "embeddings.token_type_embeddings.weight",
}
_BERT_MODEL = _ENCODER | {
    "position_embd.weight": "embeddings.position_embeddings.weight",
    **_both("token_embd_norm", "embeddings.LayerNorm"),
}
_BERT_LAYER = {
    **_both("attn_q", "attention.self.query"),
    **_both("attn_k", "attention.self.key"),
    **_both("attn_v", "attention.self.value"),
    **_both("attn_output", "attention.output.dense"),
    **_both("attn_output_norm", "attention.output.LayerNorm"),
    **_both("ffn_up", "intermediate.dense"),
    **_both("ffn_down", "output.dense"),
    **_both("layer_output_norm", "output.LayerNorm"),
}
_NOMIC_MODEL = _ENCODER | _both("token_embd_norm", "emb_ln")
_NOMIC_LAYER = {
    "attn_qkv.weight": "attn.Wqkv.weight",
    "attn_output.weight": "attn.out_proj.weight",
    **_both("attn_output_norm", "norm1"),
    "ffn_up.weight": "mlp.fc11.weight",
    "ffn_gate.weight": "mlp.fc12.weight",
    "ffn_down.weight": "mlp.fc2.weight",
    **_both("layer_output_norm", "norm2"),
}

# Gemma's two largest models scale attention by the width of the model, all others by that of a head; a file does not
# say which, but llama.cpp tells them by their number of layers.
_GEMMA_27B = {"gemma2": 46, "gemma3": 62}
# Of the published Gemma 3, those of 4, 12 and 27 billion have linear scaling by 8, which older files leave out.
_GEMMA3_SCALED_LAYERS = (34, 48, 62)
_GEMMA3_PATTERN = 6
_NOMIC_THETA = 1000.0


@dataclass(frozen=True)
class Family:
    """How the models of one architecture become models of mlx-lm's.

    `half` is the precision of what is not quantised. Only llama keeps float16, in which a GGUF file has its scales, so
    that nothing is rounded: the others were published in bfloat16, and their activations do not fit in float16.
    `interleaved`: llama.cpp has the rows of queries and keys in an order of its own. `added_to_norms`: it stores the
    weights of norms with this added. `scalings`: those of rotary positions that mlx-lm's model computes.
    `own_head_size`: a head may have another size than its share of the model's. `norm_epsilon`: where a file has none.
    `settings`: what this family has in its config.json beside, or instead of, what all have; all that an `encoder` has.
    `model` are the parameters outside of layers, and `stem` is what stands before the numbers of those.
    """

    model_type: str
    class_name: str
    layer: Mapping[str, str]
    settings: Callable[[GgufFile], dict[str, Any]]
    head: bool = True
    half: Half = "BF16"
    interleaved: bool = False
    added_to_norms: float = 0.0
    own_head_size: bool = True
    part_rotated: bool = False
    norm_epsilon: float | None = None
    scalings: frozenset[str] = field(default=frozenset({"linear", "yarn", "llama3"}))
    passed_over: tuple[str, ...] = ()
    encoder: bool = False
    model: Mapping[str, str] = field(default_factory=lambda: _MODEL)
    stem: str = "model.layers"

    def parameters(self, layers: int) -> dict[str, str]:
        """From the names of tensors in a GGUF file to those of the parameters of the published model."""
        names = {**self.model, **(_HEAD if self.head else {})}
        for layer in range(layers):
            names |= {f"blk.{layer}.{name}": f"{self.stem}.{layer}.{own}" for name, own in self.layer.items()}
        return names

    def may_lack(self, name: str) -> bool:
        """The head may be the embedding, and segments may have no vectors."""
        return name in _HEAD or name == _SEGMENTS

    def passes_over(self, name: str) -> bool:
        """Whether a tensor is none of the model's parameters: the config has it, or only pictures need it."""
        return name in TABLES or name.startswith(self.passed_over)

    def epsilon(self, file: GgufFile) -> Any:
        """What norms add before they divide. Raises ConversionError if the file does not say."""
        key = "attention.layer_norm_rms_epsilon"
        return file.require_own(key) if self.norm_epsilon is None else file.own(key, self.norm_epsilon)

    def rope_scaling(self, file: GgufFile) -> Scaling | None:
        """Raises ConversionError for one that mlx-lm's model does not compute."""
        scaling = rope_scaling(file)
        kind = scaling and scaling.get("type", scaling.get("rope_type"))
        if kind and kind not in self.scalings:
            raise ConversionError(f"unsupported rope scaling: {kind}")
        return scaling


def family_of(file: GgufFile) -> Family:
    """The family of the file's model. Raises ConversionError, by name, for a model that none of them is."""
    family = FAMILIES.get(file.architecture)
    if family is None:
        raise ConversionError(f"unsupported architecture: {file.architecture}")
    if file.own("expert_count", 0):
        raise ConversionError(f"unsupported architecture: {file.architecture} with a mixture of experts")
    _check_heads(file, family)
    return family


def _check_heads(file: GgufFile, family: Family) -> None:
    size, rotated = head_size(file), rotated_size(file)
    values = file.own("attention.value_length", size)
    if values != size or (rotated != size and not family.part_rotated) or rotated > size:
        raise ConversionError(
            f"unsupported heads: {size} numbers, of which {rotated} are rotated, and {values} in a value"
        )
    if not family.own_head_size and size * head_count(file) != hidden_size(file):
        raise ConversionError(f"unsupported heads: {head_count(file)} of {size} numbers in {hidden_size(file)}")


def _llama(file: GgufFile) -> dict[str, Any]:
    return {"head_dim": head_size(file), "attention_bias": False, "mlp_bias": False, "rope_traditional": False}


def _qwen2(_file: GgufFile) -> dict[str, Any]:
    return {"rope_traditional": False}


def _qwen3(file: GgufFile) -> dict[str, Any]:
    return {"head_dim": head_size(file), "attention_bias": False}


def _phi3(file: GgufFile) -> dict[str, Any]:
    context = file.count("context_length")
    return {
        "partial_rotary_factor": rotated_size(file) / head_size(file),
        "original_max_position_embeddings": file.count("rope.scaling.original_context_length", context),
        "rope_traditional": False,
    }


def _gemma2(file: GgufFile) -> dict[str, Any]:
    return {
        "head_dim": head_size(file),
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": _query_scalar(file),
        "attn_logit_softcapping": file.own("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": file.own("final_logit_softcapping", 30.0),
        "sliding_window": file.count("attention.sliding_window", 4096),
        "rope_traditional": False,
    }


def _gemma3(file: GgufFile) -> dict[str, Any]:
    """Older files have names of their own for the two bases of rotary positions."""
    window = file.own("attention.sliding_window", 0)
    if file.own("final_logit_softcapping", 0.0) and not window:
        # One was written into the file of the 1B model, too, which has none; that one has a window.
        raise ConversionError("unsupported gemma3.final_logit_softcapping")
    return {
        "head_dim": head_size(file),
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": _query_scalar(file),
        "sliding_window": window or file.count("context_length"),
        "sliding_window_pattern": _window_pattern(file) if window else 1,
        "rope_theta": rope_theta(file, file.own("rope.global.freq_base", 1000000.0)),
        "rope_local_base_freq": file.own("rope.freq_base_swa", file.own("rope.local.freq_base", 10000.0)),
        "rope_scaling": rope_scaling(file) or _gemma3_scaling(file),
    }


def _gemma3_scaling(file: GgufFile) -> Scaling | None:
    return {"rope_type": "linear", "factor": 8.0} if layer_count(file) in _GEMMA3_SCALED_LAYERS else None


def _query_scalar(file: GgufFile) -> float:
    if layer_count(file) == _GEMMA_27B[file.architecture]:
        return hidden_size(file) / head_count(file)
    return head_size(file)


def _window_pattern(file: GgufFile) -> int:
    """Every how many layers one looks at everything. Files have the number, or whether each layer has a window.

    mlx-lm needs one such layer at least.
    """
    key = "attention.sliding_window_pattern"
    value = file.own(key, _GEMMA3_PATTERN)
    layers = layer_count(file)
    pattern = value.index(False) + 1 if isinstance(value, list) and False in value else value
    windows = [(layer + 1) % pattern != 0 for layer in range(layers)] if isinstance(pattern, int) and pattern else []
    if False not in windows or (isinstance(value, list) and value != windows):
        raise ConversionError(f"unsupported {file.architecture}.{key}: one in every so many layers has no window")
    return int(pattern)


def _bert(file: GgufFile) -> dict[str, Any]:
    """RoBERTa and XLM-RoBERTa are written so, too: without the positions before the first one that is used."""
    positions = file.tensor("position_embd.weight")
    return {
        "hidden_act": "gelu",
        "max_position_embeddings": positions.shape[-1] if positions else 0,
        **_encoder(file),
    }


def _nomic_bert(file: GgufFile) -> dict[str, Any]:
    return {
        "max_position_embeddings": file.count("context_length"),
        "rope_parameters": {"rope_type": "default", "rope_theta": rope_theta(file, _NOMIC_THETA)},
        **_encoder(file),
    }


def _encoder(file: GgufFile) -> dict[str, Any]:
    if file.own("attention.causal", False):
        raise ConversionError(f"unsupported {file.architecture}.attention.causal")
    segments = file.tensor(_SEGMENTS)
    return {
        "hidden_size": hidden_size(file),
        "intermediate_size": file.count("feed_forward_length"),
        "num_hidden_layers": layer_count(file),
        "num_attention_heads": head_count(file),
        "layer_norm_eps": file.require_own("attention.layer_norm_epsilon"),
        "type_vocab_size": segments.shape[-1] if segments else 0,
        "vocab_size": vocabulary_size(file),
    }


_encoder_family = partial(Family, head=False, half="F16", own_head_size=False, scalings=frozenset(), encoder=True)

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        "llama",
        "LlamaForCausalLM",
        _SPLIT_ATTENTION | _ONE_NORM_AFTER | _SPLIT_MLP,
        _llama,
        half="F16",
        interleaved=True,
    ),
    "qwen2": Family(
        "qwen2",
        "Qwen2ForCausalLM",
        _SPLIT_ATTENTION | _BIASES | _ONE_NORM_AFTER | _SPLIT_MLP,
        _qwen2,
        own_head_size=False,
    ),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM", _SPLIT_ATTENTION | _HEAD_NORMS | _ONE_NORM_AFTER | _SPLIT_MLP, _qwen3),
    "gemma2": Family(
        "gemma2",
        "Gemma2ForCausalLM",
        _SPLIT_ATTENTION | _GEMMA_NORMS | _SPLIT_MLP,
        _gemma2,
        head=False,
        added_to_norms=1.0,
        scalings=frozenset(),
    ),
    "gemma3": Family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        _SPLIT_ATTENTION | _HEAD_NORMS | _GEMMA_NORMS | _SPLIT_MLP,
        _gemma3,
        added_to_norms=1.0,
        norm_epsilon=1e-6,
        passed_over=("v.", "mm."),
    ),
    "phi3": Family(
        "phi3",
        "Phi3ForCausalLM",
        _FUSED_ATTENTION | _ONE_NORM_AFTER | _FUSED_MLP,
        _phi3,
        own_head_size=False,
        part_rotated=True,
        scalings=frozenset({"longrope"}),
    ),
    "bert": _encoder_family(
        "bert",
        "BertModel",
        _BERT_LAYER,
        _bert,
        model=_BERT_MODEL,
        stem="encoder.layer",
    ),
    "nomic-bert": _encoder_family(
        "nomic_bert",
        "NomicBertModel",
        _NOMIC_LAYER,
        _nomic_bert,
        model=_NOMIC_MODEL,
        stem="encoder.layers",
    ),
}
