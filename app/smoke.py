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
    tokenizer = _tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, projection_dim=WIDTH,
        image_size=32, patch_size=8,
    )  # fmt: skip
    text = CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, projection_dim=WIDTH,
        vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, max_position_embeddings=77,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), norm_num_groups=4, layers_per_block=1, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    unet = I2VGenXLUNet(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=WIDTH, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )  # fmt: skip
    parts = {
        "text_encoder": CLIPTextModel(text),
        "image_encoder": CLIPVisionModelWithProjection(vision),
        "vae": vae,
        "unet": unet,
    }
    generator = torch.Generator().manual_seed(SEED)
    for part in parts.values():
        _fill(part.eval(), generator)
    return I2VGenXLPipeline(
        **parts,
        tokenizer=tokenizer,
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32),
        scheduler=DDIMScheduler(beta_schedule="linear", clip_sample=False, set_alpha_to_one=False),
    )


def _fill(part: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights uniform around 0, within 1/sqrt(inputs), in the order of their names; norms stay at 1 and 0."""
    for name, weight in sorted(part.named_parameters()):
        if weight.ndim < 2:
            weight.data.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            inputs = weight[0].numel()
            weight.data.copy_((torch.rand(weight.shape, generator=generator) - 0.5) * (2.0 / inputs**0.5))


def _tokenizer() -> Any:
    """Bytes as tokens: the 256 symbols of CLIP's byte alphabet, alone and at a word's end, and two special ones."""
    letters = _byte_alphabet()
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[], model_max_length=77)


def _byte_alphabet() -> list[str]:
    """A printable character for each byte, as byte-level BPE writes them (printable Latin-1 stands for itself)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) for byte in plain] + [chr(256 + number) for number in range(len(others))]
