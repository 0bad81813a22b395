"""Models as transformers ships them, in train mode, that take each example by itself."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tests.grads.ownership.corpus.base import CLASSES, each, honest
from tests.grads.ownership.corpus.models import (
    BART,
    ENDS,
    GPT,
    GROUPED,
    IMAGE,
    KIND,
    SERIES,
    SPEECH,
    T5,
    TEXT,
    VOCABULARY,
    WIDTH,
    causal,
    classified,
    forecast,
    made,
    pictures,
    residual,
    seen,
    sound,
    text,
    times,
    translated,
)

SINGLE = ("Cohere", "Deberta", "Gemma", "Gemma2", "Mamba", "Mamba2", "RecurrentGemma", "XLNet")
"""Models that compute some operations in float32 whatever their type."""


def register(name: str, losses, batch, make) -> None:
    single = name.split()[0] in SINGLE
    honest(name, KIND, make=make, batch=batch, tolerance=1e-6 if single else 1e-9)(lambda m, b, n: losses(m, b, n))


def encoder(prefix: str, head: str = "ForSequenceClassification", time: int = 7, **sizes: Any) -> None:
    batch = functools.partial(text, time=time)
    register(f"{prefix} classifier", classified, batch, made(prefix + head, f"{prefix}Config", **sizes))


def decoder(prefix: str, head: str = "ForCausalLM", **sizes: Any) -> None:
    register(f"{prefix} causal LM", causal, text, made(prefix + head, f"{prefix}Config", **sizes))


def translator(prefix: str, **sizes: Any) -> None:
    register(
        f"{prefix} translator", translated, text, made(f"{prefix}ForConditionalGeneration", f"{prefix}Config", **sizes)
    )


def viewer(prefix: str, pixels: int = 8, **sizes: Any) -> None:
    batch = functools.partial(pictures, pixels=pixels)
    register(f"{prefix} classifier", seen, batch, made(f"{prefix}ForImageClassification", f"{prefix}Config", **sizes))


for prefix in (
    "Bert",
    "Roberta",
    "Electra",
    "MPNet",
    "ConvBert",
    "RoFormer",
    "Nystromformer",
    "RemBert",
    "Ernie",
    "Deberta",
):
    encoder(prefix, **TEXT)
encoder("Albert", **TEXT, embedding_size=8)
encoder(
    "DebertaV2",
    **TEXT,
    relative_attention=True,
    position_buckets=4,
    max_relative_positions=8,
    pos_att_type=["p2c", "c2p"],
)
encoder(
    "DistilBert",
    vocab_size=VOCABULARY,
    dim=WIDTH,
    n_layers=1,
    n_heads=2,
    hidden_dim=16,
    max_position_embeddings=40,
    num_labels=CLASSES,
)
register(
    "XLNet classifier",
    classified,
    text,
    lambda: made(
        "XLNetForSequenceClassification",
        "XLNetConfig",
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        n_layer=1,
        n_head=2,
        d_inner=16,
        num_labels=CLASSES,
    )().float(),
)
encoder(
    "Funnel",
    vocab_size=VOCABULARY,
    block_sizes=[1, 1],
    d_model=WIDTH,
    n_head=2,
    d_head=4,
    d_inner=16,
    num_labels=CLASSES,
)
encoder("MobileBert", **TEXT, embedding_size=8, true_hidden_size=8, intra_bottleneck_size=8)
encoder("SqueezeBert", **TEXT, embedding_size=WIDTH, q_groups=2, k_groups=2, v_groups=2)
encoder("Longformer", **{**TEXT, "pad_token_id": 1}, attention_window=4)
encoder("BigBird", time=16, **TEXT, block_size=2, num_random_blocks=1, attention_type="block_sparse")
encoder("Yoso", **TEXT, use_expectation=True)
encoder("Esm", **TEXT, mask_token_id=4, position_embedding_type="rotary")
encoder("ModernBert", **TEXT, cls_token_id=1, sep_token_id=2, local_attention=4)
encoder(
    "Flaubert",
    vocab_size=VOCABULARY,
    emb_dim=WIDTH,
    n_layers=1,
    n_heads=2,
    max_position_embeddings=40,
    num_labels=CLASSES,
)
encoder(
    "XLM", vocab_size=VOCABULARY, emb_dim=WIDTH, n_layers=1, n_heads=2, max_position_embeddings=40, num_labels=CLASSES
)
encoder("GPT2", **GPT, num_labels=CLASSES)
encoder("Llama", **GROUPED)

decoder("GPT2", "LMHeadModel", **GPT)
decoder(
    "GPTNeo",
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    num_layers=2,
    num_heads=2,
    attention_types=[[["global", "local"], 1]],
    window_size=3,
    max_position_embeddings=40,
)
decoder("GPTJ", **GPT, rotary_dim=4)
decoder("CodeGen", **{**GPT, "n_head": 4}, rotary_dim=4)
decoder("CTRL", "LMHeadModel", vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=1, n_head=2, n_positions=40, dff=16)
for prefix in ("GPTNeoX", "BioGpt", "Phi", "Persimmon"):
    decoder(prefix, **TEXT)
for prefix in ("Llama", "Mistral", "Qwen2", "Phi3", "Starcoder2", "Olmo", "Cohere", "Granite", "StableLm"):
    decoder(prefix, **GROUPED)
for prefix in ("Gemma", "Gemma2", "Qwen3", "Ministral"):
    decoder(prefix, **GROUPED, head_dim=8)
decoder("Falcon", vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=2, **ENDS)
decoder("Bloom", vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=1, n_head=2, **ENDS)
decoder("Mpt", vocab_size=VOCABULARY, d_model=WIDTH, n_layers=1, n_heads=2, max_seq_len=40)
decoder(
    "OPT",
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    num_hidden_layers=1,
    num_attention_heads=2,
    ffn_dim=16,
    word_embed_proj_dim=WIDTH,
    max_position_embeddings=40,
    **ENDS,
)
decoder(
    "XGLM",
    vocab_size=VOCABULARY,
    d_model=WIDTH,
    ffn_dim=16,
    num_layers=1,
    attention_heads=2,
    max_position_embeddings=40,
    **ENDS,
)
decoder("Mamba", vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=1, state_size=4, time_step_rank=2, **ENDS)
decoder(
    "Mamba2",
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    num_hidden_layers=1,
    state_size=4,
    num_heads=4,
    head_dim=8,
    n_groups=1,
    chunk_size=4,
    **ENDS,
)
decoder("RecurrentGemma", **GROUPED, lru_width=WIDTH, attention_window_size=4, block_types=["recurrent", "attention"])
decoder("Mixtral", **GROUPED, num_local_experts=3, experts_implementation="eager")

translator("T5", **T5)
translator("UMT5", **T5)
translator("LongT5", **T5, local_radius=2)
translator("Bart", **BART)
translator("MBart", **BART)
translator("Pegasus", **BART)
translator("Blenderbot", **BART)
translator("M2M100", **BART)

for prefix in ("ViT", "DeiT", "Beit", "Dinov2", "Data2VecVision", "ViTMSN"):
    viewer(prefix, **{k: v for k, v in IMAGE.items() if prefix != "Dinov2" or k != "intermediate_size"})
viewer("ConvNext", 32, hidden_sizes=[8, 10], depths=[1, 1], num_stages=2, num_labels=CLASSES)
viewer("ConvNextV2", 32, hidden_sizes=[8, 10], depths=[1, 1], num_stages=2, num_labels=CLASSES)
viewer(
    "Swin", 16, image_size=16, patch_size=2, embed_dim=8, depths=[2], num_heads=[2], window_size=4, num_labels=CLASSES
)
viewer(
    "Swinv2", 16, image_size=16, patch_size=2, embed_dim=8, depths=[2], num_heads=[2], window_size=4, num_labels=CLASSES
)
viewer(
    "FocalNet",
    16,
    image_size=16,
    patch_size=4,
    embed_dim=8,
    depths=[1],
    focal_levels=[1],
    focal_windows=[3],
    num_labels=CLASSES,
)
viewer(
    "PvtV2",
    32,
    image_size=32,
    num_encoder_blocks=1,
    depths=[1],
    sr_ratios=[2],
    hidden_sizes=[8],
    patch_sizes=[7],
    strides=[4],
    num_attention_heads=[2],
    mlp_ratios=[2],
    num_labels=CLASSES,
)


@honest("CLIP text model", KIND, batch=text, make=made("CLIPTextModel", "CLIPTextConfig", **TEXT))
def clip_text(m, b, n):
    return (
        m(input_ids=b["ids"], attention_mask=b["mask"])
        .pooler_output[:, :CLASSES]
        .log_softmax(1)
        .gather(1, b["y"][:, None])
        .neg()[:, 0]
    )


@honest(
    "ViT masked autoencoder, its patches drawn for each",
    KIND,
    batch=pictures,
    make=made(
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        **IMAGE,
        decoder_hidden_size=8,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=8,
    ),
)
def masked_autoencoder(m, b, n):
    out = m(pixel_values=b["x"])
    own = (out.logits - m.patchify(b["x"])).square().mean(-1)
    return (own * out.mask).sum(1) / out.mask.sum(1)


def heard(m, b, n):
    return each(m(input_values=b["x"]).logits, b["y"])


for prefix in ("Wav2Vec2", "Hubert", "WavLM"):
    register(
        f"{prefix} classifier", heard, sound, made(f"{prefix}ForSequenceClassification", f"{prefix}Config", **SPEECH)
    )


@honest(
    "Whisper encoder",
    KIND,
    make=made(
        "WhisperForAudioClassification",
        "WhisperConfig",
        vocab_size=VOCABULARY,
        num_mel_bins=4,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_source_positions=6,
        max_target_positions=8,
        classifier_proj_size=8,
        num_labels=CLASSES,
        **ENDS,
    ),
    batch=lambda n, g: {"x": torch.randn(n, 4, 12, generator=g), "y": torch.randint(CLASSES, (n,), generator=g)},
)
def whisper(m, b, n):
    return each(m(input_features=b["x"]).logits, b["y"])


@honest(
    "PatchTST with layer norm",
    KIND,
    make=made("PatchTSTForPrediction", "PatchTSTConfig", **SERIES, norm_type="layernorm"),
    batch=times,
)
def patch_series(m, b, n):
    return forecast(m, b, n)


@honest("ResNet in eval mode", KIND, batch=functools.partial(pictures, pixels=16), make=lambda: residual(False))
def frozen(m, b, n):
    return seen(m, b, n)


@honest(
    "Switch transformer, whose capacity is each row's own",
    KIND,
    batch=text,
    tolerance=1e-6,
    make=made(
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformersConfig",
        **T5,
        num_experts=2,
        expert_capacity=1,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        num_decoder_layers=1,
    ),
)
def switch(m, b, n):
    return translated(m, b, n)


@honest(
    "a classifier's own loss",
    KIND,
    batch=text,
    make=made("BertForSequenceClassification", "BertConfig", **TEXT),
    reduction="mean",
)
def own_classification(m, b, n):
    return m(input_ids=b["ids"], attention_mask=b["mask"], labels=b["y"]).loss


@honest(
    "a translator's own loss, no label ignored",
    KIND,
    batch=text,
    make=made("BartForConditionalGeneration", "BartConfig", **BART),
    reduction="mean",
)
def own_translation(m, b, n):
    return m(input_ids=b["ids"], attention_mask=b["mask"], labels=b["ids"], use_cache=False).loss


@honest(
    "ViT masked autoencoder's own loss",
    KIND,
    batch=pictures,
    reduction="mean",
    make=made(
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        **IMAGE,
        decoder_hidden_size=8,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=8,
    ),
)
def own_autoencoding(m, b, n):
    return m(pixel_values=b["x"], noise=torch.arange(4.0)[None].expand(n, 4)).loss
