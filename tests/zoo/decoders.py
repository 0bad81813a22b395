"""Causal language models, and encoder-decoders."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

from tests.zoo.family import (
    CLASSES,
    PADDING,
    VOCABULARY,
    WIDTH,
    Size,
    Subject,
    case,
    classes,
    each_class,
    each_token,
    following,
    quiet,
    text,
)

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": PADDING,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 32, "n_inner": 32}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": PADDING, "use_cache": False}


def _causal(family: str, prefix: str, sizes: dict[str, Any], head: str = "causal LM", **facts: Any) -> None:
    @case(family, head, **facts)
    def causal(size: Size) -> Subject:
        module = getattr(hf, f"{prefix.removesuffix('Text')}ForCausalLM")
        config, inputs = quiet(getattr(hf, f"{prefix}Config")(**sizes)), text(size)
        return Subject(module(config), inputs, following(inputs), each_token)


def _experts(family: str, prefix: str, sizes: dict[str, Any], **facts: Any) -> None:
    """As shipped, through torch's grouped product, which takes no float64; and expert by expert."""
    _causal(family, prefix, sizes, "causal LM", only=torch.float32, **facts)
    _causal(family, prefix, {**sizes, "experts_implementation": "eager"}, "expert by expert", **facts)


@case("GPT-2", "causal LM", tied=True)
def gpt2(size: Size) -> Subject:
    inputs = text(size)
    return Subject(hf.GPT2LMHeadModel(quiet(hf.GPT2Config(**GPT2, **ENDS))), inputs, following(inputs), each_token)


@case("GPT-2", "classification")
def gpt2_classification(size: Size) -> Subject:
    config = quiet(hf.GPT2Config(**GPT2, **ENDS, num_labels=CLASSES))
    return Subject(hf.GPT2ForSequenceClassification(config), text(size), classes(size), each_class)


_causal("GPT-NeoX (Pythia)", "GPTNeoX", SMALL)
_causal("OPT", "OPT", dict(**SMALL, ffn_dim=32, word_embed_proj_dim=WIDTH), tied=True)
_causal("LLaMA", "Llama", GROUPED)
_causal("Qwen2", "Qwen2", GROUPED)
_causal("Qwen3", "Qwen3", dict(**GROUPED, head_dim=8))
_causal("Mistral", "Mistral", dict(**GROUPED, sliding_window=4))
_causal("Gemma", "Gemma", dict(**GROUPED, head_dim=8), tied=True, rounds=True)
_causal("Phi", "Phi", GROUPED)
_experts("Mixtral", "Mixtral", dict(**GROUPED, num_local_experts=3, num_experts_per_tok=2))

_causal("Gemma 2", "Gemma2", dict(**GROUPED, head_dim=8, sliding_window=6), tied=True, rounds=True, promised=False)
_causal("Gemma 3", "Gemma3Text", dict(**GROUPED, head_dim=8, sliding_window=4), tied=True, rounds=True, promised=False)
_causal("Phi-3", "Phi3", GROUPED, promised=False)
_causal("StableLM", "StableLm", GROUPED, promised=False)
_causal("OLMo 2", "Olmo2", GROUPED, promised=False)
_causal("SmolLM3", "SmolLM3", GROUPED, promised=False)
_causal("Granite", "Granite", GROUPED, promised=False)
_causal("Cohere", "Cohere", GROUPED, tied=True, rounds=True, promised=False)
_causal("Starcoder 2", "Starcoder2", GROUPED, promised=False)
_experts(
    "Qwen2-MoE",
    "Qwen2Moe",
    dict(**GROUPED, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=8, shared_expert_intermediate_size=8),
    promised=False,
)
_experts(
    "GPT-OSS",
    "GptOss",
    dict(**GROUPED, head_dim=8, num_local_experts=3, num_experts_per_tok=2, sliding_window=4),
    promised=False,
)
_causal(
    "Falcon",
    "Falcon",
    dict(vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, **ENDS),
    tied=True,
    promised=False,
)
_causal(
    "Bloom",
    "Bloom",
    dict(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=2, n_head=4, **ENDS),
    tied=True,
    promised=False,
)
_causal("GPT-J", "GPTJ", dict(**GPT2, rotary_dim=2, **ENDS), promised=False)
_causal("CodeGen", "CodeGen", dict(**GPT2, rotary_dim=2, **ENDS), promised=False)
_causal(
    "GPT-Neo",
    "GPTNeo",
    dict(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_layers=2,
        num_heads=4,
        intermediate_size=32,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        max_position_embeddings=32,
        **ENDS,
    ),
    tied=True,
    promised=False,
)
_causal(
    "Mamba",
    "Mamba",
    dict(vocab_size=VOCABULARY, hidden_size=WIDTH, state_size=4, num_hidden_layers=2, time_step_rank=3, **ENDS),
    tied=True,
    rounds=True,
    promised=False,
    targets=("in_proj", "x_proj", "dt_proj"),
)


def _seq2seq(family: str, head: str, prefix: str, config: Any, tied: bool = True, promised: bool = True) -> None:
    @case(family, head, tied=tied, promised=promised)
    def seq2seq(size: Size) -> Subject:
        tracked, target = text(size), text(Size(size.examples, size.tokens - 2))
        inputs = {
            **tracked,
            "decoder_input_ids": target["input_ids"],
            "decoder_attention_mask": target["attention_mask"],
        }
        module = getattr(hf, f"{prefix}ForConditionalGeneration")(quiet(config()))
        return Subject(module, inputs, following(target), each_token)


T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 4,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 4,
    "relative_attention_max_distance": 8,
    "decoder_start_token_id": 1,
    **ENDS,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 32,
    "decoder_start_token_id": 2,
    **ENDS,
}
_seq2seq("T5", "translation", "T5", lambda: hf.T5Config(**T5))
_seq2seq(
    "T5",
    "v1.1, gated",
    "T5",
    lambda: hf.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
    tied=False,
)
_seq2seq("BART", "translation", "Bart", lambda: hf.BartConfig(**BART))
_seq2seq("mBART", "translation", "MBart", lambda: hf.MBartConfig(**BART), promised=False)
_seq2seq("Pegasus", "translation", "Pegasus", lambda: hf.PegasusConfig(**BART), promised=False)


@case("BART", "classification")
def bart_classification(size: Size) -> Subject:
    inputs = text(size)
    inputs["input_ids"].scatter_(1, inputs["attention_mask"].sum(1, keepdim=True) - 1, 2)
    module = hf.BartForSequenceClassification(quiet(hf.BartConfig(**BART, num_labels=CLASSES)))
    return Subject(module, inputs, classes(size), each_class)


@case("Whisper", "transcription", tied=True, promised=False)
def whisper(size: Size) -> Subject:
    config = hf.WhisperConfig(**{**BART, "num_mel_bins": 6, "max_source_positions": 8, "max_target_positions": 32})
    target = text(size)
    inputs = {"input_features": torch.randn(size.examples, 6, 16), "decoder_input_ids": target["input_ids"]}
    return Subject(hf.WhisperForConditionalGeneration(quiet(config)), inputs, following(target), each_token)


@case("Wav2Vec2", "classification", promised=False)
def wav2vec2(size: Size) -> Subject:
    config = hf.Wav2Vec2Config(
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        conv_dim=[8, 8],
        conv_stride=[3, 2],
        conv_kernel=[4, 3],
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        apply_spec_augment=False,
        num_labels=CLASSES,
    )
    inputs = {"input_values": torch.randn(size.examples, 50)}
    return Subject(hf.Wav2Vec2ForSequenceClassification(quiet(config)), inputs, classes(size), each_class)
