"""
test_extras.py: GPT-2's files, your own text, other comparisons.

Run: python -m pytest extras/test_extras.py        # no network, less than a minute
"""

import contextlib
import functools
import http.server
import json
import math
import os
import random
import re
import shlex
import shutil
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import rlhf
import stories
import text
from extras import convert, gpt2, label
from gpt import GPT, next_token_logprobs
from reward import Comparison, read_comparisons, write_comparisons
from rlhf import load_rho
from text import Tokenizer, UserError, split_passages, train_bpe

ROOT = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared"
CASES = SHARED / "cases"         # files as people have them; tests skip where they are not
CPU = ["--device", "cpu"]
SMALL = ("--passages 400 --vocab_size 500 --query_min 5 --n_embd 16 --n_head 2 "
         "--device cpu").split()
# A model that has learned so little ends few responses where it should: with 0, anywhere.
TINY = [*SMALL, *("--lm_steps 60 --lm_batch 8 --n_labels 60 --truncate_after 0 "
                  "--episodes 64 --batch_size 32 --eval_queries 12 --optimum_queries 2 "
                  "--optimum_samples 8").split()]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """These models are so small that a second thread would only wait for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model():
    """A small GPT-2 whose every weight matters: random, and far from its mild initial
    values."""
    torch.manual_seed(0)
    m = GPT(vocab_size=300, block_size=40, n_layer=2, n_head=2, n_embd=16)
    for p in m.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return m


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(train_bpe(passages(100), 300))


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert rlhf.main([*TINY, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def exported(a_run, tmp_path_factory):
    to = tmp_path_factory.mktemp("exported")
    assert gpt2.main(["export", str(a_run), str(to)]) == 0
    return to


def passages(n, seed=0):
    rng = random.Random(seed)
    return [stories.passage(rng) for _ in range(n)]


def tokens_of(B, T):
    return torch.randint(300, (B, T), generator=torch.Generator().manual_seed(1))


def one_sentence(capsys):
    """What was said on stderr, which must be one sentence and no traceback."""
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said, said
    return said


# --- weights ----------------------------------------------------------------------------

def published(model, tokenizer, folder, layout="model.safetensors", prefix=""):
    """The model in a published layout, as others write it."""
    gpt2.write_gpt2(folder, model, tokenizer, temperature=0.7)
    if layout == "pytorch_model.bin":
        tensors = gpt2.read_safetensors(folder / "model.safetensors")
        tensors = {prefix + name: t for name, t in tensors.items()}
        tensors["lm_head.weight"] = tensors[prefix + "wte.weight"]
        mask = torch.ones(1, 1, 40, 40, dtype=torch.uint8).tril()
        tensors[prefix + "h.0.attn.bias"] = mask
        torch.save(tensors, folder / layout)
        (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("layout, prefix", [
    ("model.safetensors", ""), ("pytorch_model.bin", ""),
    ("pytorch_model.bin", "transformer.")])
def test_weights_come_back_from_both_layouts(layout, prefix, model, tokenizer, tmp_path):
    folder = published(model, tokenizer, tmp_path / "m", layout, prefix)
    for path in (folder, folder / layout):
        again = gpt2.read_gpt2(gpt2.weights_file(str(path)))
        assert again.shape == model.shape
        assert torch.equal(again(tokens_of(2, 9)), model(tokens_of(2, 9)))
        assert all(p.requires_grad for p in again.parameters())


def test_safetensors_by_hand(tmp_path):
    path = tmp_path / "a.safetensors"
    gpt2.write_safetensors(path, {"w": torch.tensor([[1.0, 2.0]])})
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + n])
    assert header["w"] == {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
    assert n % 8 == 0
    assert data[8 + n:] == np.array([1, 2], "<f4").tobytes()


def test_heads_are_known_of_gpt2s_sizes_alone(tokenizer, tmp_path):
    m = GPT(vocab_size=300, block_size=8, n_layer=1, n_head=12, n_embd=768)
    folder = published(m, tokenizer, tmp_path / "m")
    (folder / "config.json").unlink()
    assert gpt2.read_gpt2(folder / "model.safetensors").shape == m.shape
    m = GPT(vocab_size=300, block_size=8, n_layer=1, n_head=4, n_embd=128)
    folder = published(m, tokenizer, tmp_path / "n")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="nothing says how many heads its 128 channels have"):
        gpt2.read_gpt2(folder / "model.safetensors")


def test_no_dropout_for_whoever_trains_it_on(model, tokenizer, tmp_path):
    # Left out they would be .1, and at 1.0 all would be zeros, as soon as another program
    # trains the model.
    folder = published(model, tokenizer, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    assert [config[f"{name}_pdrop"] for name in ("resid", "embd", "attn")] == [0.0] * 3
    assert config["n_positions"] == 40
    assert [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [None] * 3


def test_transformers_opens_what_we_write_and_agrees(model, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = published(model, tokenizer, tmp_path / "m")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder)
    x = tokens_of(3, 20)
    with torch.no_grad():
        assert (theirs.eval()(x).logits - model(x)).abs().max() < 1e-4
        assert (theirs.train()(x).logits - model(x)).abs().max() < 1e-4, "no dropout"
    theirs.eval().save_pretrained(tmp_path / "theirs")
    ours = gpt2.read_gpt2(gpt2.weights_file(str(tmp_path / "theirs")))
    assert torch.equal(ours(x), model(x))


@pytest.mark.parametrize("damage, words", [
    (lambda data: data[:-1], "cut short or damaged"),
    (lambda data: data[:40], "cut short or not"),
    (lambda data: b"", "0 bytes"),
    (lambda data: b"\xff" * 99, "cut short or not safetensors"),
    (lambda data: data.replace(b'"F32"', b'"Q32"', 1), "not a header of safetensors"),
    (lambda data: data.replace(b'"shape": [300, 16]', b'"shape": [Infinity]', 1), "Overflow"),
    (lambda data: data.replace(b"[300, 16]", b"[301, 16]"), "which is not [301, 16]"),
    (lambda data: data.replace(b'"data_offsets": [0, ', b'"data_offsets": [9, '),
     "which is not"),
    (lambda data: data.replace(b'"wpe.weight"', b'"wqe.weight"'), "wpe.weight")])
def test_damaged_weights_are_one_sentence(damage, words, model, tokenizer, tmp_path,
                                          capsys):
    path = published(model, tokenizer, tmp_path / "m") / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    given = ["--weights", str(path.parent), "--out", str(tmp_path / "r.pt")]
    assert gpt2.main(["rho", *SMALL, *given]) == 2
    assert words in one_sentence(capsys) and not (tmp_path / "r.pt").exists()


def test_a_header_that_points_past_the_end_is_refused(model, tokenizer, tmp_path):
    path = published(model, tokenizer, tmp_path / "m") / "model.safetensors"
    data = path.read_bytes()
    last = max(int(n) for n in re.findall(rb", (\d+)\]}", data))
    path.write_bytes(data.replace(b"%d]}" % last, b"%d]}" % (10 * last)))
    with pytest.raises(UserError, match=f"to {10 * last}, but the file has {last + 1}"):
        gpt2.read_safetensors(path)


@pytest.mark.parametrize("change, words", [
    ({"n_head": 3}, "3 heads cannot share 16"), ({"n_head": "two"}, "'two' heads"),
    ({"n_head": None}, "how many heads its 16 channels have"),
    ({"n_head": -2}, "-2 heads"), ({"n_head": 0}, "0 heads"),
    ({"activation_function": "relu"}, "activation_function"),
    ({"layer_norm_epsilon": 0.1}, "layer_norm_epsilon"),
    ({"model_type": "llama"}, "model_type"),
    ({"scale_attn_weights": False}, "scale_attn_weights")])
def test_another_model_than_gpt2_is_refused(change, words, model, tokenizer, tmp_path):
    folder = published(model, tokenizer, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=words):
        gpt2.read_gpt2(folder / "model.safetensors")


def test_weights_that_are_not_whole_are_refused(model, tokenizer, tmp_path):
    path = published(model, tokenizer, tmp_path / "m") / "model.safetensors"
    tensors = gpt2.read_safetensors(path)

    def refused(words, **changed):
        gpt2.write_safetensors(path, {**tensors, **changed})
        with pytest.raises(UserError, match=words):
            gpt2.read_gpt2(path)
    refused("size mismatch for ln_f.bias", **{"ln_f.bias": torch.zeros(15)})
    untied = tensors["wte.weight"] + 1
    refused("lm_head: it is not the embedding", **{"lm_head.weight": untied})
    refused("ln_f.bias is empty or not finite", **{"ln_f.bias": torch.zeros(0)})
    # One number of one tensor among many that are finite, wherever it stands.
    for name in ("ln_f.bias", "wte.weight", "h.1.mlp.c_fc.weight"):
        for value in (math.nan, math.inf):
            bad = tensors[name].clone()
            bad.view(-1)[3] = value
            refused(f"{re.escape(name)} is empty or not finite", **{name: bad})
    with pytest.raises(UserError, match="none of model.safetensors, .* in this folder"):
        gpt2.weights_file(str(tmp_path))
    torch.save([tensors], tmp_path / "list.pt")
    torch.save({"wte": 1}, tmp_path / "other.pt")
    torch.save(model, tmp_path / "pickled.pt")
    (tmp_path / "note.pt").write_text("a short note")
    for name in ("list", "pickled", "note"):
        with pytest.raises(UserError, match=f"{name}.pt is cut short, damaged, or not a"):
            gpt2.read_gpt2(tmp_path / f"{name}.pt")
    with pytest.raises(UserError, match="no wte.weight and wpe.weight; there are wte"):
        gpt2.read_gpt2(tmp_path / "other.pt")


def saved_as(change, model, tokenizer, folder):
    """The model's weights, and its config.json, as another program saves them."""
    published(model, tokenizer, folder)
    tensors = gpt2.read_safetensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(change(tensors), folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("change, left", [
    (lambda t: {f"transformer.{name}": a.double() for name, a in t.items()}, ""),
    (lambda t: {f"_orig_mod.module.model.{name}": a for name, a in t.items()}, ""),
    (lambda t: {f"pretrained_model.transformer.{name}": a for name, a in t.items()}, ""),
    (lambda t: {**t, "v_head.summary.weight": torch.ones(1, 16)}, "v_head.summary.weight"),
    (lambda t: {**t, "score.weight": torch.ones(2, 16)}, "score.weight"),
    (lambda t: {**t, "position_ids": torch.arange(40)}, "position_ids"),
    (lambda t: {**t, "h.0.attn.masked_bias": torch.tensor(-1e4)}, ""),
    (lambda t: {"lm_head.weight": t["wte.weight"],
                **{name: a for name, a in t.items() if name != "wte.weight"}}, ""),
    (lambda t: {"model": {f"_orig_mod.transformer.{name}":
                          a.T if name.endswith(gpt2.TRANSPOSED) else a
                          for name, a in t.items()},
                "iter_num": 5, "model_args": {"n_head": 2}}, ""),
    (lambda t: {"epoch": 1, "state_dict": {f"model.transformer.{name}": a
                                           for name, a in t.items()}}, ""),
    (lambda t: {"_fsdp_wrapped_module.transformer." + name.replace(
        ".attn.", "._checkpoint_wrapped_module.attn."): a for name, a in t.items()}, ""),
    (lambda t: {f"base_model.model.transformer.{name}": a for name, a in t.items()}, "")])
def test_the_gpt2_in_other_programs_files(change, left, model, tokenizer, tmp_path, capsys):
    folder = saved_as(change, model, tokenizer, tmp_path / "m")
    again = gpt2.read_gpt2(gpt2.weights_file(str(folder)))
    assert torch.equal(again(tokens_of(2, 9)), model(tokens_of(2, 9)))
    said = capsys.readouterr().out
    assert ("left out of" in said) == bool(left) and left in said


@pytest.mark.parametrize("change, words", [
    (lambda t: {**t, "h.0.attn.c_attn.lora_A.default.weight": torch.ones(2, 16)}, "LoRA"),
    (lambda t: {**{f"actor.{name}": a for name, a in t.items()},
                **{f"critic.{name}": a for name, a in t.items()}}, "two models"),
    (lambda t: {**t, "h.0.mlp.c_fc.weight": torch.ones(16, 64, dtype=torch.int8)},
     "h.0.mlp.c_fc.weight does not hold plain numbers (it is torch.int8)"),
    (lambda t: {**t, "wte.weight": t["wte.weight"].to("meta")}, "not hold plain numbers"),
    (lambda t: {**t, "lm_head.bias": torch.ones(300)}, "not a GPT-2 (lm_head.bias)"),
    (lambda t: {name: a for name, a in t.items() if "h.1." not in name}, "1 of 2 layers")])
def test_what_would_be_another_model_is_refused(change, words, model, tokenizer, tmp_path):
    folder = saved_as(change, model, tokenizer, tmp_path / "m")
    with pytest.raises(UserError, match=re.escape(words)):
        gpt2.read_gpt2(folder / "pytorch_model.bin")


def test_nanogpts_file_says_its_heads_itself(model, tokenizer, tmp_path):
    folder = saved_as(lambda t: {"model": t, "model_args": {"n_head": 2}}, model, tokenizer,
                      tmp_path / "m")
    (folder / "config.json").unlink()
    again = gpt2.read_gpt2(folder / "pytorch_model.bin")
    assert torch.equal(again(tokens_of(2, 9)), model(tokens_of(2, 9)))


def test_nanogpts_default_has_no_biases(model, tokenizer, tmp_path):
    for name, p in model.named_parameters():
        if name.endswith(".bias"):
            p.data.zero_()
    folder = saved_as(lambda t: {"model": {name: a for name, a in t.items()
                                           if not name.endswith(".bias")},
                                 "model_args": {"n_head": 2, "bias": False}},
                      model, tokenizer, tmp_path / "m")
    again = gpt2.read_gpt2(folder / "pytorch_model.bin")
    assert torch.equal(again(tokens_of(2, 9)), model(tokens_of(2, 9)))
    torch.save({"model": gpt2.read_saved(folder / "pytorch_model.bin")["model"],
                "model_args": {"n_head": 2, "bias": True}}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="Missing key.*ln_1.bias"):
        gpt2.read_gpt2(folder / "pytorch_model.bin")


def test_weights_in_several_files(model, tokenizer, tmp_path):
    folder = published(model, tokenizer, tmp_path / "m")
    tensors = gpt2.read_safetensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    of_file = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, some in of_file.items():
        gpt2.write_safetensors(folder / file, {name: tensors[name] for name in some})
    index = folder / "model.safetensors.index.json"
    weight_map = {name: file for file, some in of_file.items() for name in some}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    again = gpt2.read_gpt2(gpt2.weights_file(str(folder)))
    assert torch.equal(again(tokens_of(2, 9)), model(tokens_of(2, 9)))
    (folder / "b.safetensors").unlink()
    with pytest.raises(FileNotFoundError):
        gpt2.read_gpt2(index)
    index.write_text(json.dumps({"weight_map": {"wte.weight": "../b.safetensors"}}))
    with pytest.raises(UserError, match="must lie beside it"):
        gpt2.read_gpt2(index)


def test_another_name_of_the_heads(model, tokenizer, tmp_path):
    folder = published(model, tokenizer, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["num_attention_heads"] = config.pop("n_head")
    (folder / "config.json").write_text(json.dumps(config))
    assert gpt2.read_gpt2(folder / "model.safetensors").shape == model.shape


@pytest.mark.skipif(not CASES.exists(), reason=f"no {CASES}")
@pytest.mark.parametrize("name", ["sharded", "save_model", "value_head", "classifier",
                                  "float64", "int64_buffer", "other_name_of_heads"])
def test_files_of_weights_as_people_have_them(name):
    plain, same = [gpt2.read_gpt2(gpt2.weights_file(str(CASES / "weights" / name)))
                   for name in ("plain", name)]
    assert torch.equal(same(tokens_of(2, 9)), plain(tokens_of(2, 9)))


# --- tokens -----------------------------------------------------------------------------

def test_tokens_come_back_from_gpt2s_two_files(tmp_path):
    tokenizer = Tokenizer(train_bpe(passages(100), 500))
    gpt2.write_tokenizer(tmp_path, tokenizer)
    assert gpt2.read_tokenizer(tmp_path / "vocab.json").tokens == tokenizer.tokens
    merges = (tmp_path / "merges.txt").read_text("utf-8").splitlines()
    assert merges[0].startswith("#version") and "Ġ t" in merges


def test_transformers_reads_our_tokens(exported, a_run):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Tokenizer.from_pretrained(exported / "rho")
    _, ours, _, _ = load_rho(a_run / "rho.pt", "cpu")
    for passage in passages(50) + ["Zoë's 3.14 naïve tests:  \"done\" — 日本 ☂."]:
        assert theirs.encode(" " + passage) == ours.encode(passage)
        assert theirs.decode(ours.encode(passage)).strip() == passage


def test_transformers_samples_as_we_do(model, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = published(model, tokenizer, tmp_path / "m")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(tokens) == 300, "no id beyond the embedding"
    assert (tokens.bos_token, tokens.eos_token, tokens.pad_token) == (None, None, None)
    assert tokens.model_max_length == 40
    ids = tokens.encode("Mara went home.")
    assert ids == tokenizer.encode("Mara went home.")
    x = torch.tensor([ids])
    torch.manual_seed(0)
    drawn = theirs.generate(x.expand(20000, -1), max_new_tokens=1)[:, -1]
    shares = torch.bincount(drawn, minlength=300) / 20000
    ours = next_token_logprobs(model, model.hidden(x)[:, -1], 0.7).exp()[0]
    assert (shares - ours).abs().max() < 0.02, "at the temperature 0.7, of all tokens"


def newer_tokenizer(ids, merges=(), **changed):
    """What a tokenizer.json holds that makes GPT-2's pieces."""
    return {"normalizer": None, "pre_tokenizer": {"type": "ByteLevel"}, "added_tokens": [],
            "model": {"type": "BPE", "vocab": ids, "merges": merges}, **changed}


def test_tokens_of_newer_and_of_damaged_folders(tokenizer, tmp_path):
    gpt2.write_tokenizer(tmp_path, tokenizer)
    ids = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    (tmp_path / "vocab.json").unlink()
    newer = tmp_path / "tokenizer.json"
    with_end = {**ids, "<|endoftext|>": len(ids)}    # as GPT-2's
    weights = tmp_path / "model.safetensors"
    merges = gpt2.read_merges(tmp_path)
    lines = [" ".join(pair) for pair in merges]      # as they were written before 2024
    for pairs in (merges, lines):
        newer.write_text(json.dumps(newer_tokenizer(with_end, pairs)))
        assert gpt2.choose_tokenizer(None, weights).tokens == tokenizer.tokens
    for pairs in ([], [pair for pair in merges if "".join(pair) != "".join(merges[9])]):
        newer.write_text(json.dumps(newer_tokenizer(with_end, pairs)))
        with pytest.raises(UserError, match="tokens come from no merge"):
            gpt2.choose_tokenizer(None, weights)
    without_e = {name: i for name, i in ids.items() if name != "e"}
    twice = {**ids, "e": ids["f"]}
    for bad in (without_e, {name: i + 1 for name, i in ids.items()}, twice, {}, {"a": 7}):
        newer.write_text(json.dumps(newer_tokenizer(bad)))
        with pytest.raises(UserError, match="tokenizer.json is damaged"):
            gpt2.choose_tokenizer(str(tmp_path), None)
    with pytest.raises(UserError, match="none of tokenizer.json, vocab.json, encoder.json"):
        gpt2.choose_tokenizer(str(tmp_path / "nowhere"), None)


def test_ids_that_stand_for_no_bytes(tokenizer, tmp_path):
    gpt2.write_tokenizer(tmp_path, tokenizer)
    ids = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    first = {"<|endoftext|>": 0, **{name: i + 1 for name, i in ids.items()}}
    added = [{"id": 0, "content": "<|endoftext|>"}]
    path = tmp_path / "tokenizer.json"
    merges = gpt2.read_merges(tmp_path)
    path.write_text(json.dumps(newer_tokenizer(first, merges, added_tokens=added)))
    again = gpt2.read_tokenizer(path)
    assert again.tokens == [b"", *tokenizer.tokens]
    said = [i + 1 for i in tokenizer.encode("Tom came.")]
    assert again.encode("Tom came.") == said and again.decode([0, *said, 0]) == "Tom came."
    (tmp_path / "again").mkdir()
    gpt2.write_tokenizer(tmp_path / "again", again)
    assert gpt2.read_tokenizer(tmp_path / "again" / "vocab.json").tokens == again.tokens


def test_special_tokens_before_and_behind_the_others(tokenizer, tmp_path):
    gpt2.write_tokenizer(tmp_path, tokenizer)
    ids = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    vocab = {"<s>": 0, "<pad>": 1, **{name: i + 2 for name, i in ids.items()}}
    added = [{"id": 0, "content": "<s>"}, {"id": 1, "content": "<pad>", "special": True},
             {"id": len(vocab), "content": "<mask>"},
             {"id": len(vocab) + 1, "content": "<end>"}]     # not in the vocabulary
    path = tmp_path / "tokenizer.json"
    given = newer_tokenizer(vocab, gpt2.read_merges(tmp_path), added_tokens=added)
    path.write_text(json.dumps(given))
    again = gpt2.read_tokenizer(path)
    assert again.tokens == [b"", b"", *tokenizer.tokens, b""], "and one without a place"
    (tmp_path / "again").mkdir()
    gpt2.write_tokenizer(tmp_path / "again", again)
    written = json.loads((tmp_path / "again" / "vocab.json").read_text("utf-8"))
    assert sorted(written.values()) == list(range(len(again.tokens))), "every id has a name"
    assert gpt2.read_tokenizer(tmp_path / "again" / "vocab.json").tokens == again.tokens[:-1]


@pytest.mark.parametrize("changed, words", [
    ({"added_tokens": [{"content": "Mara", "special": False}]}, "its added_tokens,"),
    ({"added_tokens": [{"content": "!", "special": True}]}, "its added_tokens,"),
    ({"post_processor": {"type": "TemplateProcessing"}}, "its post_processor,"),
    ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Digits"}, {"type": "ByteLevel"}]}}, "its pre_tokenizer,"),
    ({"normalizer": {"type": "Lowercase"}}, "its normalizer,"),
    ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer,"),
    ({"pre_tokenizer": None}, "its pre_tokenizer,"),
    ({"pre_tokenizer": {"type": "ByteLevel", "use_regex": False}}, "use_regex"),
    ({"model": {"type": "Unigram", "vocab": []}}, "its model.type"),
    ({"model": {"vocab": {}, "dropout": 0.1}}, "model.dropout"),
    ({"model": {"vocab": {}, "continuing_subword_prefix": "##"}}, "subword_prefix"),
    ({"model": {"vocab": {}, "end_of_word_suffix": "</w>"}}, "end_of_word_suffix")])
def test_other_pieces_than_gpt2s_are_refused(changed, words, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(newer_tokenizer({}, **changed)))
    with pytest.raises(UserError, match="other pieces of a text .*" + re.escape(words)):
        gpt2.choose_tokenizer(str(tmp_path), None)


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"),
                                   ("encoder.json", "vocab.bpe")])
def test_ids_in_another_order_than_the_merges(names, tmp_path):
    tokenizer = Tokenizer(train_bpe(passages(100), 300))
    gpt2.write_tokenizer(tmp_path, tokenizer)
    for old, new in zip(("vocab.json", "merges.txt"), names):
        (tmp_path / old).rename(tmp_path / new)
    assert gpt2.choose_tokenizer(str(tmp_path), None).tokens == tokenizer.tokens
    lines = (tmp_path / names[1]).read_text("utf-8").splitlines()
    (tmp_path / names[1]).write_text("\n".join([lines[0], *reversed(lines[1:])]), "utf-8")
    with pytest.raises(UserError, match="not in the order of the merges"):
        gpt2.choose_tokenizer(str(tmp_path), None)


@pytest.mark.skipif(not CASES.exists(), reason=f"no {CASES}")
def test_tokenizers_as_people_have_them():
    tokenizers = pytest.importorskip("tokenizers")
    folder = CASES / "tokens" / "endoftext_is_0"
    ours = gpt2.choose_tokenizer(str(folder), None)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for passage in passages(20):
        assert theirs.encode(" " + passage).ids == ours.encode(passage)
    for name, field in (("lowercase", "normalizer"), ("nfkc", "normalizer"),
                        ("no_pieces", "pre_tokenizer.use_regex")):
        with pytest.raises(UserError, match=f"GPT-2's, by its {field}, cannot"):
            gpt2.choose_tokenizer(str(CASES / "tokens" / name), None)


@pytest.fixture
def gpt2s_own(tmp_path, monkeypatch):
    """GPT-2's tokens, from a copy of a cache where there is one."""
    kept = SHARED / "data" / "tiktoken_cache"
    if not kept.exists():
        pytest.skip(f"{kept} is not there")
    shutil.copytree(kept, tmp_path / "cache", copy_function=shutil.copyfile)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    gpt2.gpt2_tokenizer.cache_clear()
    yield gpt2.gpt2_tokenizer()
    gpt2.gpt2_tokenizer.cache_clear()


def test_gpt2s_tokens(gpt2s_own):
    assert gpt2s_own.encoding.encode_ordinary("Hello world") == [15496, 995]
    assert len(gpt2s_own.tokens) == 50256 and gpt2s_own.period == 13
    assert gpt2s_own.decode([15496, 50256, 995]) == "Hello world"


def test_gpt2s_tokens_without_network_or_cache(tmp_path, monkeypatch, capsys):
    def refused(*args):
        raise ConnectionError("no network")
    monkeypatch.setattr(gpt2.tiktoken, "get_encoding", refused)
    gpt2.gpt2_tokenizer.cache_clear()
    given = ["rho", *SMALL, "--tokenizer", "gpt2", "--out", str(tmp_path / "r.pt")]
    assert gpt2.main(given) == 2
    assert "TIKTOKEN_CACHE_DIR" in one_sentence(capsys)


def test_a_tokenizer_of_another_vocabulary_is_refused(exported, tokenizer, tmp_path,
                                                      capsys):
    gpt2.write_tokenizer(tmp_path, tokenizer)
    given = ["--weights", str(exported / "rho"), "--tokenizer", str(tmp_path), "--out",
             str(tmp_path / "r.pt")]
    assert gpt2.main(["rho", *SMALL, *given]) == 2
    assert "have 500 tokens, the tokenizer 300" in one_sentence(capsys)


# --- downloads --------------------------------------------------------------------------

@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on the loopback address with a folder to serve; an empty cache to load
    into."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message",
                        lambda *args: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{there.server_port}/{{}}"
        monkeypatch.setattr(gpt2, "WEIGHTS", address + ".safetensors")
        monkeypatch.setattr(gpt2, "LABELS", address + ".json")
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        yield folder
        there.shutdown()


def test_weights_are_downloaded_once_and_whole(server, model, tokenizer, tmp_path):
    path = published(model, tokenizer, tmp_path / "m") / "model.safetensors"
    whole = path.read_bytes()
    (server / "gpt2.safetensors").write_bytes(whole[:-100])
    with pytest.raises(UserError, match="cannot be downloaded.*cut short"):
        gpt2.weights_file("gpt2")
    left = [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]
    assert not left, "a part is not taken for the whole"
    (server / "gpt2.safetensors").write_bytes(whole)
    gpt2.weights_file("gpt2")
    (server / "gpt2.safetensors").unlink()
    assert gpt2.weights_file("gpt2").read_bytes() == whole
    with pytest.raises(UserError, match="404"):
        gpt2.weights_file("gpt2-medium")


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("reply", [
    b"", b"hello\r\n\r\n", OK + b"Content-Length: 999\r\n\r\n[1", OK + b"\r\n<html>Log in",
    OK + b"Transfer-Encoding: chunked\r\n\r\nff\r\n[1", OK + b"Content-Length: many\r\n\r\n[]",
    b"HTTP/1.1 403 Forbidden\r\n\r\n", b"HTTP/1.1 409 Conflict\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /sentiment.json\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://[bad\r\n\r\n", None])
def test_a_download_that_fails_is_one_sentence(reply, server, tmp_path, monkeypatch, capsys):
    def answer(listener):
        with contextlib.suppress(OSError):                   # the listener is closed
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    if reply is None:
                        time.sleep(9)                        # longer than we wait, below
                    else:
                        connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer, args=[listener], daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/{{}}.json"
        monkeypatch.setattr(gpt2, "LABELS", address)
        monkeypatch.setattr(gpt2, "gpt2_tokenizer", lambda: None)
        wait = socket.setdefaulttimeout
        monkeypatch.setattr(socket, "setdefaulttimeout", lambda seconds: wait(seconds / 60))
        assert gpt2.main(["labels", "sentiment", "--to", str(tmp_path / "l.jsonl")]) == 2
        wait(None)
    said = capsys.readouterr().err.splitlines()[-1]
    assert "sentiment.json cannot be downloaded (" in said and "Traceback" not in said
    assert reply is not None or "timed out" in said
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]
    assert not (tmp_path / "l.jsonl").exists()


