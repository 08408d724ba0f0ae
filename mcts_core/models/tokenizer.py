"""Text and token ids of one model. Ids are the truth: text is made from ids, never the reverse,
but for the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mcts_core.query import QueryError


class ModelTokenizer:
    """A transformers fast tokenizer; thread-safe."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        """What it is made around; decodes in half the time."""

    @classmethod
    def load(cls, path: Path) -> ModelTokenizer:
        """Raises `OSError` or `ValueError` when the folder holds no fast tokenizer."""
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ValueError(f"{path} holds no fast tokenizer (tokenizer.json)")
        return cls(tokenizer)

    @property
    def end_tokens(self) -> frozenset[int]:
        """The tokenizer's end-of-sequence token, if it has one."""
        end = self._tokenizer.eos_token_id
        return frozenset() if end is None else frozenset({int(end)})

    @property
    def ids(self) -> Mapping[str, int]:
        """The id of every token, added ones included."""
        return self._tokenizer.get_vocab()

    def encode(self, text: str) -> list[int]:
        """With the special tokens that the model expects before a prompt."""
        return list(self._tokenizer.encode(text))

    def encode_part(self, text: str) -> list[int]:
        """As it stands inside a longer text: nothing is added before or after it.

        Raises `ValueError` when the model's tokens cannot say exactly that.
        """
        before, joined = self._plain("\n"), self._plain("\n" + text)
        found = [self._plain(text)]
        if joined[: len(before)] == before:  # some tokenizers put a space before what comes first
            found.append(joined[len(before) :])
        spelled = self._spelled(before)
        for tokens in found:
            if self._spelled([*before, *tokens]) == spelled + text:
                return tokens
        raise ValueError(f"this model's tokens cannot spell {text!r}")

    def decode(self, tokens: Sequence[int]) -> str:
        """Special tokens are left out."""
        text: str = self._backend.decode(tokens, skip_special_tokens=True)
        return text

    def token_text(self, token: int) -> str:
        """One token's text, special tokens spelled out; for logprobs."""
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _spelled(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))

    def containing(self, text: str) -> frozenset[int]:
        """All token ids whose own text contains `text`."""
        tokens = [[token] for token in range(len(self._tokenizer))]
        texts = self._tokenizer.batch_decode(tokens, clean_up_tokenization_spaces=False)
        return frozenset(token for token, own in enumerate(texts) if text in own)

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """The prompt of a conversation, by the model's chat template.

        Raises `QueryError` when the model has none, or when the template refuses the messages.
        """
        if self._tokenizer.chat_template is None:
            raise QueryError("messages", "this model has no chat template: use /v1/completions")
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise QueryError("messages", f"the chat template refused them: {error}") from None
        return list(self._tokenizer.encode(str(text), add_special_tokens=False))
