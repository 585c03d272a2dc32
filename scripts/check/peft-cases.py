"""Tiny adapters as PEFT saves them, for models of several architectures, and what llama.cpp's
convert_lora_to_gguf.py makes of each. Writes one folder for each case:

    adapter_config.json, adapter_model.safetensors   the adapter
    converted.gguf                                   llama.cpp's
    base.gguf                                        the base: its shapes, without meaning

With a program, it is asked to import and to export each case: the tensors must be those of
llama.cpp's converter, and PEFT must compute the same logits with what was exported. DoRA is merged
into the weights of its base, which must give PEFT's own logits.

usage: peft-cases.py LLAMA_CPP OUT [TRANSLORA]
"""

import json
import math
import os
import pathlib
import re
import subprocess
import sys

llama, out = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
sys.path.insert(1, str(llama / "gguf-py"))
sys.path.insert(1, str(llama))

import gguf
import numpy as np
import peft
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

SIZES = dict(
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=40,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
ATTENTION = dict(target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)

# Name, the model's configuration, LoRA's settings, the type of the numbers.
CASES = [
    ("llama", hf.LlamaConfig(**SIZES, head_dim=4), {}, torch.float32),
    ("llama-bf16", hf.LlamaConfig(**SIZES, head_dim=4), {}, torch.bfloat16),
    ("granite", hf.GraniteConfig(**SIZES), {}, torch.float16),
    ("mistral", hf.MistralConfig(**SIZES, head_dim=8), {}, torch.float32),
    ("qwen2", hf.Qwen2Config(**SIZES), {}, torch.float32),
    ("qwen3", hf.Qwen3Config(**SIZES, head_dim=8), {}, torch.float32),
    ("gemma3", hf.Gemma3TextConfig(**SIZES, head_dim=8), {}, torch.bfloat16),
    ("phi3", hf.Phi3Config(**SIZES), {}, torch.float32),
    ("qwen3moe", hf.Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=8), ATTENTION, torch.float32),
    ("mixtral", hf.MixtralConfig(**SIZES, num_local_experts=4, head_dim=4), ATTENTION, torch.float32),
    ("lm-head", hf.LlamaConfig(**SIZES, head_dim=4), dict(target_modules=["lm_head", "embed_tokens"]), torch.float32),
]


# The same with DoRA, which is merged.
DORA = [
    ("llama", hf.LlamaConfig(**SIZES, head_dim=4)),
    ("qwen2", hf.Qwen2Config(**SIZES)),
]


