"""Tiny language models with random weights, in folders, and the data that goes with them."""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import lightning as L
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.utils.data import DataLoader

WORDS = ["good", "bad", "fine", "it", "was", "the", "film", "a", "and", "story", "goodness", "(", "It", "Was"]
TEXTS = [f"It was {w} ( the {v} was {w} and {w}" for w in WORDS for v in WORDS] * 3
SPECIAL = {"pad_token": "<pad>", "mask_token": "<mask>", "unk_token": "<unk>", "eos_token": "</s>"}
WIDTH = 16
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
ENCODER = {**SIZES, "max_position_embeddings": 24, "pad_token_id": 0}
GPT2 = {"n_embd": WIDTH, "n_layer": 2, "n_head": 4, "n_positions": 20, "bos_token_id": 3, "eos_token_id": 3}
LLAMA = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 20, "pad_token_id": 0, "eos_token_id": 3}
DISTIL = {"dim": WIDTH, "n_layers": 2, "n_heads": 4, "hidden_dim": 32, "max_position_embeddings": 20}
FAMILIES = {
    "bert": ("Bert", "MaskedLM", ENCODER),
    "roberta": ("Roberta", "MaskedLM", ENCODER),
    "distilbert": ("DistilBert", "MaskedLM", DISTIL),
    "gpt2": ("GPT2", "LMHeadModel", GPT2),
    "llama": ("Llama", "ForCausalLM", {**LLAMA, "attention_bias": True}),
}
MASKED, CAUSAL = ("bert", "roberta", "distilbert"), ("gpt2", "llama")


@cache
def folder(family: str) -> str:
    """Return a folder that transformers loads, made once."""
    prefix, head, sizes = FAMILIES[family]
    words = tokenizer(family)
    config = getattr(hf, f"{prefix}Config")(vocab_size=len(words), **sizes)
    torch.manual_seed(0)
    net = getattr(hf, prefix + ("For" if head == "MaskedLM" else "") + head)(config)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.1 * torch.randn_like(weight)
    path = mkdtemp(prefix=f"{family}-")
    with contextlib.redirect_stderr(io.StringIO()):
        net.save_pretrained(path)
    words.save_pretrained(path)
    return path


@cache
def tokenizer(family: str) -> hf.PreTrainedTokenizerFast:
    """Return word pieces for BERT, bytes for RoBERTa and GPT-2, and pieces with a mark for the space for LLaMA."""
    special = ["<pad>", "<unk>", "<mask>", "</s>"]
    if family in ("bert", "distilbert"):
        made = Tokenizer(models.WordPiece({t: i for i, t in enumerate([*special, *WORDS, "##ly"])}, unk_token="<unk>"))
        made.normalizer, made.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Whitespace()
    else:
        made = Tokenizer(models.BPE(unk_token="<unk>"))
        llama = family == "llama"
        made.pre_tokenizer = (
            pre_tokenizers.Metaspace(prepend_scheme="first")
            if llama
            else pre_tokenizers.ByteLevel(add_prefix_space=False)
        )
        made.decoder = decoders.Metaspace() if llama else decoders.ByteLevel()
        trainer = trainers.BpeTrainer(special_tokens=special, vocab_size=400, show_progress=False)
        made.train_from_iterator(TEXTS, trainer)
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)


def batch(side: str = "right", n: int = 5, width: int = 9, seed: int = 0, mask: bool = True) -> dict[str, torch.Tensor]:
    """Return texts of unequal lengths, each with one mask, and two classes."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([width - 2 * (i % 4) for i in range(n)])
    ids = torch.randint(4, 14, (n, width), generator=draw)
    if mask:
        ids[torch.arange(n), lengths // 2] = 2
    seen = torch.arange(width)[None] < lengths[:, None]
    ids = ids.where(seen, torch.tensor(0))
    if side == "left":
        ids = torch.stack([row.roll(width - k) for row, k in zip(ids, lengths.tolist(), strict=True)])
        seen = seen.flip(1)
    return {"input_ids": ids, "attention_mask": seen.long(), "y": torch.arange(n) % 2, "group": torch.arange(n) % 2}


def rows(given: dict[str, torch.Tensor], at: list[int]) -> dict[str, torch.Tensor]:
    return {name: value[at] for name, value in given.items()}


def alone(given: dict[str, torch.Tensor], i: int) -> dict[str, torch.Tensor]:
    """Return one example without its padding."""
    one = rows(given, [i])
    kept = one["attention_mask"][0] == 1
    return {**one, "input_ids": one["input_ids"][:, kept], "attention_mask": one["attention_mask"][:, kept]}


class Texts(L.LightningDataModule):
    """Thirty texts in two groups, padded on the right."""

    num_classes, groups = 2, ("a", "b")

    def __init__(self, family: str = "bert", examples: int = 30) -> None:
        super().__init__()
        self.tokenizer, self.all = tokenizer(family), batch(n=examples)

    def loader(self) -> DataLoader:
        return DataLoader(range(len(self.all["y"])), batch_size=10, collate_fn=lambda at: rows(self.all, list(at)))

    train_dataloader = val_dataloader = test_dataloader = loader


def quietly(build):
    """Call what transformers or peft warns about without need."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build()


def run_dir(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())
