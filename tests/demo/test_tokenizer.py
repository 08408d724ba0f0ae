"""The tokenizer: round trips, single tokens, canonical ids."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from demo.batches import Encoder
from demo.corpus import Corpus
from demo.tokenizer import EOS_ID, PAD_ID, PADDED_VOCAB_SIZE, build_tokenizer, save_tokenizer

TOKENIZER = build_tokenizer()


def pieces(text: str) -> list[str]:
    return [TOKENIZER.decode([token]) for token in TOKENIZER(text)["input_ids"]]


@given(st.text(max_size=80))
def test_any_text_round_trips(text: str) -> None:
    if "<pad>" not in text and "</s>" not in text:
        assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


def test_a_step_is_ten_tokens() -> None:
    line = ["13", " -", " 9", " =", " 4", " (left:", " 4", " 4", " 10", ")\n"]
    assert pieces("".join(line)) == line


def test_every_number_and_mark_is_one_token() -> None:
    for number in range(1000):
        assert pieces(str(number)) == [str(number)]
        assert pieces(f" {number}") == [f" {number}"]
    for text in (" +", " -", " *", " /", " =", " (left:", " (", "(", ")", ")\n", ".\n", "Use"):
        assert pieces(text) == [text]
    assert pieces(" to make") == [" to", " make"]
    assert pieces("Answer: (8/3") == ["Answer:", " (", "8", "/", "3"]


def test_a_trajectory_encodes_the_same_in_parts_and_as_a_whole() -> None:
    corpus = Corpus(0)
    for _ in range(300):
        for sample in (corpus.solution(), corpus.walk()):
            parts = [sample.puzzle.prompt, *sample.lines]
            joined = [token for part in parts for token in TOKENIZER(part)["input_ids"]]
            assert TOKENIZER(sample.text)["input_ids"] == joined
            assert TOKENIZER(TOKENIZER.decode(joined))["input_ids"] == joined


def test_the_vocabulary_fills_its_padding() -> None:
    assert len(TOKENIZER) == PADDED_VOCAB_SIZE
    assert PADDED_VOCAB_SIZE % 64 == 0
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id) == (PAD_ID, EOS_ID)
    assert TOKENIZER.bos_token is None


@pytest.mark.parametrize("text", ["Use 1 2 3 to make 6.", "Use 1 2 3 to make 6.\n"])
def test_chat_renders_the_last_user_message_as_the_prompt(tmp_path: Path, text: str) -> None:
    save_tokenizer(tmp_path)
    loaded: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(tmp_path)
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "?"},
        {"role": "user", "content": text},
    ]
    rendered = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "Use 1 2 3 to make 6.\n"
    assert loaded.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_soft_targets_sum_to_one_and_contain_the_written_token() -> None:
    corpus = Corpus(1)
    samples = [corpus.solution() for _ in range(20)] + [corpus.walk().first(1)]
    batch = Encoder(TOKENIZER).encode(samples)
    assert batch.target_shares.sum(1).allclose(batch.target_shares.new_tensor(1.0))
    written = batch.ids.flatten()[batch.at + 1]
    assert bool((batch.target_ids == written[:, None]).any(1).all())
    assert len(batch.labels) == len(batch.judged_at) == len(batch.depth)