def saved(folder, config, settings, kind):
    """An adapter of random numbers, as PEFT saves it."""
    torch.manual_seed(7)
    model = hf.AutoModelForCausalLM.from_config(config)
    config.architectures = [type(model).__name__]
    settings = {"r": 2, "lora_alpha": 5, "target_modules": "all-linear"} | settings
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn_like(weight)
    model.to(kind).save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def with_experts(folder, config, kind):
    """Adds a LoRA for each expert, as transformers 4 has them: the converter knows no others."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    mixtral = isinstance(config, hf.MixtralConfig)
    parent = "block_sparse_moe" if mixtral else "mlp"
    names = ["w1", "w3", "w2"] if mixtral else ["gate_proj", "up_proj", "down_proj"]
    for layer in range(config.num_hidden_layers):
        for expert in range(4):
            for name in names:
                down = name in ("w2", "down_proj")
                ins, outs = (24, 16) if down else (16, 24)
                module = f"base_model.model.model.layers.{layer}.{parent}.experts.{expert}.{name}"
                tensors[f"{module}.lora_A.weight"] = torch.randn(2, ins).to(kind)
                tensors[f"{module}.lora_B.weight"] = torch.randn(outs, 2).to(kind)
    save_file(tensors, path, metadata={"format": "pt"})


def base(path, config, name):
    """The shapes that the converter gives the model, and the keys that tell its heads."""
    from conversion import ModelType, get_model_architecture, get_model_class

    hparams = config.to_dict() | {"architectures": config.architectures}
    kind = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    arch = gguf.MODEL_ARCH_NAMES[kind.model_arch]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    width, hidden = config.hidden_size, config.intermediate_size
    head = getattr(config, "head_dim", None) or width // config.num_attention_heads
    q, kv = head * config.num_attention_heads, head * config.num_key_value_heads
    shapes = {"attn_output": (width, q)}
    if name == "phi3":
        shapes |= {"attn_qkv": (q + 2 * kv, width), "ffn_up": (2 * hidden, width)}
    else:
        shapes |= {"attn_q": (q, width), "attn_k": (kv, width), "attn_v": (kv, width)}
    if name in ("qwen3moe", "mixtral"):
        shapes |= {f"ffn_{part}_exps": (4, 24, width) for part in ("gate", "up")}
        shapes |= {"ffn_down_exps": (4, width, 24), "ffn_gate_inp": (4, width)}
    else:
        shapes |= {"ffn_down": (width, hidden)}
        if name != "phi3":
            shapes |= {"ffn_gate": (hidden, width), "ffn_up": (hidden, width)}
    for layer in range(config.num_hidden_layers):
        for stem, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{stem}.weight", np.zeros(shape, np.float16))
    for table in ("token_embd", "output"):
        writer.add_tensor(f"{table}.weight", np.zeros((config.vocab_size, width), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert(folder, config):
    config.save_pretrained(folder / "model")
    model = json.loads((folder / "model/config.json").read_text())
    if "rope_parameters" in model and "rope_theta" not in model:
        model["rope_theta"] = (model["rope_parameters"] or {}).get("rope_theta", 10000.0)
    (folder / "model/config.json").write_text(json.dumps(model))
    command = [sys.executable, llama / "convert_lora_to_gguf.py", folder, "--base", folder / "model"]
    ran = subprocess.run(
        [*map(str, command), "--outfile", str(folder / "converted.gguf")],
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    if ran.returncode:
        sys.exit(f"{folder.name}: the converter says\n{ran.stderr[-2000:]}")
    for path in (folder / "model").iterdir():
        path.unlink()
    (folder / "model").rmdir()


def tensors(path):
    reader = gguf.GGUFReader(path)
    return {t.name: (t.tensor_type, list(t.shape), t.data.tobytes()) for t in reader.tensors}


def logits(config, folder):
    torch.manual_seed(7)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    model = peft.PeftModel.from_pretrained(model, folder)
    with torch.no_grad():
        return model(torch.arange(3, 24)[None]).logits


def check(program, folder, name, config):
    """Prints a line for the case, and says whether all agrees."""
    base, back, peft_folder = folder / "base.gguf", folder / "import.gguf", folder / "export"
    subprocess.run([program, "import", "-q", folder, "-m", base, "--out", back], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([program, "export", "-q", back, "-m", base, "--peft", peft_folder], check=True, stdout=subprocess.DEVNULL)
    ours, theirs = tensors(back), tensors(folder / "converted.gguf")
    same = sum(ours.get(name) == tensor for name, tensor in theirs.items())
    line = f"{name:12} {same} of {len(theirs)} tensors are the converter's, {len(ours) - same} are not"
    agrees = same == len(theirs) == len(ours)
    if name in ("qwen3moe", "mixtral"):
        print(line + "; PEFT of transformers 5 has no module for one expert: logits not compared")
        return agrees
    difference = (logits(config, folder) - logits(config, peft_folder)).abs().max().item()
    print(f"{line}; logits in PEFT differ by {difference:.1e}")
    return agrees and difference == 0


# Modules of transformers by their names in a GGUF.
STEMS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def dora(program, folder, name, config):
    """Merges a DoRA into a base, and compares the logits of the merged weights with PEFT's own."""
    torch.manual_seed(7)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}

    def permuted(stem, weight, back=False):
        if name != "llama" or stem not in heads:
            return weight
        sides = (heads[stem], -1, 2) if back else (heads[stem], 2, -1)
        return weight.reshape(*sides, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)

    writer = gguf.GGUFWriter(folder / "base.gguf", name)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    modules = dict(model.named_modules())
    places = {
        f"blk.{layer}.{stem}.weight": (stem, f"model.layers.{layer}.{path}")
        for layer in range(config.num_hidden_layers)
        for stem, path in STEMS.items()
    }
    for tensor, (stem, path) in places.items():
        weight = modules[path].weight.detach().numpy()
        writer.add_tensor(tensor, np.ascontiguousarray(permuted(stem, weight)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=5, target_modules="all-linear", use_dora=True)
    model = peft.get_peft_model(model, lora).eval()
    for path, weight in model.named_parameters():
        if "lora_magnitude" in path:
            weight.data = weight.data * (0.5 + torch.rand_like(weight))
        elif "lora_" in path:
            weight.data = torch.randn_like(weight) / 4
    model.save_pretrained(folder, save_embedding_layers=False)
    words = torch.arange(3, 24)[None]
    with torch.no_grad():
        right = model(words).logits
    merged = folder / "merged.gguf"
    command = [program, "merge", "-q", "-m", folder / "base.gguf", "--lora", folder, "--out", merged]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    torch.manual_seed(7)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    modules = dict(model.named_modules())
    with torch.no_grad():
        bare = model(words).logits
        for tensor in gguf.GGUFReader(merged).tensors:
            stem, path = places[tensor.name]
            weight = permuted(stem, tensor.data.copy(), back=True)
            modules[path].weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        found = model(words).logits
    moved, error = ((right - of).abs().max().item() for of in (bare, found))
    print(f"{name:12} DoRA merged: logits differ from PEFT's by {error:.1e}, the adapter moves them by {moved:.1e}")
    return error < 1e-4 < moved / 100


def main():
    for name, config, settings, kind in CASES:
        folder = out / name
        folder.mkdir(parents=True)
        saved(folder, config, settings, kind)
        if name in ("qwen3moe", "mixtral"):
            with_experts(folder, config, kind)
        base(folder / "base.gguf", config, name)
        convert(folder, config)
    if len(sys.argv) > 3:
        agree = [check(sys.argv[3], out / name, name, config) for name, config, *_ in CASES]
        for name, config in DORA:
            folder = out / f"{name}-dora"
            folder.mkdir()
            agree.append(dora(sys.argv[3], folder, name, config))
        sys.exit(0 if all(agree) else 1)


main()
