"""A tokenizer that can write any text: its tokens are the 256 bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

NUM_BYTES = 256


def make_byte_tokenizer(special_tokens: tuple[str, ...]) -> tokenizers.Tokenizer:
    """UTF-8 byte b is token len(special_tokens) + b; bytes that are no UTF-8 decode to U+FFFD."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    # The library has one printable character for each byte: those of Latin-1 that print stand for themselves, the
    # others for U+0100 and on, in order.
    printable = {character for character in pre_tokenizers.ByteLevel.alphabet() if ord(character) < NUM_BYTES}
    others = iter(range(NUM_BYTES, 2 * NUM_BYTES))
    of_bytes = [chr(byte) if chr(byte) in printable else chr(next(others)) for byte in range(NUM_BYTES)]
    vocabulary = {token: index for index, token in enumerate([*special_tokens, *of_bytes])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
