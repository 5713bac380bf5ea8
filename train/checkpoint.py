"""What a training run leaves on disk: plain values and tensors only, so that a stranger's file can't run code."""

from __future__ import annotations

import os
import pickle
import tempfile
import zipfile
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from edge.bundle import InputSpec
from edge.errors import EdgeError
from train.models import FAMILIES, Family
from train.recipe import Recipe

FORMAT = 2


class CheckpointError(EdgeError):
    """A checkpoint that is missing, damaged, or of an unknown family or format."""


@dataclass(frozen=True)
class Checkpoint:
    """One state of one run."""

    family: str
    config: dict[str, Any]
    recipe: dict[str, Any]
    labels: tuple[str, ...]
    corpus: str
    synthetic: bool
    """Whether what it learnt from was made up (see :mod:`train.onset`)."""
    stage: str
    """The stage it comes from."""
    complete: bool
    """Whether that is the run's last stage: what comes of an earlier one is no classifier yet."""
    epoch: int
    """Epochs finished."""
    weights: dict[str, torch.Tensor]
    """What is evaluated and exported: the averaged weights where the recipe averages."""
    state: dict[str, Any]
    """What resuming needs besides (in ``last.pt``), and the history."""
    temperature: float
    """Fitted on the held-out slice."""
    abstain_below: float
    held_out: dict[str, float]
    """Figures on the held-out slice of the training part."""
    flow: dict[str, Any] | None = None
    """Name and every parameter of the optical flow that it learnt from, where it did."""

    @property
    def table(self) -> Family:
        """The family's entry."""
        return FAMILIES[self.family]

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What the network eats."""
        return self.table.inputs(self.table.config(**self.config))

    def network(self) -> torch.nn.Module:
        """The network with its weights, in evaluation mode."""
        network = self.table.build(self.table.config(**self.config))
        network.load_state_dict(self.weights)
        return network.eval()

    def save(self, path: Path) -> None:
        """Write atomically: a killed run leaves the previous checkpoint whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
                torch.save({"format": FORMAT, **values, "labels": list(self.labels)}, file)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: missing, damaged, of another format or an unknown family, or weights that don't fit.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such checkpoint; train one with `python -m train FAMILY --out DIR`"
        ) from error
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a whole checkpoint; train it again or resume from another") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        found = stored.get("format") if isinstance(stored, dict) else None
        raise CheckpointError(f"{path}: checkpoint format {found!r}, this version reads {FORMAT}; train it again")
    if stored.get("family") not in FAMILIES:
        raise CheckpointError(f"{path}: unknown family {stored.get('family')!r}; known: {', '.join(FAMILIES)}")
    try:
        needed = [entry.name for entry in fields(Checkpoint) if entry.default is MISSING or entry.name in stored]
        values = {name: stored[name] for name in needed}
        # A setting that is younger than the checkpoint was off when it was made, as it is by default.
        recipe = {**plain(Recipe()), "held_out_seed": values["recipe"].get("seed", 0), **values["recipe"]}
        config = {**plain(FAMILIES[stored["family"]].config()), **values["config"]}
        labels = tuple(values["labels"])
        checkpoint = Checkpoint(**{**values, "config": config, "recipe": recipe, "labels": labels})
        checkpoint.network()
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path}: not a whole {stored['family']} checkpoint ({reason}); train it again"
        ) from error
    return checkpoint


def plain(value: Recipe | Any) -> dict[str, Any]:
    """A configuration dataclass as plain values."""
    return asdict(value)
