# Copyright (c) torchgeo-mapsr contributors. All rights reserved.
# Licensed under the MIT License.

"""The linear probe: multinomial logistic regression on the features of LR cells."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

#: Bias of a class that no cell has: it is never predicted.
ABSENT = -1e4

#: L2 strengths that are tried, for features of unit variance divided by sqrt(D).
STRENGTHS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)

#: Cells that choosing a strength looks at, at most: three thousand and six thousand of
#: 20 000 cells choose the same one.
MAX_HELD_OUT = 3000

#: Cells that the probes of denoising are fitted to, at most; all are predicted.
MAX_FITTED = 6000

#: Parts of the cells that are held out in turn.
FOLDS = 5

# Coefficients of a fit are this near to those of the converged solution. Held-out
# losses need less: at HELD_OUT, of the length of the weights where that is above 1,
# they differ by less than a hundredth, and the same strength is chosen.
CONVERGED, HELD_OUT = 2e-5, 5e-2

# A strength whose loss is by this share worse than the best ends the search: what is
# nearer to it may be chance, and the next may be better again.
WORSE = 0.01

# How near single precision comes to a solution that double precision then finishes.
SINGLE = 1e-3

# Cells that are looked at in double precision at once.
_PART = 1024

# Pairs of steps and gradients that L-BFGS remembers.
MEMORY = 12

# Steps of L-BFGS with what they changed in the gradient, and 1 / (their product).
Memory = list[tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Class scores W x + b.

    Args:
        weight: (C, D).
        bias: (C,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Scores of feature vectors.

        Args:
            features: (…, D).

        Returns:
            (…, C) logits.
        """
        return features @ self.weight.T + self.bias

    def unscale(self, mean: Tensor, scale: Tensor) -> 'LinearProbe':
        """The same scores, of features that are not standardised.

        W ((x - m) / s) + b = (W / s) x + (b - (W / s) m).

        Args:
            mean: Means m of the features, (D,).
            scale: Their deviations s, (D,).

        Returns:
            A probe for x.
        """
        weight = self.weight / scale
        return LinearProbe(weight, self.bias - weight @ mean)

    def to(self, target: torch.device | torch.dtype | str) -> 'LinearProbe':
        """The same on another device or in another precision.

        Args:
            target: A device or a floating point type.
        """
        return LinearProbe(self.weight.to(target), self.bias.to(target))


def class_factors(count: Tensor, balance: float, kind: str = 'power') -> Tensor:
    r"""What a cell of each class weighs.

    * ``power``: (number of cells of the class) ** -balance
    * ``log``: W = 1 / log(1 + r) of the class's share r (Dong et al. 2023, eq. 3).
      Between 1 / r for rare classes and 1.44 for the only one, it balances classes
      nearly fully

    Args:
        count: Cells of each class, which may be fractions, (C,).
        balance: 0 for equal weights of cells, 1 for equal weights of classes.
        kind: ``power`` or ``log``.

    Returns:
        (C,) float64.
    """
    total, count = count.sum(), count.double().clamp(min=1)
    return 1 / (count / total).log1p() if kind == 'log' else count**-balance


