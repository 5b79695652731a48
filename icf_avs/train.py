"""Training on composed scenes: teach the audio encoder to name sounds, then train the whole model.

Every random choice follows from (seed, step), so a run that is resumed continues bit for bit.
"""

from __future__ import annotations

import json
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from icf_avs.backbones.efficientnet_lite import load_efficientnet_lite0
from icf_avs.backbones.text import embed_names
from icf_avs.calibrate import Calibration, calibrate
from icf_avs.checkpoint import save_checkpoint, trained_state
from icf_avs.config import ModelConfig, TrainConfig
from icf_avs.contracts import Batch
from icf_avs.errors import UserError
from icf_avs.model.icf import ICF
from icf_avs.objective.naming import sound_reading
from icf_avs.objective.objective import FINISHING, Weights, objective
from icf_avs.results import hardware, revision, write_whole
from icf_avs.stamps.training_data import Report, TrainingData


def build_model(config: TrainConfig, classes: tuple[str, ...]) -> ICF:
    """A fresh model of a run, its weights drawn from the run's seed."""
    visual = load_efficientnet_lite0()
    model = ModelConfig.from_dict({"classes": classes, **config.model})
    names = embed_names(classes) if model.implicit_text else torch.zeros(len(classes), 1)
    torch.manual_seed(config.seed)  # here, where no loading draws from it any more
    return ICF(model, config.spec, visual, names)


