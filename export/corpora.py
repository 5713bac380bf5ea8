"""What is known of the corpora that bundles are trained on, and of the law: the prose of a card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class About:
    """One corpus, for a card."""

    title: str
    source: str
    """Who made it, and from what."""
    labels: str
    """Who labelled it, and how well."""
    rights: str
    biases: tuple[str, ...]
    """What is known, or known not to be known, of whom and what it shows."""
    human: tuple[float, float] | None = None
    """Share that people get right, and how far that is certain, 0..1."""


FER2013 = About(
    title="FER2013",
    source=(
        "Goodfellow et al. 2013, *Challenges in Representation Learning*: 35,887 grey faces of 48x48 pixels, found by "
        "an image search on the web for words of emotion joined with words of gender, age and origin, cut by a face "
        "detector."
    ),
    labels=("Each picture has the label of the words that it was found by, looked over by people. Many are wrong."),
    rights=(
        "FER2013 was given out for research, under the rules of a competition. The pictures' rights stay with their "
        "owners, who were not asked, and neither were the people in them. So the weights are for research; for "
        "anything else train on data of your own (`python -m train`)."
    ),
    biases=(
        "Who is in the pictures is not recorded: neither age, gender, origin, skin colour nor person. Accuracy by "
        "group can't be measured on it, and none is claimed. Expect it to differ between groups.",
        "One person may be in the training and in the test part, and near-identical pictures are in both; the figures "
        "without these twins stand beside the others.",
        "Many faces are posed: actors, stock photographs, drawings even. Everyday faces are calmer.",
        "A label is what a search engine and an observer take a face for, at one moment and out of its situation. "
        "It is not what the person feels.",
        "What faces mean differs between people and cultures; seven words do not hold it.",
    ),
    human=(0.65, 0.05),
)

CORPORA = {"fer2013": FER2013}


def about(corpus: str) -> About:
    """What is known of a corpus; of one that isn't known here, that."""
    return CORPORA.get(
        corpus,
        About(
            title=corpus,
            source="See docs/training.md, and whoever published it.",
            labels="Not recorded here.",
            rights="As the corpus it was trained on.",
            biases=(
                "Who is in the pictures is not recorded here. Expect accuracy to differ between groups of people.",
                "A label is what an observer takes a face for. It is not what the person feels.",
            ),
        ),
    )


INTENDED = (
    "Research on robots, and robots, that react to the expressions of people who know of it and can refuse: a label a "
    "face, with a confidence, that software takes as a hint which may be wrong.",
    "Comparing methods, measuring a pipeline, teaching how such a thing is made.",
)

FORBIDDEN = (
    "**At work and in education, in the European Union**: inferring emotions of people there is a prohibited practice, "
    "save for medical or safety reasons (AI Act, Regulation (EU) 2024/1689, Article 5(1)(f); applies since 2 February "
    "2025).",
    "**Without telling people**: whoever deploys an emotion recognition system has to inform those who are exposed to "
    "it, and to process their data as data protection law says (the same, Article 50(3)). Elsewhere other law may "
    "hold.",
    "Emotion recognition is a high-risk use by Annex III, point 1(c), of the same regulation: who puts this into a "
    "product has duties of their own.",
    "Decisions about a person: hiring, marks, credit, insurance, policing, borders, lies, health or state of mind.",
    "Telling who somebody is. It was not made for that, and nothing here does it.",
    "Anything that hurts when one label in three is wrong.",
)
