"""The families that can be trained: one file each, one table here."""

from __future__ import annotations

from dataclasses import replace

from train.models import conv_lstm, cspp, dam_cnn, emotional_vlan, two_stream
from train.models.family import Family, Window
from train.recipe import Recipe

_FACE = Recipe(
    optimizer="adamw",
    learning_rate=0.002,
    weight_decay=0.05,
    schedule="one_cycle",
    batch=128,
    epochs=60,
    label_smoothing=0.1,
    mixup=0.2,
    average=0.998,
    rotation=15.0,
    scale=0.12,
    shift=0.06,
    mirror=True,
    gamma=0.3,
    erase=0.25,
)
"""The first of four runs that come to a default bundle on a CPU; what else learns from FER2013 differs as said."""

_FACE_AGAIN = replace(
    _FACE,
    optimizer="sgd",
    nesterov=True,
    learning_rate=0.04,
    weight_decay=0.0005,
    epochs=75,
    label_smoothing=0.0,
    mixup=0.0,
    distil=0.3,
    scale=0.15,
    shift=0.08,
    erase=0.15,
)
"""Its second, from the first one's weights and beside its answers: those take the place of smoothing and mixing, and
steps of plain descent generalise better once there is something to start from."""

_FACE_FURTHER = replace(
    _FACE_AGAIN,
    learning_rate=0.02,
    epochs=11,
    mixup=0.2,
    distil=0.5,
    erase=0.2,
    blur=1.2,
    noise=10.0,
    recut=True,
)
"""Its third, from the second one's: that had 87% of its pictures by heart, so they come blurred and noisy, mixed, and
cut by the robot besides, which makes an epoch 1.7 times as long. The fourth mixes none, and learns from both."""

_FACE_TEACHER = replace(
    _FACE_AGAIN, learning_rate=0.1, batch=256, epochs=60, distil=0.0, recut=True, one_each=True, every=10
)
"""A wide network that the default bundle's learns from, from random weights: sharp pictures, in the corpus' cut or the
robot's."""

_FACE_PUPIL = replace(
    _FACE_FURTHER,
    learning_rate=0.1,
    batch=256,
    epochs=218,
    mixup=0.4,
    distil=0.9,
    matched=True,
    one_each=True,
    every=18,
)
"""The default bundle's network, from random weights: it learns what three of those answer, and sees worse than they."""

FAMILIES: dict[str, Family] = {
    "cspp": Family(
        name="cspp",
        key="li2019",
        paper="C-SPP: Li et al. 2019, Subject Independent Facial Expression Recognition",
        config=cspp.Config,
        build=cspp.CSPP,
        inputs=cspp.inputs,
        window=lambda config: Window(1),
        recipes={
            "paper": Recipe(
                optimizer="sgd",
                learning_rate=0.0009,
                momentum=0.9,
                batch=128,
                epochs=50,
                label_smoothing=0.1,
                jitter=70,
            ),
            "face-teacher": _FACE_TEACHER,
            "face-pupil": _FACE_PUPIL,
            "face": _FACE,
            "face-again": _FACE_AGAIN,
            "face-further": _FACE_FURTHER,
            "face-last": replace(_FACE_FURTHER, learning_rate=0.012, epochs=14, mixup=0.0),
            "fer2013": replace(_FACE, learning_rate=0.003, epochs=50, mixup=0.0, gamma=0.4, erase=0.3),
        },
    ),
    "conv_lstm": Family(
        name="conv_lstm",
        key="saurav2020",
        paper="3DCNN-ConvLSTM: Saurav et al. 2020, Video-Based Facial Expression Recognition",
        config=conv_lstm.Config,
        build=conv_lstm.build,
        inputs=conv_lstm.inputs,
        # Eight frames from the start of an expression to its height, which takes about half a second.
        window=lambda config: Window(config.frames, interval_ms=80.0),
        recipes={
            "paper": Recipe(optimizer="adam", learning_rate=1e-4, batch=32, epochs=80, rotation=15.0, mirror=True),
        },
    ),
    "two_stream": Family(
        name="two_stream",
        key="zhang2019",
        paper="two-stream VGG16, DBN, SVM: Zhang et al. 2019, Learning Affective Video Features",
        config=two_stream.Config,
        build=two_stream.build,
        inputs=two_stream.inputs,
        window=lambda config: Window(config.frames + 1, stride=config.frames + 1, flows=True, interval_ms=33.0),
        recipes={
            "paper": Recipe(optimizer="sgd", learning_rate=0.001, batch=30, epochs=300, second_epochs=100, patience=20),
        },
    ),
    "emotional_vlan": Family(
        name="emotional_vlan",
        key="pan2019",
        paper="30-stream AlexNet, EmotionalVlan: Pan et al. 2019, Deep Temporal-Spatial Aggregation",
        config=emotional_vlan.Config,
        build=emotional_vlan.build,
        inputs=emotional_vlan.inputs,
        window=lambda config: Window(config.length, stride=config.length, flows=True, interval_ms=33.0),
        recipes={
            "paper": Recipe(optimizer="sgd", learning_rate=0.001, batch=40, epochs=5000, patience=50),
        },
    ),
    "dam_cnn": Family(
        name="dam_cnn",
        key="xie2019",
        paper="DAM-CNN: Xie et al. 2019, Deep Multi-path CNN Joint with Salient Region Attention",
        config=dam_cnn.Config,
        build=dam_cnn.build,
        inputs=dam_cnn.inputs,
        window=lambda config: Window(1),
        recipes={
            "paper": Recipe(
                optimizer="adam",
                learning_rate=1e-5,
                second_rate=1e-4,
                batch=32,
                epochs=60,
                second_epochs=60,
                patience=10,
            ),
        },
    ),
}

__all__ = ["FAMILIES", "Family", "Window"]