class Trainer:
    """State of a run: model, naming head of the teaching stage, optimizer, step."""

    def __init__(self, config: TrainConfig, data: TrainingData, model: ICF, folder: Path) -> None:
        self.config, self.data, self.model, self.folder = config, data, model, folder
        self.teacher = nn.Linear(model.config.dim, len(data.classes) + 1)
        self.step = 0
        self.seconds = 0.0
        self.optimizer = self._optimizer()

    @property
    def teaching(self) -> bool:
        return self.config.stage(self.step) == "teach"

    @property
    def total(self) -> int:
        return self.config.teach_steps + self.config.steps + self.config.finish

    def _optimizer(self) -> torch.optim.AdamW:
        rate = self.config.learning_rate
        if self.teaching:
            groups = [{"params": [*self.model.audio.parameters(), *self.teacher.parameters()], "scale": 1.0}]
        else:  # the taught encoder moves on more slowly, or the decoder's first noise would undo it
            audio = list(self.model.audio.parameters())
            known = {id(parameter) for parameter in audio}
            rest = [p for p in self.model.parameters() if p.requires_grad and id(p) not in known]
            groups = [{"params": audio, "scale": 0.6}, {"params": rest, "scale": 1.0}]
        return torch.optim.AdamW(groups, lr=rate, weight_decay=self.config.weight_decay, betas=(0.9, 0.98))

    def advance(self, batch: Batch) -> dict[str, float]:
        """One optimizer step. Raises UserError, before it, when loss or gradient is no longer a number."""
        config = self.config
        torch.manual_seed(config.seed * 1_000_003 + self.step)
        terms = self._teach(batch) if self.teaching else self._learn(batch)
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        if not (torch.isfinite(terms["loss"]) and torch.isfinite(norm)):
            raise UserError(
                f"the loss is {terms['loss'].item()} and its gradient {norm.item()} at step {self.step}; the last good "
                f"checkpoint is in {self.folder}: lower the learning rate and train anew"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * group["scale"] * self._rate()
        self.optimizer.step()
        self.step += 1
        if self.step == config.teach_steps:
            self.optimizer = self._optimizer()
        return {name: float(value.detach()) for name, value in terms.items()} | {"gradient": float(norm)}

    def _rate(self) -> float:
        """Share of the learning rate at this step: each of the three stages has a schedule of its own."""
        config, learning = self.config, self.step - self.config.teach_steps
        if learning < 0:
            return schedule(self.step, config.teach_steps, config.warmup)
        if learning < config.steps:
            return schedule(learning, config.steps, config.warmup)
        return 0.5 * schedule(learning - config.steps, config.finish, config.warmup)

    def _teach(self, batch: Batch) -> dict[str, Tensor]:
        audio, _ = self.model.hear(batch.waves)
        named = self.teacher(audio)
        loss = sound_reading(named, batch.sounding, batch.valid)
        guess = named[..., :-1].argmax(-1, keepdim=True)
        heard = batch.sounding.any(-1)
        right = (batch.sounding.gather(-1, guess)[..., 0] & heard).sum() / heard.sum().clamp(min=1)
        return {"naming": loss, "top1": right, "loss": loss}

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        self.model.train()
        output = self.model(batch.pyramid, batch.waves, batch.valid, batch.sounding.any(1))
        weights = FINISHING if self.config.stage(self.step) == "finish" else Weights()
        return objective(output, batch, self.model.shared_space, weights)

    def save(self) -> None:
        """Write last.pt atomically: on a full disk the file before it stays."""
        state = {
            "config": json.dumps(asdict(self.config)),
            "classes": list(self.data.classes),
            "step": self.step,
            "seconds": self.seconds,
            "model": trained_state(self.model),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        partial = self.folder / ".last.pt.partial"
        try:
            with open(partial, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.folder / "last.pt")
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{self.folder}: cannot save the checkpoint of step {self.step} ({error}); make room and resume "
                "from the one before with --resume"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def restore(self) -> None:
        """Continue from last.pt. Raises UserError when it is missing, damaged or of another run."""
        path = self.folder / "last.pt"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            same = json.loads(state["config"]) == json.loads(json.dumps(asdict(self.config)))
            same = same and tuple(state["classes"]) == self.data.classes
            if same:
                self.step, self.seconds = state["step"], state["seconds"]
                self.model.load_state_dict(state["model"], strict=False)
                self.teacher.load_state_dict(state["teacher"])
                self.optimizer = self._optimizer()
                self.optimizer.load_state_dict(state["optimizer"])
        except FileNotFoundError as error:
            raise UserError(f"{path}: nothing to resume from; start without --resume") from error
        except Exception as error:  # whatever a damaged file makes torch raise
            raise UserError(f"{path}: damaged ({type(error).__name__}); start anew without --resume") from error
        if not same:
            raise UserError(f"{path}: belongs to a run with other settings; resume with those, or choose another --out")


def schedule(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate: linear warm-up, then a cosine to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(
    config: TrainConfig,
    folder: Path,
    *,
    stamps: Path | None = None,
    resume: bool = False,
    workers: int = 2,
    report: Report = lambda *_: None,
) -> Path:
    """Run (or go on with) a training run; returns the path of its checkpoint, folder/NAME.safetensors.

    `folder` also gets last.pt (for resume) and metrics.jsonl (all terms, every tenth step). Raises UserError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be created ({error.strerror}); choose another --out") from error
    if not resume and (folder / "last.pt").exists():
        raise UserError(f"{folder}: holds a run already; go on with it with --resume, or choose another --out")
    begun = time.monotonic()
    data = TrainingData(config, stamps, workers, report)
    trainer = Trainer(config, data, build_model(config, data.classes), folder)
    if resume:
        trainer.restore()
        _forget_after(folder / "metrics.jsonl", trainer.step)
    spent = trainer.seconds
    with ThreadPoolExecutor(1) as loader, open(folder / "metrics.jsonl", "a", encoding="utf-8") as log:
        upcoming = loader.submit(data.batch, trainer.step)
        while trainer.step < trainer.total:
            batch, at, stage = upcoming.result(), trainer.step, config.stage(trainer.step)
            upcoming = loader.submit(data.batch, at + 1)
            values = trainer.advance(batch)
            trainer.seconds = spent + time.monotonic() - begun
            report("teach" if stage == "teach" else "learn", trainer.step, trainer.total, values)
            if at % 10 == 0:
                row = {"step": at, "seconds": round(trainer.seconds, 1), **{k: round(v, 5) for k, v in values.items()}}
                log.write(json.dumps(row) + "\n")
                log.flush()
            if trainer.step % config.checkpoint_every == 0 or trainer.step == trainer.total:
                trainer.save()
    trainer.model.spec = config.final_spec
    calibration = calibrate(trainer.model, data.validation())
    trainer.seconds = spent + time.monotonic() - begun
    path = folder / f"{config.name}.safetensors"
    save_checkpoint(trainer.model, path, recipe_of(config, trainer, calibration))
    return path


def _forget_after(log: Path, step: int) -> None:
    """Take out the rows of steps that a resumed run does again."""
    rows = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    kept = [row for row in rows if row.endswith("\n") and json.loads(row)["step"] < step]
    write_whole(log, "".join(kept))


def recipe_of(config: TrainConfig, trainer: Trainer, calibration: Calibration) -> dict[str, Any]:
    """What a checkpoint says of its making."""
    return {
        "command": f"icf train {config.name}",
        "config": asdict(config),
        "weights": asdict(Weights()),
        "finishing weights": asdict(FINISHING),
        "validation": asdict(calibration),
        "minutes": round(trainer.seconds / 60, 1),
        "hardware": hardware(),
        "revision": revision(),
        "data": "composed Stamps scenes (tuxpaint-stamps-default), not natural video",
        "licence": "weights Apache-2.0; learnt from Tux Paint stamps (GPL-2 and the licences of single items)",
    }
