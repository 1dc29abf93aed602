"""Words of the field in one sentence each: the hover text of pages and the glossary of the docs."""

from __future__ import annotations

GLOSSARY: dict[str, str] = {
    # What is measured
    "output head": (
        "The last matrix of a language model: it turns a hidden state into a score for every "
        "token of the vocabulary."
    ),
    "hidden state": (
        "The vector that the output head reads at one position, after the model's final norm."
    ),
    "logit": (
        "A token's score before the softmax; one logit more than another token's makes a token "
        "2.7 times as probable."
    ),
    "position": "One predicted token of a text.",
    "document": (
        "What is independent of the rest of a text: a row, an article, a file; intervals count "
        "documents and not positions."
    ),
    "target": "The token that really comes next in the text.",
    "decision": "Which token has the largest logit at a position.",
    "runner-up": "The token with the second largest logit.",
    # Look
    "margin": (
        "The largest logit minus the second largest, in logits: by how much a decision was won."
    ),
    "scale-free margin": (
        "The distance from the hidden state to the wall between winner and runner-up, divided "
        "by the hidden state's length; a temperature does not change it."
    ),
    "relative distance": "The name of the scale-free margin in tables and in Python.",
    "cell": "All hidden states for which one token wins.",
    "facet": (
        "A wall of a cell: the hidden states at which the winner and one other token have the "
        "same logit."
    ),
    "facet distance": (
        "The distance from the hidden state to the nearest wall of its cell, whatever token is "
        "behind it."
    ),
    "gap": "The share of decisions whose margin is below ε, as a function of ε.",
    "gap slope": (
        "The slope β of the gap on two logarithmic scales near zero; 1 means that halving ε "
        "halves the share."
    ),
    "density at zero": (
        "How many decisions there are per logit right at margin zero: for a small ε the share "
        "below it is about density × ε."
    ),
    "rounding step": (
        "The distance between two neighbouring numbers of the checkpoint's precision at the top "
        "logit; margins below it cannot be told from a tie."
    ),
    "loss": "Minus the logarithm of the target's probability, in nats a token.",
    "nat": "The unit of a natural logarithm; 0.69 nats are one bit.",
    "perplexity": "The exponential of the mean loss.",
    "entropy": (
        "How spread out the next token's distribution is, in nats; 0 if one token has it all."
    ),
    "confidence": "The probability that the model gives to the token it decides for.",
    "calibration": (
        "Whether tokens that are given a probability of 70 % are right 70 % of the time."
    ),
    # Layers
    "logit lens": (
        "Reading what a model would decide if it stopped at a depth: the state there is given to "
        "the output head."
    ),
    "fitted lens": (
        "A logit lens with an affine map before the head that was fitted to turn the states of a "
        "depth into the head's input."
    ),
    "residual stream": "The vector at a position to which every block of a model adds.",
    "settling depth": (
        "The first depth from which on the leading token is the one that the whole model decides "
        "for."
    ),
    "early exit": (
        "To stop at the first depth that is sure enough, and not to run the blocks above it."
    ),
    "self-drafting": (
        "Speculative decoding in which a model's own first blocks draft the tokens that the whole "
        "model checks."
    ),
    "effective rank": (
        "About how many directions the states spread over: the exponential of the entropy of "
        "their covariance's eigenvalues."
    ),
    "intrinsic dimension": (
        "Along how many directions a cloud of points extends near each of them, however many "
        "coordinates it has."
    ),
    # Compare
    "churn": "The share of positions at which two models decide for different tokens.",
    "flip": "A position at which two models decide for different tokens.",
    "right to wrong": "The share of positions that were right before and are wrong after.",
    "wrong to right": "The share of positions that were wrong before and are right after.",
    "net": "Wrong to right minus right to wrong, which is the difference of the two accuracies.",
    "runner-up rotation": "The winner stayed and another token became the runner-up.",
    "expansion": "The share of positions whose margin is wider after than before.",
    "predicted churn": (
        "The churn that margins before let expect, if each document’s logits move as they did at "
        "positions of like margin and entropy in the other documents."
    ),
    "share left": (
        "The part of a change of the margins that a mere temperature does not explain: near 0 "
        "is sharpening, near 1 geometry."
    ),
    "sharpening": (
        "All logits multiplied by one factor, as a lower temperature does: margins grow and no "
        "decision changes."
    ),
    "KL divergence": (
        "How far one model's distribution of the next token is from another's, in nats; 0 if "
        "they are the same."
    ),
    "total variation": "Half the sum of the differences of two models' probabilities, from 0 to 1.",
    "acceptance": (
        "The chance that speculative decoding keeps a token of the one model for the other: 1 "
        "minus the total variation."
    ),
    "token class": (
        "What a token's text is: structural, numeric, function word, entity-like, content or "
        "fragment."
    ),
    # Change
    "control": "The same training without a penalty, which a refined model is to be held against.",
    "penalty": "What is added to the cross-entropy in a refinement to move the boundaries.",
    "dose": "An objective at one weight of its penalty, or share of the loss’s gradient.",
    "held out": "Documents that a refinement never trains on.",
    "equal gain": (
        "Objectives compared where their median margins have grown alike, since their weights "
        "have different units."
    ),
    # Choose
    "signature": (
        "A sketch of how training on a text would move the output head: 4,096 numbers with what "
        "their errors need."
    ),
    "Fisher": (
        "The mean outer product of a text's gradients in the head's weights: along which "
        "directions training would move them, and how strongly."
    ),
    "joint": (
        "The cosine of two texts' Fishers: 1 if they would move the head along the same "
        "directions, 0 if along none in common."
    ),
    "activation alignment": "How alike two texts are in what the head reads: their hidden states.",
    "error alignment": (
        "How alike two texts are in what the head gets wrong: its probabilities minus the target."
    ),
    "proxy": (
        "Activation alignment times error alignment: the joint if states and errors were unrelated."
    ),
    "coupling": "Joint over proxy: above 1, two texts make alike errors in alike states.",
    "gradient cosine": (
        "The cosine of two texts' mean gradients: below 0, training on one undoes what training "
        "on the other does."
    ),
    "profile cosine": (
        "How alike two texts spread over a network: the cosine of the sizes of their Fishers, "
        "place by place."
    ),
    "participation ratio": (
        "About how many directions a text's gradients spread over: (Σλ)²/Σλ² of the Fisher's "
        "eigenvalues λ."
    ),
    "reliability": (
        "The share of a signature's squared length that is not noise of its sample: near 1 with "
        "enough positions."
    ),
    "debiased": (
        "Without the pairs of a sample with itself, which draw cosines of small samples towards 0."
    ),
    "best": "The probability that of all true scores this one is the largest.",
    "residual": "The share of the target's Fisher that no mixture of the sources expresses.",
    "regret": "What the chosen source gained less than the best one would have, in nats a token.",
    # How sure
    "interval": (
        "A 95 % interval: from resampled documents, or from the errors of sketch and sample; "
        "none where there is one document."
    ),
    "n": "How many units a figure rests on.",
    "pp": "Percentage points: the difference of two shares.",
}
"""Term to one sentence; a term is written as pages write it in the middle of a sentence."""