def class_weights(
    label: Tensor, classes: int, balance: float, kind: str = 'power'
) -> Tensor:
    """Weight of each cell by its class, of sum 1.

    Args:
        label: Class of each cell, (n,), or shares of the classes, (n, C).
        classes: Number of classes.
        balance: See :func:`class_factors`, as the next.
        kind: ``power`` or ``log``.

    Returns:
        (n,) float64.
    """
    if label.dim() == 2:
        weight = label @ class_factors(label.sum(0), balance, kind)
    else:
        count = torch.bincount(label, minlength=classes)
        weight = class_factors(count, balance, kind)[label]
    return weight / weight.sum()


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a probe says of cells that it was not fitted to.

    Args:
        index: The cells, (m,), of all that there are.
        log_probability: Of the classes of each of them, (m, C).
        l2: The L2 strength that was best.
        loss: Its weighted negative log-likelihood.
        losses: That of each strength that was tried.
        theta: The probes of all folds in the cells' space, where other fits begin.
    """

    index: Tensor
    log_probability: Tensor
    l2: float
    loss: float
    losses: dict[float, float]
    theta: Tensor


@dataclass(frozen=True, eq=False)
class CellSpace:
    r"""Cells along the principal axes of their features, for any number of fits.

    The penalised solution is a combination of the cells' features: with fewer cells
    than features it need not be looked for elsewhere (the dual view), and a fit to some
    of the cells lies in the same space. So one decomposition serves all folds, all
    strengths and all rounds of denoising. Along these axes the problem is nearly
    diagonal, which is what makes L-BFGS take tens of steps and not hundreds.

    Args:
        x: Coordinates of the cells, and a one for the bias, (n, k + 1) in the precision
            of the features, k the lesser of n and D.
        basis: Orthonormal axes, (k, D) float64.
    """

    x: Tensor
    basis: Tensor

    @classmethod
    def of(cls, features: Tensor) -> 'CellSpace':
        """Find the axes.

        Args:
            features: Standardised features of the cells, (n, D).
        """
        (n, dims), dtype = features.shape, features.dtype
        if n < dims:
            features = features.double()
            # Of the n x n Gram matrix: an SVD takes four times as long.
            values, vectors = torch.linalg.eigh(features @ features.T)
            # What is less is rounding, and the penalty keeps its weight at zero.
            real = values > 1e-10 * values[-1].clamp(min=1e-300)
            length = values[real].sqrt()
            basis = (vectors[:, real] / length).T @ features
            x = F.pad(vectors[:, real] * length, (0, 1), value=1)
            return cls(x.to(dtype), basis)
        gram = torch.zeros(dims, dims, dtype=torch.float64)
        # A copy of all in double precision would be most of what a fit takes.
        for part in features.split(_PART):
            part = part.double()
            gram += part.T @ part
        _, vectors = torch.linalg.eigh(gram)
        x = torch.ones(n, dims + 1, dtype=dtype)
        for part, place in zip(features.split(_PART), x.split(_PART), strict=True):
            place[:, :-1] = part.double() @ vectors
        return cls(x, vectors.T.contiguous())

    def __len__(self) -> int:
        """Number of cells."""
        return len(self.x)

    @property
    def dimensions(self) -> int:
        """Number of features, D."""
        return self.basis.shape[1]

    def fit(
        self,
        label: Tensor,
        classes: int,
        l2: float,
        weight: Tensor | None = None,
        precise: bool = True,
        start: Tensor | None = None,
    ) -> LinearProbe:
        """Fit a probe; see :func:`fit_probe`, which has the other arguments.

        Args:
            label: Class of each cell, (n,), or shares of the classes, (n, C).
            classes: Number of classes, C.
            l2: L2 strength.
            weight: Weight of each cell, of sum 1; equal ones by default.
            precise: Whether coefficients are to be those of the converged solution; or
                near enough for probabilities, in single precision.
            start: Probes of folds, from :class:`HeldOut`: the search begins at their
                mean.

        Returns:
            The probe, in double precision.
        """
        target = one_hot(label, classes)
        if weight is None:
            weight = torch.full((len(self),), 1 / len(self))
        penalty = l2 * self.dimensions
        weight = weight[None].double()
        if start is not None:
            start = start.float().mean(0, keepdim=True)
        # Most of the way in single precision, which takes half the time.
        single = self.x.float(), target.float(), weight.float(), penalty
        memory: Memory = []
        theta = minimise(*single, SINGLE if precise else HELD_OUT, start, memory)
        theta = theta.double()
        if precise:
            memory = [
                (step.double(), bend.double(), rho.double())
                for step, bend, rho in memory
            ]
            exact = self.x.double(), target, weight, penalty
            theta = minimise(*exact, CONVERGED, theta, memory)
        theta = theta[0]
        bias = torch.where(target.sum(0) > 0, theta[:, -1], ABSENT)
        return LinearProbe(theta[:, :-1] @ self.basis, bias)

    def hold_out(
        self,
        label: Tensor,
        classes: int,
        fold: Tensor,
        weight: Tensor,
        strengths: Sequence[float],
        start: Tensor | None = None,
        limit: int | None = None,
        seed: int = 0,
    ) -> 'HeldOut':
        """Choose the L2 strength by cells that the probe was not fitted to.

        All folds are solved in one batch, and from strong to weak: each solution is
        where the next search begins. It ends where one strength was clearly worse than
        the best, or two in a row were: weaker ones overfit more, and take longest.

        Args:
            label: Class of each cell, (n,), or shares of the classes, (n, C).
            classes: Number of classes, C.
            fold: Part that each cell is held out with, (n,) from 0.
            weight: Weight of each cell, in the fits and in the loss, (n,).
            strengths: L2 strengths to choose from.
            start: Where to begin, from :class:`HeldOut`.
            limit: Cells that the probes are fitted to, at most; each probe says
                something of all cells of its fold.
            seed: Seed of the choice of these.

        Returns:
            The best strength, and what its probes said.
        """
        target = one_hot(label, classes)
        folds = int(fold.max()) + 1
        weight = weight.double() / weight.double().sum()
        x = self.x.float()
        some: Tensor | slice = slice(None)
        if limit is not None and len(x) > limit:
            generator = torch.Generator().manual_seed(seed)
            some = torch.randperm(len(x), generator=generator)[:limit].sort().values
        share = weight[some] * (fold[some] != torch.arange(folds)[:, None])
        share = share / share.sum(1, keepdim=True)
        # A class that only the held-out cells have costs much, but not all.
        present = (share > 0).double() @ target[some] > 0
        single = x[some], target[some].float(), share.float()
        theta, best = start, None
        every_cell = torch.arange(len(x))
        losses: dict[float, float] = {}
        for l2 in sorted(strengths, reverse=True):
            length = 0.0
            if theta is not None:
                length = float(theta[..., :-1].flatten(1).norm(dim=1).min())
            near = HELD_OUT * max(length, 1.0)
            theta = minimise(*single, l2 * self.dimensions, near, theta)
            every = (x @ theta.flatten(0, 1).T).view(len(x), folds, classes)
            logits = every[every_cell, fold].double()
            logits = logits.masked_fill(~present[fold], ABSENT).clamp(min=-30)
            log_p = logits.log_softmax(1)
            losses[l2] = float(-(log_p * target).sum(1) @ weight)
            if best is None or losses[l2] < best.loss:
                best = HeldOut(every_cell, log_p.float(), l2, losses[l2], losses, theta)
            last = list(losses.values())[-2:]
            if min(last) > best.loss or last[-1] > best.loss + WORSE * abs(best.loss):
                break
        assert best is not None
        return best


def folds_of(block: Tensor, seed: int, folds: int = FOLDS) -> Tensor:
    """Parts that are held out in turn: whole blocks of cells.

    Neighbouring cells resemble each other, so that single ones would be no test.

    Args:
        block: Block of each cell, (n,).
        seed: Seed of the folds.
        folds: Number of parts; fewer if there are fewer blocks.

    Returns:
        (n,) int64 from 0.
    """
    blocks, place = block.unique(return_inverse=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(blocks), generator=generator)
    return (order % min(folds, len(blocks)))[place]


def choose_strength(
    space: CellSpace,
    label: Tensor,
    classes: int,
    fold: Tensor,
    weight: Tensor,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    limit: int = MAX_HELD_OUT,
) -> HeldOut:
    """Choose the L2 strength by cross-validation over a bounded number of cells.

    Args:
        space: The cells.
        label: Class of each, (n,).
        classes: Number of classes, C.
        fold: Part that each is held out with, (n,), from :func:`folds_of`.
        weight: Weight of each, in the fits and in the loss, (n,).
        strengths: L2 strengths to choose from.
        seed: Seed of the choice of cells.
        limit: Cells to look at, at most.

    Returns:
        The best strength, and what its probes said of the cells they did not see.
    """
    if len(space) <= limit:
        return space.hold_out(label, classes, fold, weight, strengths)
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(space), generator=generator)[:limit].sort().values
    part = CellSpace(space.x[some], space.basis)
    held = part.hold_out(label[some], classes, fold[some], weight[some], strengths)
    return replace(held, index=some)


def fit_probe(
    features: Tensor,
    label: Tensor,
    classes: int,
    l2: float,
    weight: Tensor | None = None,
) -> LinearProbe:
    r"""Solve the convex problem, in double precision.

    .. math::
        \min_{W, b} -\sum_i w_i \sum_c y_{ic} \log \mathrm{softmax}(W x_i + b)_c
        + \tfrac{\lambda D}{2} \|W\|^2

    The features of a cell are the mean of those of its pixels, and the probe is
    linear: W (R F) = R (U (F W^T)), the mean of the pixels' scores (Workman et al.
    2023, §4.3). The penalty grows with D, so that a strength means the same for any
    number of features.

    Args:
        features: Standardised features of cells, (n, D).
        label: Class of each, (n,), or shares y of the classes, (n, C).
        classes: Number of classes, C. One without a cell is never predicted.
        l2: λ.
        weight: Weight of each cell, of sum 1; equal ones by default.

    Returns:
        The probe.
    """
    return CellSpace.of(features).fit(label, classes, l2, weight).to(features.dtype)


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Shares of the classes, (n, C) float64.

    Args:
        label: Class of each cell, (n,) integers, or the shares themselves.
        classes: Number of classes, C.
    """
    if label.dim() == 2:
        return label.double()
    return F.one_hot(label, classes).double()


