"""Loading what the recipe made, for measuring and further training."""

from pathlib import Path
from typing import cast

from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast


def load_model(folder: Path) -> LlamaForCausalLM:
    """The policy or the rollout model, in evaluation mode."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder)
    model.train(False)
    return model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint."""
    return cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(folder))
