"""Tiny models of the very classes that captions are made with, with random weights, saved as folders.

The real ones are gigabytes; these have every part of them, a few units wide. Skipped without transformers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssl3d.pipeline.dataset import PreparedDataset
from ssl3d.pipeline.stages.prepare import prepare
from ssl3d.pipeline.workspace import Workspace

MakeKitti = Callable[..., Path]
WORDS = [
    "a",
    "an",
    "An",
    "Describe",
    "image",
    "of",
    "car",
    "tree",
    "traffic",
    "sign",
    "truck",
    "road",
    "photo",
    "describe",
    "this",
    "in",
]


def _word_tokenizer(tokens: list[str], unk: str) -> Any:
    """One token a word with the space before it, as SentencePiece writes them; of the library ``tokenizers``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unk))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


@pytest.fixture(scope="session")
def transformers() -> Any:
    module = pytest.importorskip("transformers", reason="the extra vlm is not installed")
    module.logging.set_verbosity_error()
    return module


@pytest.fixture(scope="session")
def kosmos(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokens = [*special, *(f"<image_{k}>" for k in range(64)), *(f"\u2581{word}" for word in WORDS), "\u2581in detail:"]
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_word_tokenizer(tokens, "<unk>"),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    images = transformers.CLIPImageProcessor(size={"height": 28, "width": 28}, do_center_crop=False)
    processor = transformers.Kosmos2Processor(images, tokenizer)
    size = len(processor.tokenizer)
    text = {"vocab_size": size, "embed_dim": 16, "layers": 1, "ffn_dim": 16, "attention_heads": 2}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    config = transformers.Kosmos2Config(text_config=text, vision_config=vision, latent_query_num=64)
    folder = tmp_path_factory.mktemp("kosmos")
    transformers.Kosmos2ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dino(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("dino")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "?", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    tokenizer = transformers.BertTokenizerFast(str(folder / "vocab.txt"))
    images = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    backbone = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2, image_size=64,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, num_queries=6, d_model=32, use_pretrained_backbone=False,
        encoder_layers=1, encoder_ffn_dim=16, encoder_attention_heads=2,
        decoder_layers=2, decoder_ffn_dim=16, decoder_attention_heads=2, disable_custom_kernels=True,
    )  # fmt: skip
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    transformers.GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sam(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    torch.manual_seed(0)
    vision = transformers.SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=16,
        window_size=2, global_attn_indexes=[0], num_pos_feats=8, mlp_dim=16,
    )  # fmt: skip
    prompts = transformers.SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16)
    masks = transformers.SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = transformers.SamConfig(
        vision_config=vision.to_dict(), prompt_encoder_config=prompts.to_dict(), mask_decoder_config=masks.to_dict()
    )
    folder = tmp_path_factory.mktemp("sam")
    transformers.SamModel(config).save_pretrained(folder)
    images = transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    transformers.SamProcessor(images).save_pretrained(folder)
    return folder


# ---------------------------------------------------------------- a dataset with images

FRAMES = {"00": 3, "01": 2, "08": 2, "11": 1}
WIDTH, HEIGHT = 24, 16


@pytest.fixture(scope="session")
def pictured_once(make_kitti: MakeKitti, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans with images of 24 x 16 pixels; only read."""
    root = make_kitti(tmp_path_factory.mktemp("pictured") / "kitti", FRAMES)
    for sequence, count in FRAMES.items():
        folder = root / "sequences" / sequence / "image_2"
        folder.mkdir()
        for frame in range(count):
            pixels = np.random.default_rng(frame).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{frame:06d}.png")
    return root


@pytest.fixture
def pictured(pictured_once: Path, tmp_path: Path) -> Path:
    """One's own copy."""
    return Path(shutil.copytree(pictured_once, tmp_path / "pictured"))


@pytest.fixture
def prepared(pictured: Path, workspace: Workspace) -> PreparedDataset:
    prepare(workspace, "semantickitti", pictured)
    return PreparedDataset(workspace.dataset())


def records(images: dict[str, list[str]], entities: dict[str, list[str]]) -> tuple[str, str]:
    """The contents of image.jsonl and entity.jsonl: image id -> texts, image id -> phrases."""
    size = {"width": WIDTH, "height": HEIGHT}
    half = {"format": "rle_f", "size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH // 2] * 2}
    lines: tuple[list[str], list[str]] = ([], [])
    for name, texts in images.items():
        for k, text in enumerate(texts):
            value = {"schema": "ssl3d.image_caption/1", "image_id": name, **size, "index": k, "text": text}
            lines[0].append(json.dumps({**value, "model": "human"}))
    for name, phrases in entities.items():
        for k, phrase in enumerate(phrases):
            value = {"schema": "ssl3d.entity_caption/1", "image_id": name, **size, "index": k, "phrase": phrase}
            lines[1].append(json.dumps({**value, "score": 0.5, "mask": half}))
    return "".join(line + "\n" for line in lines[0]), "".join(line + "\n" for line in lines[1])


@pytest.fixture
def write_captions() -> Callable[..., Path]:
    """``write_captions(folder, {"00/image_2/000000": ["A street."]}, {...: ["car"]}, **manifest)``: makes it."""

    def write(
        folder: Path, images: dict[str, list[str]], entities: dict[str, list[str]] | None = None, **manifest: str
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in zip(("image.jsonl", "entity.jsonl"), records(images, entities or {}), strict=True):
            (folder / name).write_text(content)
        if manifest:
            (folder / "manifest.toml").write_text("".join(f'{key} = "{value}"\n' for key, value in manifest.items()))
        return folder

    return write


@pytest.fixture(scope="session")
def clip(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's text tower with its projection, and a byte-pair tokenizer of letters, ``cat``, ``car``."""
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz.,"
    pairs = ["c a", "ca t</w>", "ca r</w>"]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>", "car</w>"]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=16, intermediate_size=16, projection_dim=24, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=len(tokens) - 2, eos_token_id=len(tokens) - 1, pad_token_id=len(tokens) - 1,
    )  # fmt: skip
    transformers.CLIPTextModelWithProjection(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def minilm(transformers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT as MiniLM is one."""
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("minilm")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder
