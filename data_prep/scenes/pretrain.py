"""Pre-train the demo's encoder: ``python -m data_prep.scenes.pretrain --steps 3500 --out FILE``.

The contrastive training of CLIP (Radford et al. 2021, arXiv 2103.00020) on scenes that the demo never shows, with
captions in the style of crawled pages (`web_captions.py`). It wrote `data_prep/models/scenes-clip.safetensors.xz`.
"""

from __future__ import annotations

import argparse
import lzma
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from data_prep.scenes.render import render
from data_prep.scenes.web_captions import web_caption
from data_prep.scenes.world import Scene, draw_scene
from rank_xmodal.torchvision_ops import make_importable

CONFIG_DIR = Path(__file__).parents[1] / "models"
NAME = "scenes-clip"
_SEED = 20_000_000  # far from any seed of the corpus: no scene of the demo's generators is drawn here


def _draw(count: int, seed: int) -> tuple[torch.Tensor, list[Scene]]:
    rng = np.random.default_rng(seed)
    pixels = torch.empty(count, 3, 64, 64, dtype=torch.uint8)
    scenes = []
    for row in range(count):
        scene = draw_scene(rng)
        scenes.append(scene)
        pixels[row] = torch.from_numpy(np.asarray(render(scene, rng)).transpose(2, 0, 1).copy())
    return pixels, scenes


def _save(model: torch.nn.Module, used: torch.Tensor, out: Path) -> None:
    """Write the weights as fp16 safetensors, xz-compressed; rows of tokens never seen become zero and cost nothing."""
    from safetensors.torch import save

    state = {name: value.detach().clone() for name, value in model.state_dict().items() if name != "attn_mask"}
    state["token_embedding.weight"][~used] = 0
    half = {name: (v.half() if v.is_floating_point() else v).contiguous() for name, v in state.items()}
    packed = lzma.compress(save(half), preset=9 | lzma.PRESET_EXTREME)
    part = out.with_name(out.name + ".part")
    part.write_bytes(packed)
    part.replace(out)


def main() -> None:
    """Train for a number of steps and write the compressed weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=CONFIG_DIR / f"{NAME}.safetensors.xz")
    parser.add_argument("--steps", type=int, default=3_500)
    parser.add_argument("--scenes", type=int, default=40_000, help="scenes drawn before training, shown many times")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    arguments = parser.parse_args()

    make_importable()
    import open_clip

    open_clip.add_model_config(CONFIG_DIR)
    torch.manual_seed(0)
    rng = np.random.default_rng(_SEED + 1)
    model = open_clip.create_model(NAME).to(memory_format=torch.channels_last)
    model.train()
    tokenizer = open_clip.get_tokenizer(NAME)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1) * 255
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1) * 255

    pixels, scenes = _draw(arguments.scenes, _SEED)
    print(f"drew {len(scenes):,} scenes", flush=True)
    decay = [p for n, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim >= 2 and "embedding" not in n)]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.lr, betas=(0.9, 0.98), fused=True)
    used = torch.zeros(model.vocab_size, dtype=torch.bool)
    start = time.monotonic()
    seen_loss, seen_hit = 0.0, 0.0
    for step in range(1, arguments.steps + 1):
        lr = arguments.lr * min(1.0, step / 200) * 0.5 * (1 + math.cos(math.pi * step / arguments.steps))
        for group in optimizer.param_groups:
            group["lr"] = lr
        rows = rng.choice(len(scenes), arguments.batch, replace=False)
        images = (pixels[torch.from_numpy(rows)].float() - mean) / std
        tokens = tokenizer([web_caption(scenes[r], rng) for r in rows])
        used[tokens.unique()] = True
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image, text, scale = model(images.contiguous(memory_format=torch.channels_last), tokens)
        logits = scale * image.float() @ text.float().T
        target = torch.arange(len(rows))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        seen_loss += loss.item()
        seen_hit += (logits.argmax(1) == target).float().mean().item()
        if step % 100 == 0:
            print(
                f"step {step:6d}  {time.monotonic() - start:6.0f} s  loss {seen_loss / 100:.3f}  "
                f"R@1 in batch {seen_hit:.1f} %  scale {model.logit_scale.exp().item():.1f}",
                flush=True,
            )
            seen_loss = seen_hit = 0.0
        if step % 500 == 0:
            _save(model, used, arguments.out)
    _save(model, used, arguments.out)
    print(f"wrote {arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB after {arguments.steps} steps")


if __name__ == "__main__":
    main()
