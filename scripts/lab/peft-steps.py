#!/usr/bin/env python3
"""Takes ten training steps with PyTorch and PEFT on the models that quantized/train/tests/peft.rs
makes, and prints the losses it holds.

usage: TRANSLORA_PEFT=FOLDER cargo test -p translora-train --test peft
       peft-steps.py FOLDER

Needs torch, transformers and peft (CPU). Reads NAME.gguf, NAME.lora.gguf and plan.json; one Rust
array a model goes to the output.
"""

import json
import struct
import sys
from pathlib import Path

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Qwen2Config, Qwen3Config

NAMES = ["llama", "qwen2", "qwen3", "gemma2"]
FORMATS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NORMS = {
    "attn_norm": "input_layernorm",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
}
GEMMA_NORMS = {
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def read_gguf(path):
    """Gives metadata and tensors of a GGUF whose tensors are all F32."""
    data, at = path.read_bytes(), 8

    def take(form):
        nonlocal at
        value = struct.unpack_from("<" + form, data, at)[0]
        at += struct.calcsize("<" + form)
        return value

    def text():
        nonlocal at
        length = take("Q")
        at += length
        return data[at - length : at].decode()

    def value(kind):
        if kind == 8:
            return text()
        if kind == 9:
            inner, count = take("I"), take("Q")
            return [value(inner) for _ in range(count)]
        return take(FORMATS[kind])

    tensors, keys = take("Q"), take("Q")
    metadata = {}
    for _ in range(keys):
        key = text()
        metadata[key] = value(take("I"))
    found = []
    for _ in range(tensors):
        name = text()
        shape = [take("Q") for _ in range(take("I"))]
        kind, offset = take("I"), take("Q")
        assert kind == 0, f"{name} is not F32"
        found.append((name, shape[::-1], offset))
    unit = metadata.get("general.alignment", 32)
    start = (at + unit - 1) // unit * unit
    floats = {}
    for name, shape, offset in found:
        flat = torch.frombuffer(
            bytearray(data),
            dtype=torch.float32,
            count=torch.Size(shape).numel(),
            offset=start + offset,
        )
        floats[name] = flat.reshape(shape).clone()
    return metadata, floats


def configure(kind, metadata):
    """Says in transformers' words what the metadata says."""
    get = lambda key: metadata[f"{kind}.{key}"]
    common = dict(
        hidden_size=get("embedding_length"),
        num_hidden_layers=get("block_count"),
        intermediate_size=get("feed_forward_length"),
        num_attention_heads=get("attention.head_count"),
        num_key_value_heads=get("attention.head_count_kv"),
        head_dim=get("attention.key_length"),
        vocab_size=get("vocab_size"),
        max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
        tie_word_embeddings=True,
        use_cache=False,
    )
    if kind == "gemma2":
        pattern = get("attention.sliding_window_pattern")
        common |= dict(
            query_pre_attn_scalar=get("attention.key_length"),
            sliding_window=get("attention.sliding_window"),
            layer_types=["sliding_attention" if window else "full_attention" for window in pattern],
            attn_logit_softcapping=get("attn_logit_softcapping"),
            final_logit_softcapping=get("final_logit_softcapping"),
        )
    return {
        "llama": LlamaConfig,
        "qwen2": Qwen2Config,
        "qwen3": Qwen3Config,
        "gemma2": Gemma2Config,
    }[kind](**common)


def their_weights(kind, config, floats):
    """Renames the tensors, and undoes what llama.cpp's converter does to them."""
    renamed = {}
    norms = GEMMA_NORMS if kind == "gemma2" else NORMS
    for name, tensor in floats.items():
        stem, suffix = name.rsplit(".", 1)
        if kind == "gemma2" and "norm" in stem:
            tensor = tensor - 1
        if stem in ("token_embd", "output_norm"):
            renamed[
                {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[
                    stem
                ]
            ] = tensor
            continue
        _, block, part = stem.split(".")
        if kind == "llama" and part in ("attn_q", "attn_k"):
            # llama.cpp rotates neighbours, transformers halves.
            heads = config.num_attention_heads if part == "attn_q" else config.num_key_value_heads
            tensor = (
                tensor.reshape(heads, -1, 2, tensor.shape[1])
                .transpose(1, 2)
                .reshape(tensor.shape)
                .contiguous()
            )
        renamed[f"model.layers.{block}.{MODULES.get(part) or norms[part]}.{suffix}"] = tensor
    return renamed


def build(kind, folder, plan):
    metadata, floats = read_gguf(folder / f"{kind}.gguf")
    config = configure(kind, metadata)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    missing, unexpected = model.load_state_dict(their_weights(kind, config, floats), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    targets = [name.split(".")[1] for name in MODULES.values()]
    lora = peft.LoraConfig(
        r=plan["rank"],
        lora_alpha=plan["alpha"],
        lora_dropout=0.0,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(model, lora)
    parameters = dict(model.named_parameters())
    _, start = read_gguf(folder / f"{kind}.lora.gguf")
    with torch.no_grad():
        for name, tensor in start.items():
            _, block, part, _, which = name.split(".")
            which = which.replace("lora_a", "lora_A").replace("lora_b", "lora_B")
            parameter = parameters.pop(
                f"base_model.model.model.layers.{block}.{MODULES[part]}.{which}.default.weight"
            )
            assert parameter.shape == tensor.shape, name
            parameter.copy_(tensor)
    assert not any(
        parameter.requires_grad for parameter in parameters.values()
    ), "a matrix without a start"
    return model.train()


def losses(model, plan):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained,
        lr=plan["rate"],
        betas=tuple(plan["betas"]),
        eps=plan["epsilon"],
        weight_decay=plan["decay"],
    )
    for batch in plan["batches"]:
        total, count = 0.0, 0
        for tokens, completion in (plan["examples"][index] for index in batch):
            ids = torch.tensor([tokens])
            logits = model(input_ids=ids[:, :-1]).logits[0, completion - 1 :]
            total = total + torch.nn.functional.cross_entropy(
                logits, ids[0, completion:], reduction="sum"
            )
            count += len(tokens) - completion
        loss = total / count
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, plan["clip"])
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    plan = json.loads((folder / "plan.json").read_text())
    print(
        f"/// transformers {transformers.__version__}, peft {peft.__version__}, torch"
        f" {torch.__version__.split('+')[0]}, f32."
    )
    for kind in NAMES:
        numbers = ", ".join(f"{loss:.6f}" for loss in losses(build(kind, folder, plan), plan))
        print(f"const {kind.upper()}: [f64; 10] = [{numbers}];")


main()
