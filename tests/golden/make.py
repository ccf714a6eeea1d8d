#!/usr/bin/env python3
"""Makes the golden models: tiny random checkpoints of each family, and what transformers computes with them in float64.

usage: python3 tests/golden/make.py [NAME...]        (needs torch, transformers, safetensors; see README.md)

Weights are rounded to the dtype in which they are stored before the reference runs, so the reference sees the very numbers
of the file. The reference is float64 throughout. Setting the model's dtype is not enough for that: transformers computes
norms, softmax and rotary angles in float32 whatever the dtype. `Float64` below turns each request for float32 into one for
float64, and refuses every result that is float32 or smaller all the same.
"""

import json
import math
import random
import sys
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import transformers
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForCausalLM

VERSION = 1
COMMAND = "python3 tests/golden/make.py"
FOLDER = Path(__file__).resolve().parent

GREEDY_TOKENS = 24
# A greedy token must win by more than any rounding that a test allows, and the text must not be one token again and again.
MIN_GAP = 0.02
MIN_DISTINCT = 8
LOGITS_SPREAD = 3.0

# What every config has. Sizes are small, and no multiple of what a kernel would like.
COMMON = {"hidden_act": "silu", "num_hidden_layers": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "bos_token_id": 1}
# The same of OPT. The vocabulary is a prime, and there is room for some pages of 64 keys.
COMMON_OPT = {
    "model_type": "opt",
    "architectures": ["OPTForCausalLM"],
    "activation_function": "relu",
    "num_hidden_layers": 2,
    "max_position_embeddings": 150,
    "vocab_size": 103,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "layerdrop": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "_remove_final_layer_norm": False,
    "layer_norm_elementwise_affine": True,
}

MODELS = {
    # Grouped queries, heads wider than hidden / heads, rope frequencies on all three branches of llama3's rule, and a
    # sequence over one page of 64 keys. A list of end tokens.
    "llama-gqa-rope-llama3": {
        "config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": 131,
            "hidden_size": 44,
            "intermediate_size": 91,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
            "tie_word_embeddings": False,
            "eos_token_id": [2, 129],
            "torch_dtype": "float32",
        },
        "dtype": torch.float32,
        "prompt_tokens": 67,
    },
    # Every bias, tied embeddings, no grouped queries, linear rope scaling under its old key, norms in another dtype.
    "llama-bias-tied-rope-linear": {
        "config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": 105,
            "hidden_size": 36,
            "intermediate_size": 53,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_theta": 5000.0,
            "rope_scaling": {"type": "linear", "factor": 4.0},
            "tie_word_embeddings": True,
            "eos_token_id": 2,
            "torch_dtype": "float16",
        },
        "dtype": torch.float16,
        "norm_dtype": torch.float32,
        "prompt_tokens": 19,
    },
    # A window much smaller than the sequence, so that the first page of 64 keys goes out of sight.
    "mistral-window": {
        "config": {
            "architectures": ["MistralForCausalLM"],
            "model_type": "mistral",
            "vocab_size": 107,
            "hidden_size": 36,
            "intermediate_size": 52,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "head_dim": 10,
            "sliding_window": 7,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "eos_token_id": 2,
            "torch_dtype": "bfloat16",
        },
        "dtype": torch.bfloat16,
        "prompt_tokens": 67,
    },
    # Biases on q, k and v that no key of the config names; two shards with an index.
    "qwen2-shards": {
        "config": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": 113,
            "hidden_size": 40,
            "intermediate_size": 77,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "use_sliding_window": False,
            "sliding_window": 64,
            "max_window_layers": 2,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "eos_token_id": 112,
            "torch_dtype": "float16",
        },
        "dtype": torch.float16,
        "shards": 2,
        "prompt_tokens": 23,
    },
    # A norm on each head's q and k, heads much wider than hidden / heads. The config is spelled as transformers 5 does.
    "qwen3-qk-norm": {
        "config": {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": 109,
            "hidden_size": 36,
            "intermediate_size": 65,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 20,
            "attention_bias": False,
            "use_sliding_window": False,
            "sliding_window": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "tie_word_embeddings": False,
            "eos_token_id": 2,
            "dtype": "bfloat16",
        },
        "dtype": torch.bfloat16,
        "prompt_tokens": 21,
    },
    # Norms before attention and MLP, and after the last layer; biases; tied.
    "opt-pre-norm": {
        "common": COMMON_OPT,
        "config": {
            "hidden_size": 36,
            "word_embed_proj_dim": 36,
            "ffn_dim": 53,
            "num_attention_heads": 3,
            "do_layer_norm_before": True,
            "enable_bias": True,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
        },
        "dtype": torch.float16,
        "prompt_tokens": 67,
    },
    # Norms after attention and MLP, and an embedding narrower than the decoder, as in opt-350m.
    "opt-post-norm-project": {
        "common": COMMON_OPT,
        "config": {
            "hidden_size": 40,
            "word_embed_proj_dim": 20,
            "ffn_dim": 67,
            "num_attention_heads": 4,
            "do_layer_norm_before": False,
            "enable_bias": True,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
        },
        "dtype": torch.float32,
        "prompt_tokens": 21,
    },
    # No bias, norms without weight and bias, none after the last layer, a head of its own, an embedding wider than the
    # decoder; the tensors' names begin with `decoder.`, as in checkpoints of the model without its head.
    "opt-bare": {
        "common": COMMON_OPT,
        "config": {
            "hidden_size": 28,
            "word_embed_proj_dim": 36,
            "ffn_dim": 45,
            "num_attention_heads": 2,
            "do_layer_norm_before": True,
            "_remove_final_layer_norm": True,
            "layer_norm_elementwise_affine": False,
            "enable_bias": False,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        },
        "dtype": torch.bfloat16,
        "strip_prefix": "model.",
        "prompt_tokens": 23,
    },
}


