"""Checks that transformers reads a folder that Manta wrote as what it was made of.

    python check_folder.py OURS THEIRS

Both must give equal configurations (as far as they compute), equal parameters,
equal tokens, and a text; prints one line of JSON.
"""

import json
import sys

import torch
import transformers.generation.utils
from transformers import AutoModelForCausalLM, AutoTokenizer

# `generate` asks whether the model is spread over machines, by a part of torch
# that Debian's torch 1.13 has, and its own Python cannot import.
transformers.generation.utils.is_fsdp_managed_module = lambda module: False

COMPUTED = (
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
    "max_position_embeddings rope_theta rope_scaling rms_norm_eps tie_word_embeddings hidden_act attention_bias "
    "mlp_bias bos_token_id eos_token_id"
).split()


def main():
    ours, theirs = sys.argv[1:]
    model, other = (AutoModelForCausalLM.from_pretrained(path, torch_dtype=torch.float32) for path in (ours, theirs))
    assert type(model) is type(other), (type(model), type(other))
    for field in COMPUTED:
        found, wanted = getattr(model.config, field, None), getattr(other.config, field, None)
        assert found == wanted, f"{field}: {found}, expected {wanted}"
    parameters, wanted = model.state_dict(), other.state_dict()
    assert parameters.keys() == wanted.keys()
    for name, values in wanted.items():
        assert torch.equal(parameters[name], values), f"{name} differs"
    tokenizer, reference = AutoTokenizer.from_pretrained(ours), AutoTokenizer.from_pretrained(theirs)
    text = "The cat sat on <s> Bären 🦀\n  the mat</s>"
    assert tokenizer(text)["input_ids"] == reference(text)["input_ids"]
    prompt = tokenizer("The cat", return_tensors="pt")
    written = model.generate(
        prompt["input_ids"], max_new_tokens=8, do_sample=False, pad_token_id=0, attention_mask=prompt["attention_mask"]
    )
    assert written.shape[1] > prompt["input_ids"].shape[1]
    print(json.dumps(dict(tensors=len(wanted), text=tokenizer.decode(written[0]))))


if __name__ == "__main__":
    main()
