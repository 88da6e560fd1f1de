"""The abnormality gate: one more head that says whether a radiograph holds any finding."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import all_gather
from mmengine.model import BaseModule, bias_init_with_prob, kaiming_init, normal_init
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, relu, softplus
from torch.optim import LBFGS

from cxr_mmdet.errors import ConfigError
from cxr_mmdet.models.gate_rule import GateRule, ScoreMode

if TYPE_CHECKING:
    from collections.abc import Sequence

Features = tuple[Tensor, ...]

_MARGIN = 0.01
_FIRST_SCALE, _LEAST = 4.0, 1e-4
_FEWEST, _FIT_STEPS, _INERTIA = 8, 50, 1e-4


class AbnormalityGate(BaseModule, ABC):
    """One logit an image, learned from "does this study hold any finding", and what becomes of the boxes by it.

    Args:
        loss_weight: of the binary cross entropy among the detector's losses.
        pos_weight: how much more an abnormal study counts than a normal one. Any other value than 1 moves p_abnormal
            away from the share of abnormal studies among those that look alike.
        score_mode: see :class:`ScoreMode`.
        cut: see :class:`GateRule`.
        exponent: see :class:`GateRule`.

    Raises:
        ConfigError: an unknown mode, or a number that cannot be.
    """

    reads_scores = False
    """Whether it reads the head's scores; otherwise features, before there is a head."""

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        pos_weight: float = 1.0,
        score_mode: str = ScoreMode.leave.value,
        cut: float = 0.1,
        exponent: float = 1.0,
    ) -> None:
        super().__init__()
        _check_positive(pos_weight=pos_weight)
        self.loss_weight, self.pos_weight = loss_weight, pos_weight
        self.rule = GateRule.of(score_mode, cut, exponent)
        self.prior = 0.5
        """The share of abnormal studies in training, which an untrained gate answers."""

    @abstractmethod
    def forward(self, stages: Features, pyramid: Features, scores: Sequence[Tensor]) -> Tensor:
        """Return (N,) logits.

        Args:
            stages: the backbone's maps (N, C, H, W).
            pyramid: the neck's.
            scores: a dense head's logits of the classes, (N, A * K, H, W) a level; empty where they are not read.
        """

    @property
    def _safe_prior(self) -> float:
        return min(max(self.prior, _MARGIN), 1 - _MARGIN)

    def loss(self, logits: Tensor, samples: Sequence[Any]) -> Tensor:
        """Return the mean cross entropy, weighted.

        Virtual copies (``virtual_copy`` in the meta information) are left out: only abnormal studies have any, and some
        are mirrored or turned. A gate that saw them would take abnormal studies for more frequent than they are, and
        would learn that mirrored means abnormal. Images without a box that hold regions to ignore, or that were not
        looked through for all classes (``undecided``), are left out as well: nobody knows whether they are normal.
        """
        logits = logits.float()
        labels, counts = _labels(logits, samples)
        losses = binary_cross_entropy_with_logits(
            logits, labels, reduction="none", pos_weight=logits.new_tensor(self.pos_weight)
        )
        return self.loss_weight * (losses * counts).sum() / counts.sum().clamp(min=1)


class FeatureGate(AbnormalityGate):
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
        options: of :class:`AbnormalityGate`.

    Raises:
        ConfigError: an unknown level or mode, or a number that cannot be.
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
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.source = source
        self.levels = tuple(range(len(channels)) if levels is None else levels)
        if not self.levels or not set(self.levels) <= set(range(len(channels))):
            raise ConfigError(f"the gate's levels are {list(self.levels)}; the {source} has 0…{len(channels) - 1}.")
        _check_positive(hidden=hidden, sharpness=sharpness)
        self.sharpness, self.detach = sharpness, detach
        self.hidden = nn.ModuleList(nn.Conv2d(channels[level], hidden, 1) for level in self.levels)
        self.evidence = nn.ModuleList(nn.Conv2d(hidden, 1, 1, bias=False) for _ in self.levels)
        self.bias = nn.Parameter(torch.zeros(1))

    def init_weights(self) -> None:
        """Start at the prior, with small weights."""
        for hidden, evidence in zip(self.hidden, self.evidence, strict=True):
            kaiming_init(hidden, mode="fan_in", distribution="uniform")
            normal_init(evidence, std=0.01)
        nn.init.constant_(self.bias, bias_init_with_prob(self._safe_prior))

    def forward(self, stages: Features, pyramid: Features, scores: Sequence[Tensor] = ()) -> Tensor:
        """See :class:`AbnormalityGate`."""
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


