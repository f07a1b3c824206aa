"""The keys of GPT2Config in transformers (models/gpt2/configuration_gpt2.py), and the switches among them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from zoo.containers.files import read_json
from zoo.core.tensors import Array, LazyTensor, Tensors
from zoo.errors import FormatError
from zoo.formats.config_map import ConfigMap, Constant, Field
from zoo.models.gpt2.config import GPTConfig

TOKENS = "zoo_vocab_size"
"""zoo's own key: config.json knows only the rows. transformers passes over keys that it does not know."""

_BY_LAYER, _BY_WIDTH = "scale_attn_by_inverse_layer_idx", "scale_attn_weights"

# What does not change the logits: names, token ids, defaults of generation, options of training and of outputs.
_PASSIVE = """
    _attn_implementation _attn_implementation_autoset _name_or_path _num_labels architectures
    attn_implementation bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_eos_token_id gradient_checkpointing id2label initializer_range is_decoder
    label2id length_penalty max_length min_length n_special no_repeat_ngram_size num_beam_groups num_beams
    num_labels num_return_sequences output_attentions output_hidden_states output_past output_scores
    pad_token_id predict_special_tokens prefix problem_type remove_invalid_values reorder_and_upcast_attn
    repetition_penalty return_dict return_dict_in_generate sep_token_id summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p
    torch_dtype torchscript transformers_version typical_p unk_token_id use_bfloat16 use_cache
"""

_TANH = ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate")

HF_CONFIG = ConfigMap(
    fields=(
        Field("vocab_size", "vocab_rows"),
        Field(TOKENS, "vocab_size"),
        Field(("n_positions", "n_ctx"), "context_length", default=1024, aliases=("max_position_embeddings",)),
        Field("n_embd", "width", default=768, aliases=("hidden_size",)),
        Field("n_head", "n_heads", default=12, aliases=("num_attention_heads",)),
        Field("n_layer", "n_layers", default=12, aliases=("num_hidden_layers",)),
        Field("n_inner", "inner_width", default=0),
        Field(("resid_pdrop", "embd_pdrop", "attn_pdrop"), "dropout", default=0.1),
        Field("layer_norm_epsilon", "norm_eps", default=1e-5),
        Field(
            "activation_function",
            "activation",
            default="gelu_new",
            values={**dict.fromkeys(_TANH, "gelu_tanh"), "gelu": "gelu", "gelu_python": "gelu"},
        ),
        Field("tie_word_embeddings", "tied", default=True),
    ),
    constants=(
        Constant("model_type", "gpt2"),
        Constant(_BY_WIDTH, True),
        Constant(_BY_LAYER, False),
        Constant("add_cross_attention", False),
        Constant("is_encoder_decoder", False, written=False),
        Constant("pruned_heads", {}, written=False),
        Constant("quantization_config", None, written=False),
        Constant("auto_map", None, written=False),
    ),
    implied={"qkv_bias": True, "bias": True},
    passive=frozenset(_PASSIVE.split()),
)

HF_CONFIG_FOLDED = replace(
    HF_CONFIG,
    constants=tuple(each for each in HF_CONFIG.constants if each.theirs not in (_BY_WIDTH, _BY_LAYER)),
    passive=frozenset({*_PASSIVE.split(), _BY_WIDTH, _BY_LAYER}),
)
"""HF_CONFIG without the two switches that scale attention scores, for a reader that calls fold_scales."""


def fold_scales(file: Path, tensors: Tensors, config: GPTConfig) -> tuple[dict[str, LazyTensor], list[str]]:
    """Multiply the query columns by the factors with which config.json's switches scale attention scores.

    transformers divides the scores of layer i by i + 1 (scale_attn_by_inverse_layer_idx), and leaves out the division
    by the square root of the head size (scale_attn_weights false). Scores are linear in the queries, so scaled queries
    give the same scores.

    Args:
        file: config.json.
        tensors: in transformers' names and orientation.
        config: Config of the model.

    Returns:
        The tensors, and a note if values were rounded or changed.
    """
    theirs = read_json(file)
    by_layer, by_width = theirs.get(_BY_LAYER, False), theirs.get(_BY_WIDTH, True)
    for key, value in ((_BY_LAYER, by_layer), (_BY_WIDTH, by_width)):
        if type(value) is not bool:
            raise FormatError(file, f"{key} must be true or false, not {value!r:.40}")
    folded = dict(tensors)
    if not by_layer and by_width:
        return folded, []
    for i in range(config.n_layers):
        factor = (1 / (i + 1) if by_layer else 1.0) * (1.0 if by_width else math.sqrt(config.head_size))
        for name in (f"h.{i}.attn.c_attn.weight", f"h.{i}.attn.c_attn.bias"):
            if name in folded and folded[name].shape[-1:] == (3 * config.width,):
                folded[name] = _scale(folded[name], config.width, factor)
    switches = [key for key, on in ((_BY_LAYER, by_layer), (f"{_BY_WIDTH} false", not by_width)) if on]
    return folded, [f"{' and '.join(switches)}: multiplied into the query weights and rounded to their dtype"]


def _scale(tensor: LazyTensor, width: int, factor: float) -> LazyTensor:
    """Scale the first `width` columns; computed in float64, rounded once."""

    def load() -> Array:
        values = np.array(tensor.load())
        values[..., :width] = (values[..., :width].astype(np.float64) * factor).astype(tensor.dtype)
        return values

    return LazyTensor(tensor.shape, tensor.dtype, load)