def test_labels_are_downloaded_by_the_name_of_their_task(server, tmp_path, monkeypatch):
    of_bytes = Tokenizer([bytes([b]) for b in range(256)])
    monkeypatch.setattr(gpt2, "gpt2_tokenizer", lambda: of_bytes)
    samples = {f"sample{k}": list(b"The sun shone.") for k in range(4)}
    entries = [{"query": list(f"Tom is {i}.".encode()), "best": i % 4, **samples}
               for i in range(24)]
    (server / "descriptiveness.json").write_text(json.dumps(entries))
    to = tmp_path / "labels.jsonl"
    assert gpt2.main(["labels", "descriptiveness", "--to", str(to)]) == 0
    assert read_comparisons(to)[5] == Comparison("Tom is 5.", ["The sun shone."] * 4, 1)


# --- the labels that OpenAI released ----------------------------------------------------

def bad_entry(change):
    """A good entry, and one with a field changed or left out, or something else."""
    samples = {f"sample{k}": [66, 46, 50259] for k in range(4)}
    good = {"query": [65, 66], "best": 0, **samples}
    if isinstance(change, dict):
        return good, {**good, **change}
    if isinstance(change, str):
        return good, {key: good[key] for key in good if key != change.removeprefix("no ")}
    return good, change


@pytest.mark.parametrize("change, words", [
    ({"best": 4}, "best is 4"), ({"best": None}, "best is None"),
    ({"best": True}, "best is True"),
    ({"sample3": [13, 50258]}, "50258 is not one of GPT-2's tokens"),
    ({"sample3": [50259, 13]}, "50259 is not one of GPT-2's tokens"),
    ({"query": [-1]}, "-1 is not"), ({"query": ["a"]}, "'a' is not"),
    ({"query": [50259]}, "the query is empty"), ({"sample1": "text"}, "must be texts"),
    ({key: "\ud800 a" for key in gpt2.TEXTS}, "surrogates"),
    ("no best", "'best' is missing"), ("no sample3", "'sample3' is missing"),
    (7, "not a comparison")])
