"""Train the workbook's small UNet: it draws the digit that it is asked for, 8 x 8 pixels.

    python data/make_digits_unet.py

Trains on scikit-learn's digits (1,797 images, no download) for some minutes on 2 CPU cores and
writes data/digits_unet (config.json and weights as safetensors). The seed is fixed; another
machine or another version of torch gives slightly different weights of the same quality.
"""

import time
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from sklearn.datasets import load_digits

SEED = 0
STEPS = 3000
BATCH = 128
RATE = 2e-3
HERE = Path(__file__).resolve().parent


def new_unet():
    """About 1.1 M parameters; the class is an input beside the time step."""
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=16,
        num_class_embeds=10,
    )


def main():
    torch.manual_seed(SEED)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1  # 0..16 to -1..1
    labels = torch.tensor(digits.target)
    unet, noiser = new_unet(), DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    average = EMAModel(unet.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    optimiser = torch.optim.AdamW(unet.parameters(), lr=RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    start = time.time()
    for step in range(STEPS):
        chosen = torch.randint(0, len(images), (BATCH,))
        clean, noise = images[chosen], torch.randn(BATCH, 1, 8, 8)
        times = torch.randint(0, noiser.config.num_train_timesteps, (BATCH,))
        noisy = noiser.add_noise(clean, noise, times)
        loss = torch.nn.functional.mse_loss(unet(noisy, times, labels[chosen]).sample, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        average.step(unet.parameters())
        if step % 200 == 0:
            print(f"step {step:5d}  loss {loss:.4f}  {time.time() - start:5.0f} s", flush=True)
    average.copy_to(unet.parameters())
    unet.eval().save_pretrained(HERE / "digits_unet")
    noiser.save_pretrained(HERE / "digits_unet")


if __name__ == "__main__":
    main()
