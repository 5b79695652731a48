"""State and steps of a run. All randomness depends on (seed, step) alone, so a resumed run continues bit for bit."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn

from icf_avs.atomic_io import atomic_file
from icf_avs.checkpoint.serialization import load_checkpoint, state_dict_without_frozen
from icf_avs.config import TrainConfig
from icf_avs.config_dict import from_dict
from icf_avs.encoders.registry import NEEDS_VOCABULARY, build_visual, embed_names
from icf_avs.encoders.text_encoders import load_text_encoders
from icf_avs.errors import UserError
from icf_avs.networks.build import build_model as assembled
from icf_avs.networks.build import build_model_audio
from icf_avs.networks.segmentation_model import SegmentationModel, current_keys
from icf_avs.networks.temperature import clamp_temperatures
from icf_avs.training.accelerator import processes
from icf_avs.training.data_protocol import Data
from icf_avs.training.optimizer import Plateau, adamw, learning_rate_share
from icf_avs.training.train_module import build_train_module
from icf_avs.types import Batch


def build_model(config: TrainConfig, classes: tuple[str, ...], init: Path | None = None) -> SegmentationModel:
    """Build the model of a run, with weights drawn from the run's seed or taken from the checkpoint `init`.

    Raises UserError if `init` is a different model: other parts, widths, encoders or classes.
    """
    model = config.model_config(classes)
    torch.manual_seed(config.seed)
    visual = build_visual(model.visual, frozen=not model.train_visual)
    needs_names = (model.implicit_text or model.audio in NEEDS_VOCABULARY) and classes
    names = embed_names(config.text_encoder, classes) if needs_names else torch.zeros(len(classes), 1)
    audio = build_model_audio(model, names) if model.audio != "log-mel" else None
    torch.manual_seed(config.seed)  # again: how many numbers loading drew depends on what was available
    new_model = assembled(model, config.spec, visual, names, audio)
    if model.mit and model.mit.reading == "text":
        new_model.network.text.implicit_text.attach(load_text_encoders(model.mit.encoders))
    if model.evidence:
        new_model.network.init_from_names()
    if init is not None:
        init_model = load_checkpoint(init)
        if init_model.config != new_model.config:
            raise UserError(f"{init}: another model than recipe {config.name} builds; start from one of its own kind")
        new_model.load_state_dict(init_model.state_dict())
    return new_model


class Trainer:
    """State of a run: model, audio classifier of the pretraining, optimizer, step. Every process of a run has one.

    command: the command that started the run. pretrained_steps: length of the pretraining, once it is over. lengthened:
    each extension of the run: the step it happened at, and the old and new number of steps.
    """

    def __init__(self, config: TrainConfig, data: Data, model: SegmentationModel, folder: Path) -> None:
        self.config, self.data, self.model, self.folder = config, data, model, folder
        device = processes().device
        use_bf16 = config.benchmark is not None and config.benchmark.bf16 and device.type == "cuda"
        ddp = DistributedDataParallelKwargs(find_unused_parameters=True)  # pretraining uses the audio encoder alone
        precision = "bf16" if use_bf16 else "no"
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision, kwargs_handlers=[ddp])
        self.train_module = build_train_module(config, model)
        self.wrapped = self.accelerator.prepare(self.train_module)
        self.step, self.seconds, self.command, self.pretrained_steps = 0, 0.0, "", 0
        self.lengthened: list[dict[str, int]] = []
        self._plateau = Plateau(config.audio_pretrain_patience)
        self.optimizer = adamw(self.config, self.train_module, self.pretraining)

    def batches(self, step: int) -> list[Batch]:
        """Return this process's parts of the batch of a step, one for each gradient accumulation step."""
        count = self.config.benchmark.grad_accum_steps if self.config.benchmark else 1
        first, parts = self.accelerator.process_index * count, self.accelerator.num_processes * count
        return [self.data.batch(step, part, parts) for part in range(first, first + count)]

    @property
    def pretraining(self) -> bool:
        return self.config.stage(self.step) == "pretrain"

    @property
    def total(self) -> int:
        return self.config.audio_pretrain_steps + self.config.steps + self.config.highres_steps

    def train_step(self, *parts: Batch) -> dict[str, float]:
        """Run one optimizer step on this process's parts of the batch, whose losses are averaged. Raises UserError,
        before the update, if the gradient is NaN or infinite.
        """
        config, accelerator, terms = self.config, self.accelerator, dict[str, float]()
        self.wrapped.train()
        self.optimizer.zero_grad(set_to_none=True)
        for turn, batch in enumerate(parts, 1):
            # The same seed in all processes: each draws for the whole batch and uses the values of its clips.
            torch.manual_seed(config.seed * 1_000_003 + self.step + 7_919 * (turn - 1))
            with nullcontext() if turn == len(parts) else accelerator.no_sync(self.wrapped):
                losses = self.wrapped(batch.to(accelerator.device), config.stage(self.step))
                accelerator.backward(losses["loss"] / len(parts))
            for name, value in losses.items():
                terms[name] = terms.get(name, 0.0) + float(value.detach()) / len(parts)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = float(nn.utils.clip_grad_norm_(parameters, config.clip_norm))
        if not math.isfinite(norm):  # the norm is over all processes, so all of them stop here
            raise UserError(
                f"the loss is {terms['loss']} and its gradient {norm} at step {self.step}; the last good "
                f"checkpoint is in {self.folder}: lower the learning rate and train anew"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * group["scale"] * learning_rate_share(config, self.step)
        self.optimizer.step()
        clamp_temperatures(self.model)
        self.train_module.update_running_means(accelerator.reduce)  # over all parts of the batch
        self.step += 1
        if self.step == config.audio_pretrain_steps:
            self._end_pretraining(self.step)
        loss_means = torch.tensor(list(terms.values()), device=accelerator.device)  # of all processes, below
        return dict(zip(terms, accelerator.reduce(loss_means, "mean").tolist(), strict=True)) | {"gradient": norm}

    def maybe_end_pretraining(self, naming: float) -> bool:
        """Call after a pretraining step. If the naming loss has stopped falling, go to the next stage, whose first step
        keeps its number. Returns True if so.
        """
        if not self.pretraining or not self._plateau.reached(naming):
            return False
        steps_done, self.step = self.step, self.config.audio_pretrain_steps
        self._end_pretraining(steps_done)
        return True

    def _end_pretraining(self, steps_done: int) -> None:
        self.pretrained_steps = steps_done
        self.optimizer = adamw(self.config, self.train_module, self.pretraining)

    def stop_requested(self, local: int) -> bool:
        """Return True if any process was asked to stop; local: whether this one was. All of them agree in each step."""
        if self.accelerator.num_processes == 1:
            return bool(local)
        requests = torch.tensor(float(bool(local)), device=self.accelerator.device)
        return bool(self.accelerator.reduce(requests, "sum"))

    def save(self) -> None:
        """Write last.pt atomically. The previous file stays if the disk is full, or if a weight is NaN or infinite."""
        if not all(torch.isfinite(parameter).all() for parameter in self.train_module.parameters()):
            raise UserError(
                f"a weight is NaN or infinite after step {self.step}, which is not kept; the last good checkpoint is "
                f"in {self.folder}: lower the learning rate and train anew"
            )
        icf, interventions = self.train_module.icf, self.train_module.interventions
        state = {
            "config": json.dumps(asdict(self.config)),
            "classes": list(self.data.classes),
            "step": self.step,
            "seconds": self.seconds,
            "model": state_dict_without_frozen(self.model),
            "teacher": self.train_module.audio_classifier.state_dict(),
            "icf": icf.state_dict() if icf else {},
            "interventions": interventions.state_dict() if interventions else {},
            "optimizer": self.optimizer.state_dict(),
            "command": self.command,
            "taught": self.pretrained_steps,
            "lengthened": self.lengthened,
            "plateau": self._plateau.state(),
        }
        advice = f"make room, and resume from the checkpoint before step {self.step} with --resume"
        with atomic_file(self.folder / "last.pt", advice, (RuntimeError,), flush=True) as new:
            torch.save(state, new)

    def restore(self, longer: bool = False) -> None:
        """Continue from last.pt. Raises UserError if it is missing, damaged or of another run.

        longer: the run may have more steps than it began with. From there on the learning rate follows the longer run;
        high-resolution steps already done are repeated after the added steps.
        """
        path = self.folder / "last.pt"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            saved, current = from_dict(TrainConfig, json.loads(state["config"])), self.config
            changed = [name for name, value in vars(current).items() if value != getattr(saved, name)]
            longer_run = longer and changed == ["steps"] and current.steps > saved.steps
            resumable = (not changed or longer_run) and tuple(state["classes"]) == self.data.classes
            if resumable:
                self._load_state(state, saved.steps if longer_run else None)
        except FileNotFoundError as error:
            raise UserError(f"{path}: nothing to resume from; start without --resume") from error
        except Exception as error:  # torch may raise anything for a damaged file
            raise UserError(
                f"{path}: damaged, or of an earlier version ({type(error).__name__}); start anew without --resume"
            ) from error
        if not resumable:
            pairs = ((name, getattr(saved, name), getattr(current, name)) for name in changed)
            differences = (
                f"{name} {there} there, {here} here" if isinstance(here, int | float | str) else f"another {name}"
                for name, there, here in pairs
            )
            which = ", ".join(differences) or "other classes"
            raise UserError(
                f"{path}: belongs to a run with other settings ({which}); resume with those, or choose another --out"
            )

    def _load_state(self, state: dict[str, Any], steps: int | None) -> None:
        """Load the saved state. steps: the earlier number of steps if the run is lengthened, else None."""
        self.step, self.seconds, self.lengthened = state["step"], state["seconds"], state["lengthened"]
        self.pretrained_steps, self._plateau = state["taught"], Plateau(**state["plateau"])
        if steps is None:
            self.command = state["command"]
        else:
            self.step = min(self.step, self.config.audio_pretrain_steps + steps)
            self.lengthened = [*self.lengthened, {"at": self.step, "from": steps, "to": self.config.steps}]
        self.model.load_state_dict(current_keys(state["model"]), strict=False)
        self.train_module.audio_classifier.load_state_dict(state["teacher"])
        for name, part in (("icf", self.train_module.icf), ("interventions", self.train_module.interventions)):
            if part is not None:
                part.load_state_dict(state[name])
        self.optimizer = adamw(self.config, self.train_module, self.pretraining)
        self.optimizer.load_state_dict(state["optimizer"])


def saved_steps(folder: Path) -> int | None:
    """Return the number of steps of the run in a folder, from last.pt; None if unreadable, which `restore` reports."""
    try:
        state = torch.load(folder / "last.pt", map_location="cpu", weights_only=True, mmap=True)
        return int(json.loads(state["config"])["steps"])
    except Exception:  # torch may raise anything for a damaged file
        return None