def minimise(
    x: Tensor,
    target: Tensor,
    weight: Tensor,
    penalty: float,
    tolerance: float,
    start: Tensor | None = None,
    memory: Memory | None = None,
    iterations: int = 1000,
) -> Tensor:
    r"""Solve some penalised logistic regressions on the same cells at once.

    .. math::
        \min_{W, b} -\sum_i w_i \sum_c y_{ic} \log \mathrm{softmax}(W x_i + b)_c
        + \tfrac{\rho}{2} \|W\|^2

    L-BFGS from the inverse of (an upper bound of) the curvature along each axis
    (Böhning 1992). Logits change linearly along a step, Z + a dZ, so that its length
    is found without another product with the cells: one product gives dZ and one the
    gradient.

    As the loss is convex and the penalty's curvature is ρ, |gradient| / ρ bounds the
    distance of the weights to the solution: that is when it stops.

    Args:
        x: Cells, (n, k + 1), of which the last column is 1.
        target: Shares of the classes, (n, C).
        weight: Weight of each cell in each problem, (F, n), of sum 1.
        penalty: ρ.
        tolerance: Bound of the distance.
        start: Where to begin, (F, C, k + 1).
        memory: What L-BFGS has learnt before; it is brought up to date.
        iterations: At most.

    Returns:
        Weights and, in the last column, biases, (F, C, k + 1).
    """
    (n, dims), classes, problems = x.shape, target.shape[1], len(weight)
    # Cells come last: with the few classes last, a softmax took twelve times as long
    # (14 000 cells of 15 codes in five folds: 1.6 ms, 0.13 ms).
    w, target = weight.to(x)[:, None], target.to(x).T.contiguous()
    ridge = torch.full((dims,), penalty).to(x)
    ridge[-1] = 0
    # Of the softmax, diag(p) - p pᵀ is at most 1/2 and, of an axis, 1/4.
    curvature = (ridge + weight.to(x) @ x.square() / 4).clamp(min=1e-12)[:, None]
    theta = x.new_zeros(problems, classes, dims) if start is None else start.clone()

    def product(matrix: Tensor) -> Tensor:
        return (matrix.view(-1, dims) @ x.T).view(problems, classes, n)

    def gradient(logits: Tensor) -> Tensor:
        residual = (logits.softmax(1) - target) * w
        data = residual.view(-1, n) @ x
        return data.view(problems, classes, dims) + ridge * theta

    logits = product(theta)
    slope = gradient(logits)
    bound = tolerance * max(penalty, 1e-9)
    if x.dtype == torch.float32:
        # Gradients have no more digits.
        bound = max(bound, 1e-6)
    steps = [] if memory is None else memory
    for _ in range(iterations):
        going = slope.flatten(1).norm(dim=1) > bound
        if not going.any():
            break
        direction = _direction(slope, curvature, steps)
        direction = torch.where(going[:, None, None], direction, 0)
        change = product(direction)
        length = _step(logits, change, target, w, theta, direction, ridge)
        step = length[:, None, None] * direction
        theta = theta + step
        logits = torch.addcmul(logits, length[:, None, None], change)
        before, slope = slope, gradient(logits)
        bend = slope - before
        inner = (step * bend).sum((1, 2))
        rho = torch.where(inner > 0, 1 / inner.clamp(min=1e-300), 0)
        if x.dtype == torch.float32:
            rho = torch.where(inner > 1e-30, 1 / inner.clamp(min=1e-30), 0)
        steps.append((step, bend, rho))
        del steps[:-MEMORY]
    return theta


