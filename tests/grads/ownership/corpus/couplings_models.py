"""Models as transformers ships them, in train mode, whose losses or layers mix examples."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from tests.grads.ownership.corpus.base import coupling, each
from tests.grads.ownership.corpus.models import (
    BART,
    GPT,
    GROUPED,
    KIND,
    SERIES,
    TEXT,
    clip,
    following,
    forecast,
    made,
    pictures,
    residual,
    seen,
    text,
    times,
    translated,
)


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


@coupling(
    "CLIP as shipped",
    KIND,
    "matmul|mm|cross_entropy",
    batch=lambda n, g: {**text(n, g), **pictures(n, g)},
    make=clip,
)
def clip_loss(m, b, n):
    out = m(input_ids=b["ids"], attention_mask=b["mask"], pixel_values=b["x"])
    return each(out.logits_per_text, torch.arange(n))


@coupling(
    "PatchTST with batch norm",
    KIND,
    "batch_norm",
    make=made("PatchTSTForPrediction", "PatchTSTConfig", **SERIES),
    batch=times,
)
def patch_series_normed(m, b, n):
    return forecast(m, b, n)


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
