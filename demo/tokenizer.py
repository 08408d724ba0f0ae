"""The tokenizer of the embedded models: byte-level BPE in which every number is one token.

Any text round-trips (there is no unknown token), and the ids of a trajectory's text are the ids
a policy generates for it, because the pre-tokenizer cuts exactly at the tokens of the task.
"""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "</s>"
PAD_ID, EOS_ID = 0, 1
PADDED_VOCAB_SIZE = 2304
"""Size of the vocabulary and rows of the models' embeddings: a multiple of 64."""

_SPLIT = r" \(left:|\)\n|\.\n|Answer:| ?[0-9]{1,3}| ?[A-Za-z]+| ?[-+*/=()]|[^ ]| "
_WORDS = (" (left:", ")\n", ".\n", "Answer:", "Use", " to", " make")
_MARKS = tuple(f" {mark}" for mark in "+-*/=()")
_CHAT_TEMPLATE = (
    "{%- set users = messages | selectattr('role', 'equalto', 'user') | list -%}"
    "{%- set text = users[-1]['content'] -%}"
    "{{- text -}}{%- if not text.endswith('\\n') -%}{{- '\\n' -}}{%- endif -%}"
)


def byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each of the 256 bytes in a byte-level BPE."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {byte: chr(byte) for byte in plain} | {b: chr(256 + n) for n, b in enumerate(others)}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer from nothing; the same ids on every machine."""
    alphabet = byte_alphabet()
    vocabulary = {PAD: PAD_ID, EOS: EOS_ID}
    for character in alphabet.values():
        vocabulary[character] = len(vocabulary)
    merges: list[tuple[str, str]] = []

    def add(text: str) -> None:
        characters = [alphabet[byte] for byte in text.encode()]
        made = characters[0]
        for character in characters[1:]:
            if made + character not in vocabulary:
                merges.append((made, character))
                vocabulary[made + character] = len(vocabulary)
            made += character

    for text in (*_MARKS, *_WORDS):
        add(text)
    for number in range(1000):
        add(str(number))
        add(f" {number}")
    if len(vocabulary) > PADDED_VOCAB_SIZE:
        raise AssertionError("the vocabulary outgrew its padding")
    while len(vocabulary) < PADDED_VOCAB_SIZE:  # so that every id a model can emit decodes
        vocabulary[f"<unused{len(vocabulary)}>"] = len(vocabulary)
    model = BPE(vocab=vocabulary, merges=merges, ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(PAD, special=True), AddedToken(EOS, special=True)])
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = _CHAT_TEMPLATE
    return fast


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json (chat template inside) to `folder`."""
    build_tokenizer().save_pretrained(folder, save_jinja_files=False)