def test_openais_labels_that_cannot_be_used(change, words, tmp_path, monkeypatch, capsys):
    of_bytes = Tokenizer([bytes([b]) for b in range(256)])
    monkeypatch.setattr(gpt2, "gpt2_tokenizer", lambda: of_bytes)
    (tmp_path / "l.json").write_text(json.dumps([*bad_entry(change)] * 9))
    to = tmp_path / "labels.jsonl"
    assert gpt2.main(["labels", str(tmp_path / "l.json"), "--to", str(to)]) == 2
    said = one_sentence(capsys)
    assert words in said and "entry 2" in said and not to.exists()


@pytest.mark.parametrize("content, words", [
    ("[", "cannot be read"), ("{}", "not a JSON list"), ("[]", "not a JSON list")])
def test_a_file_of_no_such_labels(content, words, tmp_path, tokenizer):
    (tmp_path / "l.json").write_text(content)
    with pytest.raises(UserError, match=words):
        gpt2.read_labels(tmp_path / "l.json", tokenizer)


def test_a_sample_that_says_nothing_is_read(tmp_path, tokenizer):
    entry, _ = bad_entry({})
    (tmp_path / "l.json").write_text(json.dumps([{**entry, "sample2": [50259, 50259]}]))
    comparison, = gpt2.read_labels(tmp_path / "l.json", tokenizer)
    assert comparison.query == "AB" and comparison.samples == ["B.", "B.", "", "B."]


