"""When a loss has stopped falling: the rule by which the pretraining of the audio encoder ends early."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

WINDOWS, TOLERANCE = 4, 0.005


@dataclass
class Plateau:
    """Means over a quarter of `patience` steps each: the loss has stopped falling once four of them in a row are not
    below the lowest one before by half a hundredth of the first. patience 0: never. A function of the losses alone, so
    a resumed run and every process of a run decide alike.
    """

    patience: int
    losses: list[float] = field(default_factory=list)  # of the window that is not full yet
    first: float | None = None
    best: float = float("inf")
    idle: int = 0  # windows since the lowest mean

    def reached(self, loss: float) -> bool:
        """Add the loss of a step; whether it has stopped falling."""
        if not self.patience:
            return False
        self.losses.append(loss)
        if len(self.losses) < max(1, self.patience // WINDOWS):
            return False
        mean = sum(self.losses) / len(self.losses)
        self.losses.clear()
        self.first = mean if self.first is None else self.first
        if mean < self.best - TOLERANCE * self.first:
            self.best, self.idle = mean, 0
        else:
            self.idle += 1
        return self.idle >= WINDOWS

    def state(self) -> dict[str, object]:
        """What `Plateau(**state)` goes on from."""
        return asdict(self)
