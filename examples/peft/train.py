#!/usr/bin/env python3
"""Trains a LoRA adapter with transformers and PEFT, as a user of these libraries would.

usage: train.py MODEL.gguf ROWS.jsonl FOLDER [--steps N]

The base is read from a GGUF file, so that nothing has to be downloaded. ROWS has one
{"prompt": "…", "completion": "…"} a line. The loss is on the answer alone. FOLDER gets what
save_pretrained writes: adapter_config.json, adapter_model.safetensors and the tokenizer.
Needs torch, transformers, peft and gguf (CPU).
"""

import argparse
import json
import random
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

BATCH = 8


def encode(tokenizer, row):
    """The tokens of a row, and the same as labels: -100 where nothing is learnt."""
    turns = [{"role": "user", "content": row["prompt"]}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    turns.append({"role": "assistant", "content": row["completion"]})
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    tokens = tokenizer(whole, add_special_tokens=False)["input_ids"]
    learnt_from = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    return tokens, [-100] * learnt_from + tokens[learnt_from:]


def batch(rows, padding):
    """Rows side by side. shapes: (rows, longest)"""
    longest = max(len(tokens) for tokens, _ in rows)
    fill = lambda values, with_: values + [with_] * (longest - len(values))
    return {
        "input_ids": torch.tensor([fill(tokens, padding) for tokens, _ in rows]),
        "labels": torch.tensor([fill(labels, -100) for _, labels in rows]),
        "attention_mask": torch.tensor([fill([1] * len(tokens), 0) for tokens, _ in rows]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, metavar="MODEL.gguf")
    parser.add_argument("rows", type=Path, metavar="ROWS.jsonl")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=70, help=f"of {BATCH} rows each [default: 70]")
    options = parser.parse_args()
    torch.manual_seed(1)
    order = random.Random(1)

    where = {"pretrained_model_name_or_path": options.model.parent, "gguf_file": options.model.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear"
    )
    model = get_peft_model(model, config)
    model.print_trainable_parameters()

    rows = [encode(tokenizer, json.loads(line)) for line in options.rows.read_text().splitlines()]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    for step in range(1, options.steps + 1):
        loss = model(**batch(order.sample(rows, BATCH), tokenizer.pad_token_id or 0)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 10 == 0 or step == options.steps:
            print(f"step {step}/{options.steps}  loss {loss.item():.4f}", flush=True)
    model.save_pretrained(options.folder)
    tokenizer.save_pretrained(options.folder)
    print(f"saved {options.folder}")


if __name__ == "__main__":
    main()
