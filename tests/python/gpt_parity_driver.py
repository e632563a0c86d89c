#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Compares the model of examples/gpt with Hugging Face's GPT-2: logits, loss and gradients of random weights that Python has
made, in both kinds of files; and the weights that the C++ program has trained, as Python reads them.

    gpt_parity_driver.py WHEELS GPT_LOGITS GPT TEXT_TO_TOKENS     WHEELS: the folder with transformers and safetensors

Exit status: 1 where the sides differ; 77 (skipped) where torch, safetensors or transformers is missing.
"""

import os
import re
import subprocess
import sys
import tempfile

SKIPPED = 77
TOLERANCE = 1e-5  # of logits, which are about 1 here; 1e-4 is promised


def import_or_skip(wheels):
    sys.path.insert(0, wheels)
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    try:
        import safetensors.torch
        import torch
        import transformers
        from transformers import GPT2Config, GPT2LMHeadModel  # here it fails when something is missing

        return torch, safetensors.torch, transformers
    except Exception as error:  # a torch without its dependencies fails in many ways, not by ImportError alone
        print(f"skipped: this Python lacks torch, safetensors or transformers: {error}")
        sys.exit(SKIPPED)


def make_model(torch, transformers, width, heads, vocabulary=97, positions=40):
    torch.manual_seed(5)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=positions, n_embd=width, n_layer=3, n_head=heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).train()
    with torch.no_grad():  # what is 0 or 1 in a new model must count as well
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def check_close(torch, name, theirs, ours, tolerance):
    assert theirs.shape == ours.shape, f"{name}: {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
    difference = (theirs - ours).abs().max().item()
    scale = max(1.0, theirs.abs().max().item())
    assert difference <= tolerance * scale, f"{name} differs by {difference}, of {scale}"
    return difference / scale


def compare(torch, safetensors, program, model, weights, told_heads, folder):
    """The largest difference of logits, loss and gradients."""
    inputs, outputs = os.path.join(folder, "in.safetensors"), os.path.join(folder, "out.safetensors")
    tokens = torch.randint(model.config.vocab_size, (3, 33))
    safetensors.save_file({"tokens": tokens}, inputs)
    subprocess.run([program, weights, str(told_heads), inputs, outputs], check=True, timeout=100)
    ours = safetensors.load_file(outputs)
    model.zero_grad()
    logits = model(tokens).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    theirs = {"logits": logits.detach(), "loss": loss.detach()}
    theirs.update({f"grad.{name}": parameter.grad for name, parameter in model.transformer.named_parameters()})
    assert set(theirs) == set(ours), set(theirs) ^ set(ours)
    return max(check_close(torch, name, value, ours[name], TOLERANCE) for name, value in theirs.items())


def test_logits(torch, safetensors, transformers, program, folder):
    model = make_model(torch, transformers, width=48, heads=6)
    model.save_pretrained(os.path.join(folder, "with_head"))  # names begin with "transformer."
    with_head = os.path.join(folder, "with_head", "model.safetensors")
    # As the file of "gpt2" on the hub: the model alone, with the masks that old versions wrote.
    alone = os.path.join(folder, "alone.safetensors")
    state = dict(model.transformer.state_dict())
    for layer in range(3):
        state[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 40, 40).tril()
        state[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    safetensors.save_file(state, alone, {"format": "pt"})
    differences = [compare(torch, safetensors, program, model, weights, 6, folder) for weights in (with_head, alone)]
    # Nobody tells the heads: one for each 64 columns.
    wide = make_model(torch, transformers, width=128, heads=2)
    wide.save_pretrained(os.path.join(folder, "wide"))
    differences.append(
        compare(torch, safetensors, program, wide, os.path.join(folder, "wide", "model.safetensors"), 0, folder))
    print("largest differences:", differences)


def test_trained(torch, safetensors, transformers, program, text_to_tokens, folder):
    """Python loads what the program saves, without a name missing, and finds the loss that the program has printed."""
    text = os.path.join(folder, "text")
    with open(text, "w", encoding="ascii") as file:
        file.writelines(f"{number} and {number} are {2 * number}.\n" for number in range(600))
    subprocess.run([text_to_tokens, text, folder], check=True, capture_output=True)
    trained = os.path.join(folder, "trained")
    transformers.GPT2Config(vocab_size=256, n_positions=32, n_embd=32, n_layer=2, n_head=2).save_pretrained(trained)
    saved = os.path.join(trained, "model.safetensors")
    done = subprocess.run(
        [program, "--data", folder, "--block", "32", "--layers", "2", "--heads", "2", "--width", "32", "--steps", "20",
         "--warmup", "5", "--batch-size", "8", "--threads", "1", "--sample", "0", "--average", "0.5", "--save", saved],
        check=True, capture_output=True, text=True, timeout=100)
    printed = float(re.search(r"result: validation_loss=([0-9.]+) ", done.stdout).group(1))

    model, report = transformers.GPT2LMHeadModel.from_pretrained(trained, output_loading_info=True)
    assert set(report["missing_keys"]) <= {"lm_head.weight"} and not report["unexpected_keys"], report
    with open(os.path.join(folder, "val.bin"), "rb") as file:
        tokens = torch.frombuffer(bytearray(file.read()[1024:]), dtype=torch.uint16).long()
    windows = torch.stack([tokens[i:i + 33] for i in range(0, len(tokens) - 32, 32)])
    with torch.no_grad():
        logits = model.eval()(windows[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()).item()
    assert abs(loss - printed) < 2e-4, f"the program prints {printed}, Python finds {loss}"
    assert loss < 5, f"{loss}: nothing was learned in 20 steps"


def main():
    wheels, logits_program, program, text_to_tokens = sys.argv[1:]
    torch, safetensors, transformers = import_or_skip(wheels)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        test_logits(torch, safetensors, transformers, logits_program, folder)
        test_trained(torch, safetensors, transformers, program, text_to_tokens, folder)
    print("passed")


if __name__ == "__main__":
    main()