# --- rho, from weights or from nothing --------------------------------------------------

def test_from_nothing_rho_is_the_one_that_rlhf_trains(a_run, tmp_path, capsys):
    path = tmp_path / "deep" / "rho.pt"
    given = [*SMALL, "--steps", "60", "--batch", "8", "--out", str(path)]
    assert gpt2.main(["rho", *given]) == 0
    ours, tokenizer, queries, losses = load_rho(path, "cpu")
    theirs, same_tokenizer, same_queries, same_losses = load_rho(a_run / "rho.pt", "cpu")
    assert ours.shape == theirs.shape and tokenizer.tokens == same_tokenizer.tokens
    assert torch.equal(ours(tokens_of(2, 9)), theirs(tokens_of(2, 9)))
    assert losses == same_losses and set(queries) == {"reward", "policy", "evaluation"}
    for name, groups in queries.items():
        for Q, group in groups.items():
            assert torch.equal(group, same_queries[name][Q])
    before = path.read_bytes()
    capsys.readouterr()
    assert gpt2.main(["rho", *given]) == 2, "nothing is overwritten"
    assert "is there already" in one_sentence(capsys) and path.read_bytes() == before


def test_an_exported_run_is_read_again_and_stays_as_it_is(a_run, exported, tmp_path,
                                                          capsys):
    rho, _, _, _ = load_rho(a_run / "rho.pt", "cpu")
    policy = torch.load(a_run / "policy.pt", weights_only=True)["policy"]
    r = torch.load(a_run / "reward.pt", weights_only=True)["reward"]
    for name, weights, prefix in (("rho", rho.state_dict(), ""), ("r", r, "trunk."),
                                  ("pi", policy, "")):
        again = gpt2.read_gpt2(exported / name / "model.safetensors").state_dict()
        for key, tensor in again.items():
            assert torch.equal(tensor, weights[prefix + key]), f"{name}: {key}"
    path = tmp_path / "r.pt"
    given = [*SMALL, "--weights", str(exported / "pi"), "--out", str(path)]
    assert gpt2.main(["rho", *given]) == 0, "no steps where no text is given"
    again, tokenizer, _, _ = load_rho(path, "cpu")
    gpt2.write_gpt2(tmp_path / "again", again, tokenizer, 0.7)
    for name in ("vocab.json", "merges.txt", "model.safetensors", "config.json"):
        written = (exported / "pi" / name).read_bytes()
        assert (tmp_path / "again" / name).read_bytes() == written
    capsys.readouterr()
    (tmp_path / "once" / "rho.part").mkdir(parents=True)     # of an export that stopped
    assert gpt2.main(["export", str(a_run), str(tmp_path / "once")]) == 0
    assert sorted(p.name for p in (tmp_path / "once").iterdir()) == ["pi", "r", "rho"]
    capsys.readouterr()
    assert gpt2.main(["export", str(a_run), str(exported)]) == 2
    assert "is there already" in one_sentence(capsys)
    assert gpt2.main(["export", str(tmp_path)]) == 2
    assert "no finished policy" in one_sentence(capsys)