class ScoreGate(AbnormalityGate):
    """A leaky noisy-or of the classes' highest scores: every class may be the reason why a study is abnormal.

    1 - p = exp(-leak) · Π (1 - p_c), where -log(1 - p_c) = softplus(scale · s_c + bias_c) and s_c is the highest logit
    of class c in the image. The highest score of all classes, which a detector without a gate goes by, lets one class
    decide alone and takes a 0.3 of a class that is often wrong for a 0.3 of one that never is.

    Its K + 2 numbers are no parameters of the detector's optimizer: every few iterations they are fitted anew, by
    L-BFGS, to the scores of the last images trained on. So they keep up with the detector whatever its optimizer and
    learning rate, and the detector learns to the bit what it would without a gate.

    Normal and abnormal studies weigh in the fit by their shares of the training data, however often they are drawn.

    Args:
        classes: K, of the detector.
        boxes_from: ``all`` studies, or the ``abnormal`` ones alone. Then the detector learns nothing from normal
            studies, which only the gate sees, as the winners of the competition had it with two networks.
        memory: to how many of the last images of each process it is fitted.
        interval: iterations from fit to fit.
        options: of :class:`AbnormalityGate`.

    Raises:
        ConfigError: an unknown mode, or a number that cannot be.
    """

    reads_scores = True
    numbers: Tensor
    highest: Tensor
    weights: Tensor
    steps: Tensor

    def __init__(
        self, classes: int, *, boxes_from: str = "all", memory: int = 1024, interval: int = 20, **options: Any
    ) -> None:
        super().__init__(**options)
        _check_positive(memory=memory, interval=interval)
        if boxes_from not in ("all", "abnormal"):
            raise ConfigError(f"the gate's boxes_from is {boxes_from!r}; choose all or abnormal.")
        self.boxes_from = boxes_from
        self._seen: deque[Tensor] = deque(maxlen=2)
        """Highest logits of the step that is under way, in at most two parts: abnormal and normal studies."""
        self.classes, self.interval = classes, interval
        self.register_buffer("numbers", torch.zeros(classes + 2))
        """The biases, the scale's logarithm, and the leak's inverse softplus."""
        self.register_buffer("highest", torch.zeros(memory, classes))
        self.register_buffer("weights", torch.zeros(memory, 2))
        """1 and 0 for a normal image, 0 and 1 for an abnormal one, 0 and 0 for one left out and where none is yet."""
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def init_weights(self) -> None:
        """Start at the prior: scores of an untrained detector say nothing."""
        nn.init.zeros_(self.numbers)
        self.numbers[-2] = math.log(_FIRST_SCALE)
        self.numbers[-1] = math.log(1 / (1 - self._safe_prior) - 1)  # its softplus is -log(1 - prior)

    def forward(self, stages: Features, pyramid: Features, scores: Sequence[Tensor]) -> Tensor:
        """See :class:`AbnormalityGate`."""
        highest = torch.stack([self._highest(level) for level in scores]).amax(dim=0)
        if self.training:
            self._seen.append(highest)
        return _noisy_or(highest, self.numbers.float())

    def loss(self, logits: Tensor, samples: Sequence[Any]) -> Tensor:
        """Return the loss of the numbers as they are, without a gradient; remember the images, and fit now and then."""
        value = super().loss(logits, samples)
        abnormal, counts = _labels(logits, samples)
        seen = torch.cat(list(self._seen))[-len(samples) :]
        self._remember(seen, torch.stack([(1 - abnormal) * counts, abnormal * counts], dim=1))
        if int(self.steps) % self.interval == 0:
            self._fit()
        return value

    def _highest(self, level: Tensor) -> Tensor:
        """Return the highest logits (N, K) of a level (N, A * K, H, W)."""
        anchors = level.detach().float().flatten(2).amax(dim=2)
        return anchors.reshape(-1, level.shape[1] // self.classes, self.classes).amax(dim=1)

    @torch.no_grad()
    def _remember(self, highest: Tensor, weights: Tensor) -> None:
        """Put images in the places of those seen longest ago."""
        for memory, new in ((self.highest, highest), (self.weights, weights)):
            memory.copy_(torch.cat([memory, new.to(memory.dtype)])[-len(memory) :])
        self.steps += 1

    def _fit(self) -> None:
        """Fit the numbers to what all processes remember, which gives all of them the same."""
        highest, weights = (torch.cat(all_gather(part)).double() for part in (self.highest, self.weights))
        drawn = weights.sum(dim=0)
        if (drawn < _FEWEST).any():
            return
        weights = weights * drawn.new_tensor([1 - self._safe_prior, self._safe_prior * self.pos_weight]) / drawn
        numbers = self.numbers.double().requires_grad_()
        first = numbers.detach().clone()
        optimizer = LBFGS([numbers], max_iter=_FIT_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            logits = _noisy_or(highest, numbers)
            entropy = (weights * torch.stack([softplus(logits), softplus(-logits)], dim=1)).sum() / weights.sum()
            # What the images leave open stays where it was: the scale and each bias of a class nobody has yet.
            value: Tensor = entropy + _INERTIA * (numbers - first).square().sum()
            value.backward()
            return value

        with torch.enable_grad(), torch.autocast(highest.device.type, enabled=False):
            optimizer.step(loss)
        if numbers.isfinite().all():
            self.numbers.copy_(numbers.detach())


def _noisy_or(highest: Tensor, numbers: Tensor) -> Tensor:
    """Return the logits (N,) of a leaky noisy-or of (N, K) scores; see :class:`ScoreGate`."""
    bias, scale, leak = numbers[:-2], numbers[-2].exp(), numbers[-1]
    total = (softplus(scale * highest + bias).sum(dim=1) + softplus(leak)).clamp(min=_LEAST)
    return total + torch.log(1 - torch.exp(-total))


def _labels(logits: Tensor, samples: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return (N,): 1 for each abnormal study, and 0 for each sample that does not count."""
    abnormal = logits.new_tensor([is_abnormal(sample) for sample in samples])
    left_out = [any(sample.metainfo.get(key, False) for key in ("virtual_copy", "undecided")) for sample in samples]
    return abnormal, 1 - logits.new_tensor(left_out)


def _check_positive(**options: float) -> None:
    for name, value in options.items():
        if value <= 0:
            raise ConfigError(f"the gate's {name} is {value:g}; give a number above 0.")


def is_abnormal(sample: Any) -> bool:
    """Return whether a training sample holds any finding, be it one that the detector ignores as it is cut off."""
    if sample.metainfo.get("undecided", False):
        return False
    return len(sample.gt_instances) > 0 or len(sample.get("ignored_instances", ())) > 0
