"""Small tables and image folders of one's own, for the modules that need one."""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dplit.data.images.files import ImageFolder
from dplit.data.tables.features import Categories
from dplit.data.tables.files import Range, Table
from dplit.data.texts.files import Texts

DECLARED = {
    "label": "over",
    "classes": [0, 1],
    "group": {"sex": ["F", "M"]},
    "numbers": {"age": Range(17, 90, (20, 40)), "gain": Range(0, 9_999, scale="log", missing=0)},
    "categories": {"work": ["a", "b"]},
}


def people(n=200, seed=0):
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": draw.integers(10, 99, n),
            "gain": draw.choice([0, 5, 20_000], n),
            "work": draw.choice(["a", "b", "c"], n),
            "sex": draw.choice(["F", "M"], n),
            "skin": draw.choice(["light", "dark"], n),
            "over": draw.integers(0, 2, n),
        }
    )


def table(folder, rows=None, **changes):
    path = folder / "people.csv"
    (people() if rows is None else rows).to_csv(path, index=False)
    return Table(**{"train": str(path), **DECLARED, **changes})


def draw_images(folder, n=40, seed=0):
    """Write `n` images of different sizes, modes and formats, and return the table that describes them."""
    draw = np.random.default_rng(seed)
    names = [f"{i}.{('png', 'jpg')[i % 2]}" for i in range(n)]
    for i, name in enumerate(names):
        colours = draw.integers(0, 256, (20 + i % 3, 30, 3), dtype=np.uint8)
        image = Image.fromarray(colours)
        (image.convert("L") if i % 5 == 0 else image).save(folder / name)
    labels, groups = draw.choice(["yes", "no"], n), draw.choice(["I", "II", "III"], n)
    return pd.DataFrame({"file": names, "label": labels, "group": groups})


def images(folder, rows=None, **changes):
    described = draw_images(folder) if rows is None else rows
    described.to_csv(folder / "images.csv", index=False)
    declared = {"labels": ["no", "yes"], "groups": ["I", "II", "III"], "image_size": (8, 10), "eval_batch_size": 16}
    return ImageFolder(str(folder), str(folder / "images.csv"), **{**declared, **changes})


LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = [*LETTERS, *(f"##{letter}" for letter in LETTERS), *".,!?:'_0123456789", "the", "it", "was", "good", "text"]


def bert(folder, **options):
    """Write a tiny tokenizer like BERT's, with mask and padding tokens, and return its folder."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {piece: i for i, piece in enumerate([*special, *PIECES])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"], special, strict=True))
    return written(folder / "bert", made, **names, **options)


def gpt(folder, **options):
    """Write a tiny tokenizer like GPT-2's, of bytes, without mask and padding tokens, and return its folder."""
    vocabulary = {token: i for i, token in enumerate(["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    merges = [("\u0120", "t"), ("t", "h")]
    vocabulary |= {"".join(pair): len(vocabulary) + i for i, pair in enumerate(merges)}
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return written(folder / "gpt", made, eos_token="<|end|>", **options)


def written(folder, made, **options):
    PreTrainedTokenizerFast(tokenizer_object=made, **options).save_pretrained(folder)
    return str(folder)


def sayings(n=60, seed=0):
    draw = np.random.default_rng(seed)
    said = [" ".join("".join(draw.choice(list(LETTERS), 3)) for _ in range(draw.integers(0, 12))) for _ in range(n)]
    who = draw.integers(0, max(n // 4, 1), n)
    return pd.DataFrame(
        {
            "text": said,
            "label": draw.choice(["no", "yes"], n),
            "group": draw.choice(["I", "II", "III"], n),
            "user": [f"u{i}" for i in who],
        }
    )


def texts(folder, rows=None, **changes):
    path = folder / "sayings.csv"
    (sayings() if rows is None else rows).to_csv(path, index=False)
    declared = {"train": str(path), "groups": ["I", "II", "III"], "classes": ["no", "yes"], "eval_batch_size": 16}
    return Texts(**{**declared, "tokenizer": changes.get("tokenizer") or bert(folder), **changes})


OWN = {"Table": table, "ImageFolder": images, "Texts": texts}
"""How to make a module that does not come with data: from an empty folder."""


def invented(features, groups, n=300, seed=0):
    """Rows that no one sent in: each value declared, or unheard of, or out of its limits."""
    draw = np.random.default_rng(seed)
    columns = {}
    for feature in features:
        if isinstance(feature, Categories):
            columns[feature.column] = draw.choice([*feature.values, "Unheard"], n)
        else:
            columns[feature.column] = draw.uniform(feature.low - 5, feature.high + 5, n)
    for column, values in groups.items():
        columns[column] = draw.choice(values, n)
    return pd.DataFrame(columns)