def _direction(slope: Tensor, curvature: Tensor, steps: Memory) -> Tensor:
    """Direction of descent: the two loops of L-BFGS, of each problem."""
    q, factors = slope, []
    for step, bend, rho in reversed(steps):
        factor = rho * (step * q).sum((1, 2))
        factors.append(factor)
        q = q - factor[:, None, None] * bend
    q = q / curvature
    if steps:
        step, bend, rho = steps[-1]
        # How much less the curvature is than its bound.
        scaled = (bend.square() / curvature).sum((1, 2))
        scale = torch.where(
            rho > 0, 1 / (rho * scaled).clamp(min=1e-30), torch.ones_like(rho)
        )
        q = q * scale[:, None, None]
    for (step, bend, rho), factor in zip(steps, reversed(factors), strict=True):
        back = rho * (bend * q).sum((1, 2))
        q = q + (factor - back)[:, None, None] * step
    return -q


def _step(
    logits: Tensor,
    change: Tensor,
    target: Tensor,
    w: Tensor,
    theta: Tensor,
    direction: Tensor,
    ridge: Tensor,
) -> Tensor:
    """Length of the step of each problem, by Newton's method on a convex line."""
    # Loss along the line: a (fixed) + a² (ridge) / 2 + Σ w logsumexp(Z + a dZ).
    fixed = (ridge * theta * direction).sum((1, 2))
    fixed = fixed - (w * target * change).sum((1, 2))
    bend = (ridge * direction.square()).sum((1, 2))
    length, low = torch.ones_like(bend), torch.zeros_like(bend)
    high = torch.full_like(bend, torch.inf)
    begin = None
    for _ in range(20):
        p = torch.addcmul(logits, length[:, None, None], change).softmax(1)
        moved = p * change
        first = moved.sum(1)
        second = torch.addcmul((moved * change).sum(1), first, first, value=-1)
        d1 = fixed + length * bend + (w[:, 0] * first).sum(1)
        d2 = bend + (w[:, 0] * second).sum(1)
        if begin is None:
            begin = d1.abs() + d2.abs()
        low, high = torch.where(d1 < 0, length, low), torch.where(d1 < 0, high, length)
        # A problem does not depend on those beside it.
        converged = d1.abs() <= 0.1 * begin
        if bool(converged.all()):
            break
        newton = length - d1 / d2.clamp(min=1e-30)
        middle = torch.where(high.isinf(), 4 * length, (low + high) / 2)
        inside = (newton > low) & (newton < high) & (newton < 10 * length)
        length = torch.where(converged, length, torch.where(inside, newton, middle))
    return torch.where(bend > 0, length, 0)
