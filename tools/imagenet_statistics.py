"""Write encoders/imagenet_logits.csv: mean and deviation of each ImageNet class's logit over composed scenes.

Run as `python -m tools.imagenet_statistics FILE` after large changes of rendering or scenes.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import torch

from icf_avs.atomic_io import replaced_file
from icf_avs.encoders.efficientnet_lite import load_efficientnet_lite0
from icf_avs.encoders.open_vocab_encoder import imagenet_names
from icf_avs.synthetic.catalog import load_open_vocab_stamps
from icf_avs.synthetic.open_vocab_sampler import sample_open_vocab_scene
from icf_avs.synthetic.rendering import render_frame

SCENES, SIZE = 240, 448
_SEED = 1_000  # seed of scenes used by no training run


def logit_statistics(scenes: int = SCENES) -> torch.Tensor:
    """Mean and standard deviation of each class's logit over all positions of training scenes: float64 [1000, 2]."""
    catalog, network = load_open_vocab_stamps(), load_efficientnet_lite0()
    total, squares, count = torch.zeros(1000, dtype=torch.float64), torch.zeros(1000, dtype=torch.float64), 0
    with torch.inference_mode():
        for index in range(scenes):
            rgb, _ = render_frame(sample_open_vocab_scene(catalog, "train", index, _SEED), 0.5, (SIZE, SIZE))
            level = network(torch.from_numpy(rgb.copy())[None])[-1]
            hidden = torch.relu(network.head(level)).clamp(max=6).flatten(2)[0].T
            logits = network.classifier(hidden).double()
            total, squares, count = total + logits.sum(0), squares + logits.square().sum(0), count + len(logits)
    mean = total / count
    return torch.stack([mean, (squares / count - mean.square()).sqrt()], dim=1)


def main(path: Path) -> None:
    """Write the table."""
    with replaced_file(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("index", "mean", "deviation", "name"))
        rows = zip(logit_statistics().tolist(), imagenet_names(), strict=True)
        for index, ((mean, deviation), name) in enumerate(rows):
            writer.writerow((index, f"{mean:.3f}", f"{deviation:.3f}", name.partition(",")[0]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
