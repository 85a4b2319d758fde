"""Options that algorithms share: each type brings its bounds and the line that documents it.

class MyConfig(az.AlgorithmConfig):
    gamma: options.Gamma = 1.0
    group_size: options.Groups = 8
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

LearningRate = Annotated[float, Field(gt=0, description="peak learning rate of the policy")]
ValueLearningRate = Annotated[
    Annotated[float, Field(gt=0)] | Literal["auto"] | None,
    Field(
        description="peak learning rate of the value head; auto is 0.64 over the width of the "
        "hidden states, none is learning_rate"
    ),
]
NumEpochs = Annotated[int, Field(gt=0, description="passes over each rollout")]
KLCoef = Annotated[float, Field(ge=0, description="weight of the KL penalty to the reference")]
KLEstimator = Annotated[
    Literal["k1", "k2", "k3", "k3_plus", "abs"],
    Field(description="of the KL in the loss; k2 has the gradient of KL(policy || reference)"),
]
KLIn = Annotated[
    Literal["reward", "loss", "none"],
    Field(
        description="where the KL penalty acts: each token's reward, the loss, or nowhere "
        "(no reference is kept)"
    ),
]
Gamma = Annotated[float, Field(ge=0, le=1, description="discount per token")]
GAELambda = Annotated[float, Field(ge=0, le=1, description="decay of GAE; 1 is Monte Carlo")]
ClipRange = Annotated[float, Field(gt=0, description="how far below 1 the ratio is followed")]
ClipRangeHigh = Annotated[
    float | None, Field(gt=0, description="how far above 1; default clip_range")
]
ClipRangeVF = Annotated[
    float | None,
    Field(gt=0, description="how far the value may move in one update; default unbounded"),
]
Aggregate = Annotated[
    Literal["token_mean", "sequence_mean"],
    Field(description="every token weighs the same, or every response does"),
]
Whiten = Annotated[
    Literal["none", "center", "full"],
    Field(description="over the batch: nothing, subtract the mean, or also divide"),
]
VfCoef = Annotated[float, Field(ge=0, description="weight of the value loss")]
DetachValues = Annotated[bool, Field(description="the value loss stops at the hidden states")]
BootstrapTruncated = Annotated[
    bool, Field(description="responses cut by the limit go on in V instead of ending")
]
EntCoef = Annotated[float, Field(ge=0, description="weight of the entropy bonus")]
TargetKL = Annotated[
    float | None,
    Field(gt=0, description="an update ends before a step where approx_kl exceeds 1.5 times it"),
]
# Of either sign, and far from where sums of scores lose their digits.
Score = Annotated[float, Field(ge=-1e6, le=1e6, description="score of such a response")]
GroupSize = Annotated[int, Field(gt=0, description="responses per prompt")]
Groups = Annotated[
    int, Field(ge=2, description="responses per prompt, which are compared with each other")
]