def printed_command(capsys):
    said = capsys.readouterr().out
    words = shlex.split(said.strip().splitlines()[-1])
    assert words[:2] == ["python", "rlhf.py"]
    return words[2:]


def test_your_own_text_to_a_policy_in_miniature(exported, tmp_path, capsys):
    text = tmp_path / "books"
    text.mkdir()
    (text / "a.txt").write_text(" ".join(passages(200, seed=1)))
    (text / "b.txt").write_text(" ".join(passages(200, seed=2)))
    given = ["--weights", str(exported / "rho"), "--text", str(text), "--steps", "3",
             "--query_min", "5", "--out", str(tmp_path / "my rho.pt"), "--seed", "3"]
    assert gpt2.main(["rho", *given, *CPU]) == 0
    command = printed_command(capsys)
    assert command[:2] == ["--seed", "3"]
    assert "--whiten_rewards" not in command, "the core's settings for a small vocabulary"
    given = [*TINY, *command, "--out", str(tmp_path / "out")]
    assert rlhf.main(given) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["config"]["rho"] == str(tmp_path / "my rho.pt")


def test_the_command_for_labels_is_one_that_label_takes(tmp_path):
    path = tmp_path / "my rho.pt"
    words = shlex.split(gpt2.ask_command(path, rlhf.Config(response_length=48)))
    assert words[:3] == ["python", "-m", "extras.label"]
    options = label.read_options(words[3:])
    assert options.command is label.ask_command and options.rho == str(path)
    assert options.response_length == 48
    assert options.to == str(tmp_path / "labels.jsonl")


