"""How a network is trained: one flat dataclass, so that every number can be set from the command line."""

from __future__ import annotations

from dataclasses import dataclass

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "one_cycle")


@dataclass(frozen=True)
class Recipe:
    """Optimisation and augmentation. Defaults are the plainest choice; augmentations at 0 are off."""

    optimizer: str = "sgd"
    """``sgd``, ``adam`` or ``adamw``."""
    learning_rate: float = 0.001
    """The peak where the schedule is ``one_cycle``."""
    momentum: float = 0.9
    """Of ``sgd``; Nesterov's where ``nesterov``."""
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "constant"
    """``constant``, or ``one_cycle`` (Smith 2018): up over the first tenth, down along a cosine."""
    batch: int = 128
    """Pictures a step, over all processes together."""
    epochs: int = 50
    """Of the first stage (and of the only one, where there is only one)."""
    second_epochs: int = 0
    """Of each later stage that is trained step by step; 0 is as many as the first."""
    second_rate: float = 0.0
    """Learning rate of the later stages; 0 is the first one's."""
    patience: int = 0
    """Stop a stage when its held-out figure has not improved for this many epochs; 0 never stops early."""
    label_smoothing: float = 0.0
    """Probability taken from the true class and spread over all (Szegedy et al. 2016)."""
    mixup: float = 0.0
    """Alpha of the Beta distribution by which pairs of examples and their labels are mixed (Zhang et al. 2018); 0 mixes
    none. Only where the loss is plain cross-entropy."""
    distil: float = 0.0
    """Weight of the teachers' answers beside the labels (Hinton et al. 2015), where the run has teachers."""
    matched: bool = False
    """The teachers answer to what the network is shown, moved, lit and mixed as it is (Beyer et al. 2022), rather than
    once to each picture and its mirror image. What is blurred, noisy or covered they see as it was before: their answer
    to it is worth more (noisy student, Xie et al. 2020)."""
    turns: bool = False
    """With ``matched``, each picture of a batch is answered by one of the teachers, and not by the mean of all."""
    average: float = 0.0
    """Decay of an exponential average of the weights, per step; the average is what is evaluated and exported."""
    rotation: float = 0.0
    """Degrees, uniform in +-."""
    scale: float = 0.0
    """Fraction, uniform in 1 +-."""
    shift: float = 0.0
    """Fraction of the side, uniform in +-, both ways."""
    mirror: bool = False
    """Half of the pictures are mirrored."""
    gamma: float = 0.0
    """Exponent exp(g), g uniform in +-."""
    erase: float = 0.0
    """Probability that a random rectangle is replaced by noise (Zhong et al. 2020)."""
    blur: float = 0.0
    """Half of the pictures are blurred by a Gaussian; its standard deviation, in pixels, is uniform from 0 to this."""
    noise: float = 0.0
    """Half of the pictures get noise; its standard deviation, in grey levels, is uniform from 0 to this."""
    jitter: int = 0
    """Extra crops of each training picture, with the eyes' positions disturbed (Lopes et al. 2017)."""
    recut: bool = False
    """Finished grey crops of the training part are learnt also as the robot would cut them (:mod:`train.recut`)."""
    one_each: bool = False
    """An epoch shows one example of each sequence, drawn anew: a picture or one of its copies, not all of them."""
    every: int = 1
    """Epochs from one look at the held-out slice, and one ``last.pt``, to the next; the last epoch is always seen."""
    held_out: float = 0.05
    """Share of the training part that is kept out for model selection and calibration."""
    held_out_seed: int = 0
    """Draws that share; runs that teach one another must agree in it."""
    seed: int = 0
    """Of everything else that is random."""
