"""The abnormality gate: one more head that says whether a radiograph holds any finding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from mmengine.model import BaseModule, bias_init_with_prob, kaiming_init, normal_init
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, relu

from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.gate_rule import GateRule, ScoreMode

if TYPE_CHECKING:
    from collections.abc import Sequence

Features = tuple[Tensor, ...]

_MARGIN = 0.01


class AbnormalityGate(BaseModule):
    """Evidence at each place of feature maps → log-mean-exp over a map, summed over maps → the logit of "a finding".

    A finding is a few places of many. Two layers that look at one place at a time say how much it speaks for one, and
    log-mean-exp pooling (Pinheiro & Collobert, arXiv 1411.6228; Wang et al., arXiv 1705.02315), which lies between the
    mean and the maximum, lets the places that say most decide. Averages and maxima of whole maps' channels had learned
    nothing from random weights when this had an AUC of 0.97 (phantoms, 1400 iterations, the same features).

    Args:
        channels: of each feature map of the source, the finest first.
        source: ``neck`` or ``backbone``: whose features.
        levels: which of its maps, by place; all by default.
        hidden: width between the two layers.
        sharpness: of the pooling; towards 0 it is the mean over the places, with growing sharpness their maximum.
        detach: whether the gate only reads the features. Then the detector learns what it would without a gate;
            otherwise its features also learn to tell normal from abnormal, at the expense of the boxes.
        loss_weight: of the binary cross entropy among the detector's losses.
        pos_weight: how much more an abnormal study counts than a normal one. Any other value than 1 moves p_abnormal
            away from the share of abnormal studies among those that look alike.
        score_mode: see :class:`ScoreMode`.
        cut: see :class:`GateRule`.

    Raises:
        ConfigError: an unknown source, level or mode, or a number that cannot be.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        source: str = "neck",
        levels: Sequence[int] | None = None,
        hidden: int = 64,
        sharpness: float = 4.0,
        detach: bool = False,
        loss_weight: float = 1.0,
        pos_weight: float = 1.0,
        score_mode: str = ScoreMode.leave.value,
        cut: float = 0.1,
    ) -> None:
        super().__init__()
        self.source = source
        self.levels = tuple(range(len(channels)) if levels is None else levels)
        if not self.levels or not set(self.levels) <= set(range(len(channels))):
            raise ConfigError(f"the gate's levels are {list(self.levels)}; the {source} has 0…{len(channels) - 1}.")
        for name, value in {"hidden": hidden, "sharpness": sharpness, "pos_weight": pos_weight}.items():
            if value <= 0:
                raise ConfigError(f"the gate's {name} is {value:g}; give a number above 0.")
        self.sharpness, self.detach = sharpness, detach
        self.loss_weight, self.pos_weight = loss_weight, pos_weight
        self.rule = GateRule.of(score_mode, cut)
        self.prior = 0.5
        """The share of abnormal studies in training, which an untrained gate answers."""
        self.hidden = nn.ModuleList(nn.Conv2d(channels[level], hidden, 1) for level in self.levels)
        self.evidence = nn.ModuleList(nn.Conv2d(hidden, 1, 1, bias=False) for _ in self.levels)
        self.bias = nn.Parameter(torch.zeros(1))

    def init_weights(self) -> None:
        """Start at the prior, with small weights."""
        for hidden, evidence in zip(self.hidden, self.evidence, strict=True):
            kaiming_init(hidden, mode="fan_in", distribution="uniform")
            normal_init(evidence, std=0.01)
        nn.init.constant_(self.bias, bias_init_with_prob(min(max(self.prior, _MARGIN), 1 - _MARGIN)))

    def forward(self, stages: Features, pyramid: Features) -> Tensor:
        """Return (N,) logits.

        Args:
            stages: the backbone's maps (N, C, H, W).
            pyramid: the neck's.
        """
        features = pyramid if self.source == "neck" else stages
        logits: Tensor = self.bias
        for level, hidden, evidence in zip(self.levels, self.hidden, self.evidence, strict=True):
            seen = features[level].detach() if self.detach else features[level]
            logits = logits + self._pool(evidence(relu(hidden(seen))).float())
        return logits

    def _pool(self, evidence: Tensor) -> Tensor:
        """Return the log-mean-exp (N,) of maps (N, 1, H, W), however large they are."""
        peak = evidence.amax(dim=(2, 3), keepdim=True)
        mean = torch.exp(self.sharpness * (evidence - peak)).mean(dim=(2, 3), keepdim=True)
        return (peak + mean.log() / self.sharpness).flatten()

    def loss(self, logits: Tensor, samples: Sequence[Any]) -> Tensor:
        """Return the mean cross entropy, weighted.

        Virtual copies (``virtual_copy`` in the meta information) are left out: only abnormal studies have any, and some
        are mirrored or turned. A gate that saw them would take abnormal studies for more frequent than they are, and
        would learn that mirrored means abnormal.
        """
        logits = logits.float()
        labels = logits.new_tensor([is_abnormal(sample) for sample in samples])
        counts = logits.new_tensor([not sample.metainfo.get("virtual_copy", False) for sample in samples])
        losses = binary_cross_entropy_with_logits(
            logits, labels, reduction="none", pos_weight=logits.new_tensor(self.pos_weight)
        )
        return self.loss_weight * (losses * counts).sum() / counts.sum().clamp(min=1)


def is_abnormal(sample: Any) -> bool:
    """Return whether a training sample holds any finding, be it one that the detector ignores."""
    return len(sample.gt_instances) > 0 or len(sample.get("ignored_instances", ())) > 0
