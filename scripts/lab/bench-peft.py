"""A peer for scripts/bench: PEFT and torch on the CPU train the same shape with random weights, the
same adapter, the same loss.

usage: bench-peft.py SHAPE DTYPE TOKENS STEPS THREADS; prints one JSON object.
"""

import json
import resource
import statistics
import sys
import time

SHAPES = {
    "qwen2-0.5b": ("qwen2", 896, 24, 4864, 14, 2, 151936, True),
    "llama-1b": ("llama", 2048, 16, 8192, 32, 8, 32000, False),
    "smollm2-135m": ("llama", 576, 30, 1536, 9, 3, 49152, True),
}
RANK = 16


def build(shape, dtype):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    kind, width, blocks, inner, heads, kv_heads, words, tied = SHAPES[shape]
    make = {"qwen2": Qwen2Config, "llama": LlamaConfig}[kind]
    config = make(
        hidden_size=width,
        num_hidden_layers=blocks,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=words,
        tie_word_embeddings=tied,
        max_position_embeddings=4096,
        use_cache=False,
    )
    torch.manual_seed(1)
    torch.set_default_dtype(dtype)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=modules, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, lora), words


def main():
    shape, kind, tokens, steps, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
    import torch

    torch.set_num_threads(threads)
    model, words = build(shape, {"f32": torch.float32, "bf16": torch.bfloat16}[kind])
    model.train()
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0
    )
    kept = tokens // 2
    ids = torch.randint(0, words, (1, tokens + 1))
    seconds, computed = [], []
    for step in range(steps + 1):
        start, before = time.perf_counter(), time.process_time()
        # Only the last half of the positions goes through the output matrix, as in ours.
        logits = model(input_ids=ids[:, :tokens], logits_to_keep=kept).logits
        loss = torch.nn.functional.cross_entropy(logits[0].float(), ids[0, tokens - kept + 1 :])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step > 0:
            seconds.append(time.perf_counter() - start)
            computed.append(time.process_time() - before)
    print(
        json.dumps(
            {
                "tokens_per_second": tokens / statistics.median(seconds),
                "tokens_per_cpu_second": tokens / statistics.median(computed),
                "steps": seconds,
                "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "loss": loss.item(),
                "torch": torch.__version__,
            }
        )
    )


main()
