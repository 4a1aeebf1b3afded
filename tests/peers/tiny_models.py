"""Tiny models with random weights in the layouts of the real ones: each runs through the real pipeline of diffusers."""

from __future__ import annotations

import json
import re
from pathlib import Path

from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    MotionAdapter,
    PNDMScheduler,
    SparseControlNetModel,
    StableDiffusionPipeline,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)

from app import smoke

INDEX = "model_index.json"
SETTINGS = {"width": 64, "height": 64, "frames": 6, "steps": 3}
WIDTHS = (8, 16)  # channels of the two levels of AnimateDiff's networks


def make(folder: Path) -> None:
    """Each under its name in app/models.toml."""
    svd(folder / "svd-xt")
    animatediff(folder / "animatediff")


def shrink(file: Path) -> None:
    """Let the fast presets in an app/models.toml ask for what these ones can make in a second."""
    settings = "\n".join(f"{name} = {value}" for name, value in SETTINGS.items())
    text = file.read_text(encoding="utf-8")
    small = re.sub(r"(\.presets\.fast\]\n)width.*\nheight.*\nframes.*\nsteps.*", rf"\g<1>{settings}", text)
    real = "".join(f"\n[{name}.presets.fast]\n{settings}\n" for name in ("i2vgen-xl", "svd-xt", "animatediff"))
    file.write_text(small + real, encoding="utf-8")


def svd(folder: Path) -> None:
    """Stable Video Diffusion, 1.6 million parameters."""
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32, 32, 32), layers_per_block=1, latent_channels=4, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4,
    )  # fmt: skip
    unet = UNetSpatioTemporalConditionModel(
        sample_size=8, in_channels=8, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        cross_attention_dim=smoke.WIDTH, addition_time_embed_dim=32, projection_class_embeddings_input_dim=96,
        num_attention_heads=(2, 4), num_frames=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    )  # fmt: skip
    parts = {"vae": vae, "unet": unet, "image_encoder": smoke.image_encoder(side=224, patch=32)}
    smoke.fill(*parts.values())
    scheduler = EulerDiscreteScheduler(
        prediction_type="v_prediction", beta_schedule="scaled_linear", use_karras_sigmas=True,
        timestep_type="continuous", timestep_spacing="leading", steps_offset=1, sigma_min=0.002, sigma_max=700.0,
    )  # fmt: skip
    pipe = StableVideoDiffusionPipeline(
        **parts, scheduler=scheduler, feature_extractor=smoke.feature_extractor(side=224)
    )
    pipe.save_pretrained(folder, safe_serialization=True)


def animatediff(folder: Path) -> None:
    """Stable Diffusion 1.5 as it is published, with a motion adapter and SparseCtrl in folders of their own."""
    words = smoke.tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=WIDTHS, layers_per_block=1, norm_num_groups=2,
        cross_attention_dim=smoke.WIDTH, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    motion = MotionAdapter(
        block_out_channels=WIDTHS, motion_layers_per_block=1, motion_num_attention_heads=4, motion_norm_num_groups=2,
        motion_max_seq_length=32, use_motion_mid_block=False,
    )  # fmt: skip
    control = SparseControlNetModel(
        conditioning_channels=4, block_out_channels=WIDTHS, layers_per_block=1, norm_num_groups=2,
        cross_attention_dim=smoke.WIDTH, attention_head_dim=4, motion_num_attention_heads=4, motion_max_seq_length=32,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        concat_conditioning_mask=True, use_simplified_condition_embedding=True,
    )  # fmt: skip
    parts = {"vae": smoke.vae(), "text_encoder": smoke.text_encoder(words), "unet": unet}
    smoke.fill(*parts.values(), motion, control)
    scheduler = PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
    )
    pipe = StableDiffusionPipeline(
        **parts, tokenizer=words, scheduler=scheduler,
        feature_extractor=smoke.feature_extractor(side=32), safety_checker=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder, safe_serialization=True)
    motion.save_pretrained(folder / "motion_adapter")
    control.save_pretrained(folder / "controlnet")
    # The real one names a part that is not fetched.
    index = json.loads((folder / INDEX).read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / INDEX).write_text(json.dumps(index))
