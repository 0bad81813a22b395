"""Models as transformers ships them, in train mode, with tiny random weights: honest ones, and couplings that are shipped too."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.grads.ownership.corpus.base import CLASSES, coupling, each, honest

KIND = "transformers"
VOCABULARY, WIDTH, PADDING = 19, 16, 0
ENDS = {"pad_token_id": PADDING, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
    "num_labels": CLASSES,
    **ENDS,
}
GPT = {"vocab_size": VOCABULARY, "n_embd": WIDTH, "n_layer": 1, "n_head": 2, "n_positions": 40, "n_inner": 16, **ENDS}
GROUPED = {**TEXT, "num_key_value_heads": 1}
IMAGE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 8,
    "patch_size": 4,
    "num_labels": CLASSES,
}
T5 = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 4,
    "d_ff": 16,
    "num_layers": 1,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 40,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    **ENDS,
}


SINGLE = ("Cohere", "Deberta", "Gemma", "Gemma2", "Mamba", "Mamba2", "RecurrentGemma", "XLNet")
"""Models that compute some operations in float32 whatever their type."""


def made(head: str, config: str, **sizes: Any):
    """Return a maker of a model of transformers without dropout, by the names of its class and its configuration."""

    def make() -> nn.Module:
        import transformers as hf

        from tests.zoo.family import quiet

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return getattr(hf, head)(quiet(getattr(hf, config)(**sizes))).train()

    return make


def text(n: int, g: torch.Generator, time: int = 7) -> dict[str, Tensor]:
    lengths = torch.randint(2, time + 1, (n,), generator=g)
    mask = (torch.arange(time) < lengths[:, None]).long()
    ids = torch.randint(3, VOCABULARY, (n, time), generator=g) * mask
    return {"ids": ids, "mask": mask, "y": torch.randint(CLASSES, (n,), generator=g)}


def pictures(n: int, g: torch.Generator, pixels: int = 8) -> dict[str, Tensor]:
    return {"x": torch.randn(n, 3, pixels, pixels, generator=g), "y": torch.randint(CLASSES, (n,), generator=g)}


def sound(n: int, g: torch.Generator) -> dict[str, Tensor]:
    return {"x": torch.randn(n, 96, generator=g), "y": torch.randint(CLASSES, (n,), generator=g)}


def classified(m, b, n):
    return each(m(input_ids=b["ids"], attention_mask=b["mask"]).logits, b["y"])


def following(logits: Tensor, b: dict[str, Tensor]) -> Tensor:
    """Mean over an example's own next tokens."""
    own = F.cross_entropy(logits[:, :-1].transpose(1, 2), b["ids"][:, 1:], reduction="none")
    return (own * b["mask"][:, 1:]).sum(1) / b["mask"][:, 1:].sum(1).clamp_min(1)


def causal(m, b, n):
    return following(m(input_ids=b["ids"], attention_mask=b["mask"], use_cache=False).logits, b)


def translated(m, b, n):
    out = m(input_ids=b["ids"], attention_mask=b["mask"], decoder_input_ids=b["ids"].flip(1), use_cache=False)
    return F.cross_entropy(out.logits.transpose(1, 2), b["ids"], reduction="none").mean(1)


def seen(m, b, n):
    return each(m(pixel_values=b["x"]).logits, b["y"])


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


SPEECH = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_stride": (4, 2),
    "conv_kernel": (8, 3),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "classifier_proj_size": 8,
    "num_labels": CLASSES,
}


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
    make=made(
        "PatchTSTForPrediction",
        "PatchTSTConfig",
        num_input_channels=2,
        context_length=8,
        patch_length=2,
        patch_stride=2,
        prediction_length=2,
        d_model=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=8,
        norm_type="layernorm",
    ),
    batch=lambda n, g: {"x": torch.randn(n, 10, 2, generator=g)},
)
def patch_series(m, b, n):
    return (m(past_values=b["x"][:, :8]).prediction_outputs - b["x"][:, 8:]).square().mean((1, 2))


@honest("ResNet in eval mode", KIND, batch=functools.partial(pictures, pixels=16), make=lambda: residual(False))
def frozen(m, b, n):
    return seen(m, b, n)


