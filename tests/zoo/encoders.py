"""Encoders: sequence classification and masked language models."""

from __future__ import annotations

from typing import Any

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
    hidden,
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
    "num_labels": CLASSES,
}


def _encoder(family: str, prefix: str, promised: bool = True, **sizes: Any) -> None:
    """Register the two heads of a family, from the prefix of its classes in transformers."""
    config = lambda: quiet(getattr(hf, f"{prefix}Config")(**sizes))  # noqa: E731

    @case(family, "classification", promised=promised)
    def classification(size: Size) -> Subject:
        module = getattr(hf, f"{prefix}ForSequenceClassification")(config())
        return Subject(module, text(size), classes(size), each_class)

    @case(family, "masked LM", promised=promised, tied=True)
    def masked(size: Size) -> Subject:
        module, inputs = getattr(hf, f"{prefix}ForMaskedLM")(config()), text(size)
        return Subject(module, inputs, hidden(inputs), each_token)


_encoder("BERT", "Bert", **SMALL)
_encoder("RoBERTa", "Roberta", **SMALL)
_encoder(
    "DistilBERT",
    "DistilBert",
    vocab_size=VOCABULARY,
    dim=WIDTH,
    n_layers=2,
    n_heads=4,
    hidden_dim=32,
    max_position_embeddings=32,
    num_labels=CLASSES,
)
_encoder("ALBERT", "Albert", **SMALL, embedding_size=8)
_encoder(
    "DeBERTa-v2",
    "DebertaV2",
    **SMALL,
    relative_attention=True,
    position_buckets=4,
    max_relative_positions=8,
    pos_att_type=["p2c", "c2p"],
    norm_rel_ebd="layer_norm",
    share_att_key=True,
    position_biased_input=False,
    conv_kernel_size=3,
)
_encoder("ELECTRA", "Electra", **SMALL, embedding_size=8)
_encoder(
    "ModernBERT",
    "ModernBert",
    promised=False,
    **SMALL,
    global_attn_every_n_layers=2,
    local_attention=4,
    cls_token_id=1,
    sep_token_id=2,
    bos_token_id=1,
    eos_token_id=2,
)
_encoder("MPNet", "MPNet", promised=False, **SMALL)
_encoder("XLM-RoBERTa", "XLMRoberta", promised=False, **SMALL)
_encoder(
    "DeBERTa",
    "Deberta",
    promised=False,
    **SMALL,
    relative_attention=True,
    max_relative_positions=8,
    pos_att_type=["p2c", "c2p"],
)
_encoder(
    "ESM", "Esm", promised=False, **{**SMALL, "pad_token_id": 1}, mask_token_id=4, position_embedding_type="rotary"
)
_encoder(
    "SqueezeBERT", "SqueezeBert", promised=False, **SMALL, embedding_size=WIDTH, q_groups=2, k_groups=2, v_groups=2
)


@case("FNet", "classification", promised=False)
def fnet(size: Size) -> Subject:
    inputs = {"input_ids": text(size)["input_ids"]}
    return Subject(hf.FNetForSequenceClassification(quiet(hf.FNetConfig(**SMALL))), inputs, classes(size), each_class)


@case("XLNet", "classification", promised=False)
def xlnet(size: Size) -> Subject:
    config = hf.XLNetConfig(vocab_size=VOCABULARY, d_model=WIDTH, n_layer=2, n_head=4, d_inner=32, num_labels=CLASSES)
    return Subject(hf.XLNetForSequenceClassification(quiet(config)), text(size), classes(size), each_class)
