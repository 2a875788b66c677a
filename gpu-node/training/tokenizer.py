"""A byte-pair vocabulary in CLIP's format, learnt from captions.

256 byte symbols, 256 byte symbols that end a word, 700 merges, start and end token: 1214 entries. Any UTF-8 text can be
tokenised; words outside the captions fall into pieces that the text encoder has not learnt.
Sources: byte-pair encoding after Sennrich et al. 2016; GPT-2's printable stand-ins for bytes; CLIP's `</w>` and file layout.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

from transformers import CLIPTokenizer

from factors import BACKDROPS, COLOURS, MATERIALS, PRODUCTS, SETTINGS, Factors, caption

MERGES = 700
POSITIONS = 48
START, END = "<|startoftext|>", "<|endoftext|>"
CAPTIONS = 20_000

# Words people will type whether or not the model knows them: they should not cost a token per letter.
COMMON_WORDS = """
the of and to in is that it for on with as at by this from or an are be was not but have has will can one two three four
five six seven eight nine ten new old big small large little long short high low left right top bottom front back side
center middle near far under over above below behind before after between inside outside around up down out off into
very more most less some any all each every no yes only just also still even much many few other another same different
good best better great nice beautiful pretty simple clean modern classic vintage luxury cheap expensive premium quality
bright dark light soft hard warm cold cool hot fresh natural organic real realistic photo photograph photography picture
image render rendering illustration drawing painting art style design brand product products item object thing scene
view shot close closeup wide angle macro portrait landscape square round flat tall thin thick heavy clear transparent
glass wood wooden stone marble paper plastic leather cotton silk ceramic porcelain steel iron bronze brass aluminium
brown navy cyan magenta lime olive maroon coral peach mint ivory lavender rose ruby emerald sapphire amber
table desk shelf floor room house kitchen office street city garden forest beach sea ocean sky cloud sun moon star
water fire snow rain winter spring summer autumn morning noon evening day time shadow reflection background foreground
man woman child people person hand face dog cat bird fish flower tree leaf plant apple food drink coffee tea wine
box bag shoe shirt dress hat watch phone camera book chair sofa bed door window car bike clock candle bowl plate glass
sale price free offer deal shop store buy gift party birthday christmas wedding holiday love happy
blurry blur noise watermark logo text letters words low ugly bad deformed cropped worst jpeg artifacts duplicate
""".split()


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    moved = len([byte for byte in range(256) if byte not in printable])
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(moved)]


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """The `count` most frequent joins in order; ties go to the smaller pair, so that the result is reproducible."""
    split = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in split.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += words[word]
        if not pairs:
            raise ValueError(f"the captions yield only {len(merges)} merges of {count}")
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = {word: joined(symbols, best) for word, symbols in split.items()}
    return merges


def joined(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    result: list[str] = []
    for symbol in symbols:
        # Joining from the left; a symbol just joined cannot join again in this pass, as it is longer than `pair[0]`.
        if result and (result[-1], symbol) == pair:
            result[-1] += symbol
        else:
            result.append(symbol)
    return result


def caption_words(seed: int) -> Counter[str]:
    """Words of many captions, and the common words once each."""
    rng = random.Random(f"tokenizer/{seed}")
    counts: Counter[str] = Counter(COMMON_WORDS)
    tables = (PRODUCTS, COLOURS, MATERIALS, BACKDROPS, SETTINGS)
    for _ in range(CAPTIONS):
        factors = Factors(*(rng.choice(list(table)) for table in tables))
        counts.update(re.findall(r"[a-z]+|[0-9]", caption(factors, rng)))
    return counts


def make_tokenizer(folder: Path, seed: int) -> CLIPTokenizer:
    """Learns the vocabulary and writes it as CLIP's files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges(caption_words(seed), MERGES)
    symbols = byte_symbols()
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *(left + right for left, right in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise ValueError("two merges make the same token")
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {**special, "model_max_length": POSITIONS, "tokenizer_class": "CLIPTokenizer"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def encode(tokenizer: CLIPTokenizer, texts: list[str]) -> list[list[int]]:
    """Token ids, padded and cut to the tokenizer's length, as the pipeline does."""
    length = tokenizer.model_max_length
    return tokenizer(texts, padding="max_length", max_length=length, truncation=True).input_ids
