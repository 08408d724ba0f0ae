"""What would break: a piece of text that stands as another text inside a longer one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mcts_core.models.tokenizer import ModelTokenizer

DEMO = Path(__file__).parents[3] / "demo" / "checkpoints" / "policy"


def spaced() -> ModelTokenizer:
    """A tokenizer that puts a space before what comes first, as Llama's does."""
    letters = ["▁", "\n", "y", "e", "s", "▁yes", "yes"]
    vocabulary = {token: index for index, token in enumerate(letters)}
    merges = [("y", "e"), ("ye", "s"), ("▁", "yes")]
    vocabulary["ye"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return ModelTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


@pytest.mark.parametrize("text", ["yes", " yes", "yes\n", "\n"])
def test_a_part_is_what_it_is_wherever_it_stands(text: str) -> None:
    tokenizer = spaced()
    before = tokenizer.encode("\n")
    assert tokenizer.decode([*before, *tokenizer.encode_part(text)]).endswith("\n" + text)


@pytest.mark.parametrize("text", ["4 + 5 = 9 (left: 9)\n", " 4", "Answer: "])
def test_the_embedded_models_tokens_spell_a_part(text: str) -> None:
    tokenizer = ModelTokenizer.load(DEMO)
    assert tokenizer.decode(tokenizer.encode_part(text)) == text


def test_a_text_that_the_vocabulary_cannot_spell_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot spell"):
        spaced().encode_part("no")