def residual(training: bool) -> nn.Module:
    sizes = {"embedding_size": 4, "hidden_sizes": [8], "depths": [1], "layer_type": "basic", "num_labels": CLASSES}
    return made("ResNetForImageClassification", "ResNetConfig", **sizes)().train(training)


# Shipped couplings


@coupling(
    "ResNet in train mode",
    KIND,
    "batch_norm",
    batch=functools.partial(pictures, pixels=16),
    make=lambda: residual(True),
)
def residual_trained(m, b, n):
    return seen(m, b, n)


@coupling(
    "a causal LM's own loss", KIND, "cross_entropy", batch=text, make=made("GPT2LMHeadModel", "GPT2Config", **GPT)
)
def own_loss(m, b, n):
    return m(input_ids=b["ids"], attention_mask=b["mask"], labels=b["ids"].masked_fill(b["mask"] == 0, -100)).loss


@coupling(
    "a masked LM's own loss", KIND, "cross_entropy", batch=text, make=made("BertForMaskedLM", "BertConfig", **TEXT)
)
def own_masked_loss(m, b, n):
    return m(input_ids=b["ids"], attention_mask=b["mask"], labels=b["ids"].masked_fill(b["ids"] % 3 > 0, -100)).loss


@coupling(
    "Mixtral with its router's loss",
    KIND,
    "mean|cross_entropy",
    batch=text,
    make=made("MixtralForCausalLM", "MixtralConfig", **GROUPED, num_local_experts=3, experts_implementation="eager"),
)
def router(m, b, n):
    out = m(input_ids=b["ids"], attention_mask=b["mask"], output_router_logits=True, labels=b["ids"], use_cache=False)
    return following(out.logits, b) + 0.01 * out.aux_loss


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


@coupling(
    "NLLB's experts, whose capacity is the batch's",
    KIND,
    "cumsum",
    batch=text,
    make=made(
        "NllbMoeForConditionalGeneration",
        "NllbMoeConfig",
        **BART,
        num_experts=2,
        encoder_sparse_step=1,
        decoder_sparse_step=1,
        expert_capacity=1,
        second_expert_policy="all",
        batch_prioritized_routing=False,
    ),
)
def nllb(m, b, n):
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


@coupling(
    "CLIP as shipped",
    KIND,
    "matmul|mm|cross_entropy",
    batch=lambda n, g: {**text(n, g), **pictures(n, g)},
    make=lambda: clip(),
)
def clip_loss(m, b, n):
    out = m(input_ids=b["ids"], attention_mask=b["mask"], pixel_values=b["x"])
    return each(out.logits_per_text, torch.arange(n))


def clip() -> nn.Module:
    return made("CLIPModel", "CLIPConfig", text_config=TEXT, vision_config=IMAGE, projection_dim=8)()


@coupling(
    "PatchTST with batch norm",
    KIND,
    "batch_norm",
    make=made(
        "PatchTSTForPrediction",
        "PatchTSTConfig",
        num_input_channels=2,
        context_length=8,
        patch_length=2,
        patch_stride=2,
        prediction_length=2,
        d_model=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        ffn_dim=8,
    ),
    batch=lambda n, g: {"x": torch.randn(n, 10, 2, generator=g)},
)
def patch_series_normed(m, b, n):
    return (m(past_values=b["x"][:, :8]).prediction_outputs - b["x"][:, 8:]).square().mean((1, 2))


@coupling(
    "a classifier whose pad token is looked for by the longest",
    KIND,
    "item|__int__|__index__",
    batch=text,
    make=made("BertForSequenceClassification", "BertConfig", **TEXT),
)
def unmasked(m, b, n):
    longest = int(b["mask"].sum(1).max())
    return each(m(input_ids=b["ids"][:, :longest]).logits, b["y"])


@coupling(
    "sentence embeddings with in-batch negatives",
    KIND,
    "matmul|mm",
    batch=text,
    make=made("BertModel", "BertConfig", **TEXT),
    source="multiple negatives ranking loss of sentence-transformers",
)
def sentences(m, b, n):
    h = m(input_ids=b["ids"], attention_mask=b["mask"]).last_hidden_state * b["mask"][:, :, None]
    u = F.normalize(h.sum(1) / b["mask"].sum(1, keepdim=True).clamp_min(1))
    return each(20 * u @ u.flip(1).T, torch.arange(n))
