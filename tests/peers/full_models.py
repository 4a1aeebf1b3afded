"""Models of the real ones' size with random weights: memory and speed do not depend on the values.

Their configurations are those that are published with the models, except for the tokenizer, which is the smoke model's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    DDIMScheduler,
    EulerDiscreteScheduler,
    I2VGenXLPipeline,
    I2VGenXLUNet,
    MotionAdapter,
    PNDMScheduler,
    SparseControlNetModel,
    StableDiffusionPipeline,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from app import smoke

WIDTHS = (128, 256, 512, 512)  # of the levels of all three VAEs
CROSSING = ("CrossAttnDownBlock2D",) * 3, ("CrossAttnUpBlock2D",) * 3


def make(name: str, folder: Path, device: str) -> None:
    """Made on that device, written in fp16 in the layout that is fetched."""
    with torch.device(device):
        {"i2vgen-xl": _i2vgen_xl, "svd-xt": _svd, "animatediff": _animatediff}[name](folder)


def _i2vgen_xl(folder: Path) -> None:
    words = smoke.tokenizer()
    parts = {
        "text_encoder": _text_encoder(words, width=1024, layers=24, heads=16),
        "image_encoder": _image_encoder(),
        "vae": _vae(),
        "unet": I2VGenXLUNet(),
    }
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False, set_alpha_to_one=False)
    pipe = I2VGenXLPipeline(
        **_half(parts), tokenizer=words, scheduler=scheduler, feature_extractor=smoke.feature_extractor(side=224)
    )
    pipe.save_pretrained(folder, variant="fp16")


def _svd(folder: Path) -> None:
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=WIDTHS, layers_per_block=2, latent_channels=4, sample_size=768,
        down_block_types=("DownEncoderBlock2D",) * 4,
    )  # fmt: skip
    parts = {"vae": vae, "unet": UNetSpatioTemporalConditionModel(num_frames=25), "image_encoder": _image_encoder()}
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction", beta_schedule="scaled_linear", use_karras_sigmas=True,
        timestep_type="continuous", timestep_spacing="leading", steps_offset=1, sigma_min=0.002, sigma_max=700.0,
    )  # fmt: skip
    pipe = StableVideoDiffusionPipeline(
        **_half(parts), scheduler=scheduler, feature_extractor=smoke.feature_extractor(side=224)
    )
    pipe.save_pretrained(folder, variant="fp16")


def _animatediff(folder: Path) -> None:
    words = smoke.tokenizer()
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8,
        down_block_types=(*CROSSING[0], "DownBlock2D"), up_block_types=("UpBlock2D", *CROSSING[1]),
    )  # fmt: skip
    motion = MotionAdapter(motion_max_seq_length=32, use_motion_mid_block=False)
    control = SparseControlNetModel(
        conditioning_channels=4, cross_attention_dim=768, attention_head_dim=8, motion_max_seq_length=32,
        concat_conditioning_mask=True, use_simplified_condition_embedding=True,
    )  # fmt: skip
    parts = {"vae": _vae(), "text_encoder": _text_encoder(words, width=768, layers=12, heads=12), "unet": unet}
    scheduler = PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
    )
    pipe = StableDiffusionPipeline(
        **_half(parts), tokenizer=words, scheduler=scheduler, safety_checker=None, requires_safety_checker=False,
        feature_extractor=smoke.feature_extractor(side=224),
    )  # fmt: skip
    pipe.save_pretrained(folder, variant="fp16")
    for name, part in _half({"motion_adapter": motion, "controlnet": control}).items():
        part.save_pretrained(folder / name)
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))


def _vae() -> Any:
    return AutoencoderKL(
        block_out_channels=WIDTHS, layers_per_block=2, latent_channels=4, sample_size=512,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


def _text_encoder(words: Any, *, width: int, layers: int, heads: int) -> Any:
    config = CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        projection_dim=width, vocab_size=49408, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


def _image_encoder() -> Any:
    """ViT-H/14."""
    config = CLIPVisionConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=16, projection_dim=1024,
        image_size=224, patch_size=14, hidden_act="gelu",
    )  # fmt: skip
    return CLIPVisionModelWithProjection(config)


def _half(parts: dict[str, Any]) -> dict[str, Any]:
    """Weights small enough for numbers in fp16 to stay numbers."""
    generator = torch.Generator("cuda" if torch.cuda.is_available() else "cpu").manual_seed(smoke.SEED)
    for part in parts.values():
        for name, weight in part.eval().named_parameters():
            if weight.ndim < 2:
                weight.data.fill_(1.0 if name.endswith("weight") else 0.0)
            else:
                weight.data.uniform_(-1.0, 1.0, generator=generator).div_(weight[0].numel() ** 0.5)
        part.half()
    return parts
