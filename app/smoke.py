"""The smoke model: a tiny I2VGenXLPipeline with weights from a fixed seed, which proves that everything works.

It is saved in the ordinary layout and loaded by the code that loads a real model. The weights come from `torch.rand`,
whose integers and scaling are exact on every CPU (`torch.randn` is not: its vectorised logarithm differs between
instruction sets), so the same versions of the libraries give the same bytes everywhere.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, I2VGenXLPipeline, I2VGenXLUNet
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

SEED = 20260922
WIDTH = 32  # hidden size of the text and image encoders, and of the UNet's cross attention


def make(folder: Path) -> None:
    """Write the model to `folder`, which appears only when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    try:
        part.chmod(0o755)
        pipeline().save_pretrained(part, safe_serialization=True)
        for path in part.rglob("*"):  # safetensors writes files that nobody else may read
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def pipeline() -> Any:
    """The pipeline with its weights, on the CPU, fp32."""
    words = tokenizer()
    unet = I2VGenXLUNet(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=WIDTH, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )  # fmt: skip
    parts = {
        "text_encoder": text_encoder(words),
        "image_encoder": image_encoder(side=32, patch=8),
        "vae": vae(),
        "unet": unet,
    }
    fill(*parts.values())
    return I2VGenXLPipeline(
        **parts,
        tokenizer=words,
        feature_extractor=feature_extractor(side=32),
        scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False, set_alpha_to_one=False),
    )


def text_encoder(words: Any) -> Any:
    config = CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, projection_dim=WIDTH,
        vocab_size=len(words), bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id, max_position_embeddings=77,
    )  # fmt: skip
    return CLIPTextModel(config)


def image_encoder(*, side: int, patch: int) -> Any:
    """For square pictures of `side` pixels, in patches of `patch` pixels."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, projection_dim=WIDTH,
        image_size=side, patch_size=patch,
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config)


def feature_extractor(*, side: int) -> Any:
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=side)


def vae() -> Any:
    """With the scale of the real ones: 8 pixels to a latent one."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, layers_per_block=1, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


def fill(*parts: torch.nn.Module) -> None:
    """Weights uniform around 0, within 1/sqrt(inputs), in the order of their names; norms stay at 1 and 0."""
    generator = torch.Generator().manual_seed(SEED)
    for part in parts:
        for name, weight in sorted(part.eval().named_parameters()):
            if weight.ndim < 2:
                weight.data.fill_(1.0 if name.endswith("weight") else 0.0)
            else:
                inputs = weight[0].numel()
                weight.data.copy_((torch.rand(weight.shape, generator=generator) - 0.5) * (2.0 / inputs**0.5))


def tokenizer() -> Any:
    """Bytes as tokens: the 256 symbols of CLIP's byte alphabet, alone and at a word's end, and two special ones."""
    letters = _byte_alphabet()
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=77)


def _byte_alphabet() -> list[str]:
    """A printable character for each byte, as byte-level BPE writes them (printable Latin-1 stands for itself)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + number) for number in range(len(others))]