def test_gpt2s_vocabulary_openais_labels_and_the_released_settings(gpt2s_own, tmp_path,
                                                                   capsys):
    encode, pad = gpt2s_own.encode, 50259
    sentences = [text.split(". ")[0] + "." for text in passages(200)]
    entries = []
    for i in range(40):
        entry = {"query": encode(sentences[i]) + [pad] * 7, "best": i % 4}
        for k in range(4):
            entry[f"sample{k}"] = encode(sentences[40 + 4 * i + k]) + [pad]
        entries.append(entry)
    given, labels = tmp_path / "offline_5k.json", tmp_path / "labels.jsonl"
    given.write_text(json.dumps(entries))
    assert gpt2.main(["labels", str(given), "--to", str(labels)]) == 0
    assert read_comparisons(labels)[1] == Comparison(sentences[1], sentences[44:48], 1)

    torch.manual_seed(0)
    big = GPT(50304, 100, 1, 2, 8)                   # with room, as nanoGPT leaves it
    tokens_of_a_run = Tokenizer(train_bpe([], 256))
    gpt2.write_gpt2(tmp_path / "tiny", big, tokens_of_a_run, 0.7)
    (tmp_path / "tiny" / "vocab.json").unlink()      # as after a download of the weights
    path = tmp_path / "rho.pt"
    given = ["--weights", str(tmp_path / "tiny"), "--passages", "100", "--out", str(path)]
    assert gpt2.main(["rho", *given, *CPU]) == 0
    _, tokenizer, queries, _ = load_rho(path, "cpu")
    assert len(tokenizer.tokens) == 50256
    lengths = [Q for groups in queries.values() for Q in groups]
    assert min(lengths) == 32 and max(lengths) == 64

    command = printed_command(capsys)
    cfg = rlhf.read_config(command)
    released = dict(query_min=32, query_max=64, n_labels=4992, reward_lr=5e-5,
                    reward_batch=32, episodes=1000000, batch_size=512, lr=1e-5, K=0.0512,
                    kl_target=6.0, beta=0.15, vf_coef=0.1, whiten_rewards=True,
                    supervised_lr=1e-4, rho=str(path), device="cpu")
    assert {name: getattr(cfg, name) for name in released} == released
    cfg = rlhf.read_config([*command, "--labels", str(labels)])
    assert cfg.labels == str(labels), "rlhf.py takes them"


@pytest.mark.parametrize("given, words", [
    (["--share", "0.4"], "below a third"), (["--query_min", "20"], "at most --query_max"),
    (["--steps", "-1"], "--lm_steps is -1"), (["--lr", "nan"], "--lm_lr is nan"),
    (["--n_head", "3"], "a multiple of --n_head"), (["--device", "tpu"], "present"),
    (["--response_length", "0"], "--response_length is 0"),
    (["--episodes", "9"], "--help"),
    (["--query_max", "50"], "have 38 positions, but --query_max and"),
    (["--text", "nowhere.txt"], "nowhere.txt"), (["--weights", "no-gpt"], "no-gpt")])
def test_what_the_user_can_mend_is_one_sentence(given, words, exported, tmp_path, capsys):
    if "--query_max" in given:
        given = [*given, "--weights", str(exported / "rho")]
    command = ["rho", "--passages", "50", "--out", str(tmp_path / "r.pt"), *CPU, *given]
    assert gpt2.main(command) == 2
    assert words in one_sentence(capsys)
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize("script", [gpt2, label])
def test_help_has_the_options_of_its_command_alone(script, capsys):
    def help_of(*argv):
        with pytest.raises(SystemExit) as end:
            script.main([*argv, "--help"])
        assert end.value.code == 0
        return set(re.findall(r"--\w+", capsys.readouterr().out)) - {"--help"}
    if script is gpt2:
        assert help_of("labels") == {"--to"} and help_of("export") == set()
        assert {"--weights", "--text", "--n_embd"} < help_of("rho")
    else:
        assert help_of("agreement") == set()
        assert {"--rho", "--policy", "--to", "--n", "--seed", "--task"} < help_of("ask")
    assert script.main([]) == 2
    assert "--help" in one_sentence(capsys)


def test_an_interrupt_is_no_traceback(monkeypatch, capsys):
    def stop(argv):
        raise KeyboardInterrupt
    for script in (gpt2, label):
        monkeypatch.setattr(script, "read_options", stop)
        assert script.main([]) == 2
        assert "stopped" in capsys.readouterr().err


# --- text of your own -------------------------------------------------------------------

def test_sentences_end_where_a_reader_would_say_so():
    said = ('Mr. Elliot paid $3.50. "I know," said J. R. Hartley. He left, i.e. fled... '
            "Dr. Wu ran.")
    passage, = text.split_into_passages(said)
    assert passage == ('Mr Elliot paid $3.50. "I know," said J R Hartley. He left, ie '
                       "fled... Dr Wu ran.")
    tokenizer = Tokenizer(train_bpe([], 256))
    ids = tokenizer.encode(passage)
    bounds = tokenizer.sentence_bounds(ids)
    sentences = [tokenizer.decode(ids[a:b]) for a, b in zip(bounds, bounds[1:])]
    assert sentences == ["Mr Elliot paid $3.50.", '"I know," said J R Hartley.',
                         "He left, ie fled...", "Dr Wu ran."]


def test_passages_divide_a_text_and_share_no_sentence():
    sentences = [f"This is sentence {i}." for i in range(100)]
    parts = text.split_into_passages(" ".join(sentences))
    assert [part.count(".") for part in parts] == [40, 40, 20]
    assert " ".join(parts) == " ".join(sentences)


def test_rho_reads_not_one_passage_of_the_other_parts(monkeypatch, tmp_path):
    # 23 passages, a fifth each for labels, pi and evaluation: 4, 4 and 4; 11 are left.
    numbered = [f"{i}." for i in range(23)]
    parts = split_passages(numbered, 0.2)
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 11, "reward": 4, "policy": 4, "evaluation": 4}
    assert sorted(sum(parts.values(), []), key=numbered.index) == numbered
    # What `rho` trains on is the first part, and nothing but it.
    read = []

    def watched(passages, tokenizer, T):
        read.append(passages)
        return windows(passages, tokenizer, T)
    windows = rlhf.sentence_windows
    monkeypatch.setattr(rlhf, "sentence_windows", watched)
    text = passages(50)
    given = [*SMALL, "--passages", "50", "--share", "0.2", "--query_max", "30"]
    given += ["--steps", "0"]
    assert gpt2.main(["rho", *given, "--out", str(tmp_path / "r.pt")]) == 0
    assert read == [text[:20], text[40:]]


def test_text_from_a_file_or_a_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_bytes("\ufeffOne\r\nday.\r\n".encode())
    (tmp_path / "deep" / "b.TXT").write_text("Zoë  came.\n\nLate.", "utf-8")
    (tmp_path / "c.png").write_bytes(b"\x89PNG")
    assert text.read_documents(tmp_path / "a.txt") == ["One day."]
    assert text.read_documents(tmp_path) == ["One day.", "Zoë came. Late."]
    # Files of other programs, and a folder with the name of a file.
    (tmp_path / "._a.txt").write_bytes(b"\0")
    (tmp_path / ".copy").mkdir()
    (tmp_path / ".copy" / "a.txt").write_text("One day.")
    (tmp_path / "old.txt").mkdir()
    assert text.read_documents(tmp_path) == ["One day.", "Zoë came. Late."]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_which_can_be_read_but_once_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: not a file, and it has to be read twice"):
        text.read_documents(tmp_path / "pipe")


def test_where_a_document_ends(tmp_path):
    """No passage, and so no query, runs from one into the next."""
    for name in "ab":
        sentences = [f"File {name} has {i}." for i in range(60)]
        content = f"Headline {name}\n\n{' '.join(sentences)} The end"
        (tmp_path / f"{name}.txt").write_text(content)
    passages = text.read_passages(tmp_path)
    assert [passage.count(".") for passage in passages] == [40, 20, 40, 20]
    assert all(("ile a" in passage) != ("ile b" in passage) for passage in passages)
    (tmp_path / "c.txt").write_text("One. Two.<|endoftext|>\nThree.<|endoftext|>")
    assert text.read_documents(tmp_path / "c.txt") == ["One. Two.", "Three."]