class Float64(TorchFunctionMode):
    """While active, whoever asks torch for float32 gets float64, and a smaller float result is an error."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def widen(value):
            return torch.float64 if value is torch.float32 else value

        args = tuple(widen(value) for value in args)
        kwargs = {key: widen(value) for key, value in (kwargs or {}).items()}
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        result = function(*args, **kwargs)
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64:
                raise AssertionError(f"{function} made {value.dtype}")
        return result


def random_weight(rng, name, shape, head_scale):
    """Sizes that keep activations near 1 and attention far from uniform."""

    def normal(mean, deviation):
        values = [rng.gauss(mean, deviation) for _ in range(math.prod(shape))]
        return torch.tensor(values, dtype=torch.float64).reshape(shape)

    if name.endswith("norm.weight"):
        return normal(1.0, 0.25)
    if name.endswith("bias"):
        return normal(0.0, 0.4)
    if "embed_positions" in name:
        return normal(0.0, 0.5)
    if "embed_tokens" in name or "lm_head" in name:
        return normal(0.0, head_scale / math.sqrt(shape[1]))
    gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.2
    return normal(0.0, gain / math.sqrt(shape[1]))


def make_weights(model, spec, seed):
    """Tensors as they are stored, by name."""
    rng = random.Random(seed)
    tied = spec["config"]["tie_word_embeddings"]
    weights = {}
    for name, value in sorted(model.state_dict().items()):
        if tied and name == "lm_head.weight":
            continue
        dtype = spec.get("norm_dtype", spec["dtype"]) if name.endswith("norm.weight") else spec["dtype"]
        weights[name] = random_weight(rng, name, tuple(value.shape), LOGITS_SPREAD).to(dtype)
    return weights


@torch.no_grad()
def reference(model, weights, prompt):
    """Logits of the prompt, the greedy continuation, and the smallest lead of a greedy token over the next best."""
    state = {name: value.double() for name, value in weights.items()}
    if "lm_head.weight" not in state:
        (embedding,) = (name for name in state if name.endswith("embed_tokens.weight"))
        state["lm_head.weight"] = state[embedding]
    model.load_state_dict(state, strict=True)
    ids = list(prompt)
    prompt_logits, gap = None, math.inf
    with Float64():
        for _ in range(GREEDY_TOKENS):
            logits = model(torch.tensor([ids]), use_cache=False).logits[0]
            prompt_logits = logits if prompt_logits is None else prompt_logits
            best, second = logits[-1].topk(2).values.tolist()
            gap = min(gap, best - second)
            ids.append(int(logits[-1].argmax()))
    return prompt_logits, ids[len(prompt) :], gap


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_weights(folder, weights, shards):
    metadata = {"format": "pt"}
    if shards == 1:
        safetensors.torch.save_file(weights, folder / "model.safetensors", metadata=metadata)
        return
    names = sorted(weights)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        # Every other name: a layer's tensors lie in different shards.
        part = {name: weights[name] for name in names[shard::shards]}
        safetensors.torch.save_file(part, folder / file, metadata=metadata)
        weight_map |= {name: file for name in part}
    total = sum(value.numel() * value.element_size() for value in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / "model.safetensors.index.json", index)


def make(name):
    spec = MODELS[name]
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    config = spec.get("common", COMMON) | spec["config"]
    write_json(folder / "config.json", config)
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"], "do_sample": False},
    )

    torch.set_default_dtype(torch.float64)
    with Float64():
        # Read back from the file, so that transformers says what it means.
        model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(folder), attn_implementation="eager", dtype=torch.float64
        ).eval()

    for seed in range(1, 1000):
        rng = random.Random(1000 + seed)
        prompt = [1] + [rng.randrange(3, config["vocab_size"]) for _ in range(spec["prompt_tokens"] - 1)]
        weights = make_weights(model, spec, seed)
        logits, greedy, gap = reference(model, weights, prompt)
        if gap > MIN_GAP and len(set(greedy)) >= MIN_DISTINCT:
            break
    else:
        raise SystemExit(f"{name}: no seed gives a clear greedy continuation")

    prefix = spec.get("strip_prefix", "")
    weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    write_weights(folder, weights, spec.get("shards", 1))
    logits = logits.float().contiguous()  # [tokens, vocab]
    safetensors.torch.save_file({"logits": logits}, folder / "golden.safetensors")
    golden = {
        "version": VERSION,
        "command": COMMAND,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "seed": seed,
        "min_gap": round(gap, 6),
        "input_ids": prompt,
        "greedy_ids": greedy,
    }
    # One line for each key: lists of ids on their line.
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items()]
    (folder / "golden.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(
        f"{name}: seed {seed}, smallest gap {gap:.4f}, {len(set(greedy))} different of {GREEDY_TOKENS} greedy tokens, "
        f"logits {logits.min():.2f} to {logits.max():.2f} (deviation {logits.std():.2f}), {size} bytes"
    )


def main():
    names = sys.argv[1:] or list(MODELS)
    for unknown in set(names) - set(MODELS):
        raise SystemExit(f"no model {unknown}; there are: {', '.join(MODELS)}")
    for name in names:
        make(name)


if __name__ == "__main__":
    main()
