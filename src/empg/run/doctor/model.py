"""Checks of the model: its files, its chat template, and the lengths of a recipe."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.errors import UserError, described
from empg.policy.context_length import longest_context, require_length
from empg.policy.source import CONVERT, load_config, load_tokenizer, require_vocabulary, weight_files
from empg.recipe import Recipe
from empg.run.doctor.finding import Finding, one_line
from empg.run.footprint import model_shape


def check_model(recipe: Recipe) -> Finding:
    """Look for the files of the model."""
    name = recipe.policy.model
    if name == "tiny":
        if recipe.warm_start is not None:
            return Finding("ok", "model: tiny, created and warm-started in this run")
        return Finding(
            "warn",
            "policy.model=tiny without a warm start starts from random weights and will almost never see a reward",
            "add a warm_start section",
        )
    folder = Path(name)
    if os.path.isfile(folder):
        return Finding("fail", f"policy.model={name} is a file", "name the folder of the model")
    if not os.path.isdir(folder):
        try:
            folder = Path(snapshot_download(name, local_files_only=True))
        except HFValidationError:
            return Finding(
                "fail", f"policy.model={name} is neither a folder nor a Hugging Face name", "fix policy.model"
            )
        except LocalEntryNotFoundError:
            return Finding(
                "warn", f"model: {name} is not on this machine and will be downloaded", f"run: hf download {name}"
            )
    try:
        model_shape(recipe.replaced({"policy.lora": None}))
    except UserError as error:
        return Finding("fail", one_line(error), "set policy.model to a causal language model")
    try:
        missing = [file.name for file in weight_files(folder) if not file.is_file()]
    except Exception as error:  # the index of several shards can be anything
        text = f"policy.model={name}: model.safetensors.index.json is damaged ({described(error)})"
        return Finding("fail", text, "download it again")
    if missing:
        remedy = CONVERT if any(folder.glob("*.bin")) else "download it again"
        return Finding("fail", f"policy.model={name}: {missing[0]} is missing in {folder}", remedy)
    return Finding("ok", f"model: {name}")


def check_conversation(recipe: Recipe) -> Iterator[Finding]:
    """Check the chat template with one turn of the recipe's form, the vocabulary, and the context length."""
    name, section = recipe.policy.model, recipe.agent
    try:
        config, tokenizer = load_config(name, local=True), load_tokenizer(name, local=True)
    except (OSError, ValueError) as error:
        yield Finding("fail", one_line(error), f"run: hf download {name}")
        return
    try:
        chat = ChatFormat(tokenizer, arguments=section.template_arguments, date=section.date)
        Agent(recipe.environment.spec.prompt, section, chat).check()
    except ValueError as error:
        yield Finding(
            "fail", f"policy.model={name}: {one_line(error)}", "set policy.model to an instruction-tuned model"
        )
    else:
        yield Finding("ok", "chat template: supported, a written turn is read back")
    try:
        require_vocabulary(tokenizer, config.get_text_config().vocab_size, name)
    except ValueError as error:
        yield Finding("fail", one_line(error), "use the model's own tokenizer")
    try:
        require_length(config, recipe.rollout.max_episode_tokens, name)
    except ValueError as error:
        longest = longest_context(config)
        remedy = "use another policy.model" if longest is None else f"set rollout.max_episode_tokens={longest}"
        yield Finding("fail", one_line(error), remedy)


def check_lengths(recipe: Recipe) -> Iterator[Finding]:
    """Compare the limits of a turn and of an episode."""
    rollout = recipe.rollout
    if rollout.max_turn_tokens >= rollout.max_episode_tokens:
        yield Finding(
            "fail",
            f"rollout.max_turn_tokens={rollout.max_turn_tokens} does not leave space for a prompt",
            "set it well below rollout.max_episode_tokens",
        )