def test_initials_of_any_alphabet_end_no_sentence():
    assert text.split_into_passages("У А. С. Пушкина был Å. Ø. I. Wir. Он ушёл.", 1) == [
        "У А С Пушкина был Å Ø I.", "Wir.", "Он ушёл."]


def test_periods_with_a_space_before_them_end_sentences():
    assert text.split_into_passages("He ran . She hid . . . They won 3 .5 .", 1) == [
        "He ran.", "She hid...", "They won 3 .5."]


@pytest.mark.parametrize("content, words", [
    (b"", "0 of its 0 periods"), (b"One sentence.", "1 of its 1 periods stand between"),
    (b"Who ran... They (all) ran. " * 99, "99 of its 396 periods"),
    (("He ran.\u201d " * 300).encode(), "0 of its 300 periods"),
    (b"Who ran? " * 3000, "(there are: 3,000 ?)"),
    ("狗叫了。".encode() * 300, "(there are: 300 。)"),
    (b"One day. " * 200, "5 passages are too few"),
    (b"\xff\xfe\x00bad", "not UTF-8 text"),
    (b"MZ\x00\x01", "not a text, character 2 is a zero byte"),
    (None, "no file *.txt in this folder")])
def test_a_text_that_cannot_be_used(content, words, tmp_path, capsys):
    path = tmp_path / "a.txt"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    given = ["--text", str(path), "--vocab_size", "300", "--out", str(tmp_path / "r.pt")]
    assert gpt2.main(["rho", *given, *CPU]) == 2
    assert words in one_sentence(capsys) and not (tmp_path / "r.pt").exists()
    assert rlhf.main(["--text", str(path), "--out", str(tmp_path / "run"), *CPU]) == 2
    assert words in one_sentence(capsys)


# --- other people's comparisons ---------------------------------------------------------

PAIRS = [{"chosen": f"\n\nHuman: Is {i} odd?\n\nAssistant: I say so.",
          "rejected": f"\n\nHuman: Is {i} odd?\n\nAssistant: I do not."}
         for i in range(3)]


def converted(tmp_path, name, content, to="labels.jsonl"):
    (tmp_path / name).write_text(content, "utf-8")
    assert convert.main([str(tmp_path / name), "--to", str(tmp_path / to)]) == 0
    return tmp_path / to


def test_pairs_of_other_collections(tmp_path):
    lines = "\n".join(json.dumps(pair) for pair in PAIRS)
    read = read_comparisons(converted(tmp_path, "hh.jsonl", lines, "a.jsonl"))
    query = "Human: Is 1 odd?\n\nAssistant:"
    assert read[1] == Comparison(query, ["I say so.", "I do not."], 0) and len(read) == 3
    prompts = [{"prompt": "Tell.", "chosen": "Tell. Yes.", "rejected": "Tell. No."},
               {"prompt": "Yes", "chosen": "Yes, it is.", "rejected": "No."}]
    read = read_comparisons(converted(tmp_path, "p.json", json.dumps(prompts), "b.jsonl"))
    assert read == [Comparison("Tell.", ["Yes.", "No."], 0),
                    Comparison("Yes", ["Yes, it is.", "No."], 0)]
    feedback = {"info": {"post": " A long post.", "title": "t"}, "choice": 1,
                "summaries": [{"text": " short", "policy": "a"}, {"text": "shorter"}]}
    read = read_comparisons(converted(tmp_path, "f.json", json.dumps(feedback), "c.jsonl"))
    assert read == [Comparison("A long post.\n\nTL;DR:", ["short", "shorter"], 1)]


def test_a_table_and_back(tmp_path):
    comparisons = [Comparison(f'Query "{i}", she said.', ["a,\nb", "", "Zoë", "\u2028"], i)
                   for i in range(4)]
    write_comparisons(tmp_path / "labels.jsonl", comparisons)
    text = (tmp_path / "labels.jsonl").read_text("utf-8")
    table = converted(tmp_path, "l.jsonl", text, "table.csv")
    header = table.read_text("utf-8").splitlines()[0]
    assert header == "query,sample0,sample1,sample2,sample3,best"
    again = converted(tmp_path, "t.csv", table.read_text("utf-8"), "again.jsonl")
    assert read_comparisons(again) == comparisons


@pytest.mark.parametrize("head, mark", [("", ","), ("sep=;\n", ";"), ("", "\t"), ("", ", ")])
def test_tables_of_spreadsheets(head, mark, tmp_path):
    rows = [["query", "sample0", "sample1", "best"], ["q", "a", "b", "1"], [""] * 4,
            ["r", '"c,\nd"', "e" * 200_000, "0 "]]
    text = head + "\r\n".join(mark.strip(" ").join(row) if i else mark.join(row)
                               for i, row in enumerate(rows))
    read = read_comparisons(converted(tmp_path, "t.csv", text))
    assert read == [Comparison("q", ["a", "b"], 1), Comparison("r", ["c,\nd", "e" * 200_000], 0)]


@pytest.mark.parametrize("name, content, words", [
    ("a.jsonl", '{"chosen": "a", "rejected": 3}', "entry 1: chosen and rejected must be"),
    ("a.jsonl", '{"prompt": 5, "chosen": "a", "rejected": "b"}', "entry 1: prompt must be"),
    ("a.jsonl", "[1]", "entry 1: not a dictionary"),
    ("a.jsonl", '\n{"query": "q"},', "a.jsonl, line 2: not JSON"),
    ("a.json", "[{]", "neither a CSV nor"),
    ("a.jsonl", '{"chosen": "x y", "rejected": "z"}', "the query is empty"),
    ("a.jsonl", '{"summaries": [{"text": "a"}], "info": {"post": "b"}}', "two summaries"),
    ("a.csv", "query,sample0\nq,a", "'sample1' is missing"),
    ("a.csv", "query,sample0,sample1,best\nq,a,b,2", "best is 2"),
    ("b.CSV", "query,sample0,sample1,sample2,sample3,sample4,best\nq,a,b,c,d,e,0", "not a comparison"),
    ("a.csv", "", "no comparisons")])
def test_comparisons_that_cannot_be_converted(name, content, words, tmp_path, capsys):
    (tmp_path / name).write_text(content, "utf-8")
    to = tmp_path / "labels.jsonl"
    assert convert.main([str(tmp_path / name), "--to", str(to)]) == 2
    assert words in one_sentence(capsys) and not to.exists()


def test_a_conversion_into_neither_layout_is_refused(tmp_path, capsys):
    assert convert.main([str(tmp_path / "a.csv"), "--to", str(tmp_path / "b.tsv")]) == 2
    assert "b.tsv is neither a .jsonl nor a .csv" in one_sentence(capsys)
