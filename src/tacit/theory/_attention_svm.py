"""Transformers as Support Vector Machines (Ataee Tarzanagh, Li, Thrampoulidis & Oymak, 2023)."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls
from torch import Tensor, nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Trial, claim
from tacit.errors import expect, unknown

NORMS = ("fro", "nuc")
TINY = 1e-300
Floats = NDArray[np.float64]


@system("attention-svm", paper="arXiv:2308.16898", modality="any", kind="function")
def attention_svm(
    tokens: Tensor, queries: Tensor, selected: Tensor, *, norm: str = "fro", max_steps: int = 5_000, tol: float = 1e-7
) -> Tensor:
    """The key-query matrix of least norm that separates the selected token of each input from its other tokens.

        min |W|   such that   (x_i,sel - x_it)' W z_i >= 1   for all inputs i and t != sel          (Att-SVM)

    Gradient descent on a one-layer attention f(X) = v' X' softmax(X W z), with a decreasing loss, converges in
    direction to the solution of the Frobenius norm for the tokens that it selects, the best ones or locally best ones
    (theorems 2 to 4); with W = K Q' and vanishing regularisation to that of the nuclear norm (theorem 1).
    `train_attention` is that descent.

    Frobenius: an exact least-distance problem, solved as one of non-negative least squares (Lawson & Hanson, 1974).
    Nuclear: ADMM between singular value thresholding and the projection onto the constraints, which is a least-distance
    problem again, in the spans of the differences of tokens and of the queries, outside of which W is 0.

    Args:
        tokens: x, (n, T, d).
        queries: z, (n, d): what attends; a token of the input itself in self-attention.
        selected: (n,), number of the token to be selected of each input.
        norm: `fro` or `nuc`.
        max_steps, tol: of ADMM; it stops where both copies of W agree, and stand still, to `tol` of their norm.

    Returns:
        W, (d, d), float64; unlike its direction, its norm depends on the scale of the tokens.

    Raises:
        ArgumentError: shapes that do not fit, an unknown norm, or tokens that no W separates (more dimensions do:
            n (T - 1) generic constraints always can be met where d >= max(n, T - 1)).

    >>> tokens, queries = torch.eye(3)[None], torch.tensor([[2.0, 0.0, 0.0]])
    >>> attention_svm(tokens, queries, torch.tensor([1])).round(decimals=4)[:, 0].tolist()
    [-0.1667, 0.3333, -0.1667]
    """
    _check(tokens, queries)
    n, T, _ = tokens.shape
    ok = selected.shape == (n,) and bool(((selected >= 0) & (selected < T)).all())
    expect("selected", tuple(selected.shape), ok, f"{n} token numbers from 0 to {T - 1}")
    if norm not in NORMS:
        raise unknown("norm", norm, NORMS)
    x, z = tokens.double().numpy(), queries.double().numpy()
    sel = selected.numpy()
    others = np.arange(T) != sel[:, None]
    differences = (x[np.arange(n), sel][:, None] - x)[others]  # (n (T - 1), d)
    keys = np.repeat(z, T - 1, axis=0)
    left, right = _span(differences), _span(keys)
    constraints = np.einsum("ci,cj->cij", differences @ left, keys @ right).reshape(len(keys), -1)
    shape = (left.shape[1], right.shape[1])
    apart = bool(constraints.any(axis=1).all())  # no token is like the selected one
    found = _least_distance(constraints, np.ones(len(constraints))) if apart else None
    expect("selected", sel.tolist(), found is not None, "tokens that some W separates from the others",
           "take more dimensions, fewer inputs or fewer tokens")  # fmt: skip
    assert found is not None
    inner = found.reshape(shape) if norm == "fro" else _least_nuclear(constraints, found.reshape(shape), max_steps, tol)
    return torch.from_numpy(left @ inner @ right.T)


def train_attention(
    tokens: Tensor,
    queries: Tensor,
    scores: Tensor,
    *,
    factored: bool = False,
    steps: int = 5_000,
    lr: float = 0.1,
    init: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Normalised gradient descent on one attention layer with a fixed head: W after `steps`, for many draws at once.

        L(W) = mean_i log(1 + exp(-s_i' softmax(X_i W z_i))),     W <- W - lr grad L / |grad L|           (W-GD)
        and with W = K Q':   (K, Q) <- (K, Q) - lr grad / |grad|                                         (KQ-GD)

    Args:
        tokens: (..., n, T, d); leading dimensions are draws, each with a W of its own.
        queries: (..., n, d).
        scores: s_it = y_i v' x_it, (..., n, T): what the head makes of token t, times the label.
        factored: descend on square K and Q, which start at `init` times a normal draw; else on W, which starts so too.
        steps: of descent.
        lr: length of each step.
        init: 0 starts W at 0; K and Q need more, since 0 is a stationary point.
        generator: of the start.

    Returns:
        W, (..., d, d), float64; K Q' where factored. The token selected is `(tokens @ W @ z).argmax()`.

    >>> tokens, queries = torch.eye(3)[None], torch.tensor([[2.0, 0.0, 0.0]])
    >>> W = train_attention(tokens, queries, torch.tensor([[0.0, 1.0, 0.0]]), steps=200)
    >>> (W / W.norm())[:, 0].round(decimals=2).tolist()
    [-0.41, 0.82, -0.41]
    """
    _check(tokens, queries)
    expect("init", init, init > 0 or not factored, "above 0 for factored weights", "0 is a stationary point of them")
    x, z, s = tokens.double(), queries.double(), scores.double()
    shape = (*x.shape[:-3], x.shape[-1], x.shape[-1])
    count = 2 if factored else 1
    parts = [init * torch.randn(shape, generator=generator, dtype=torch.double) for _ in range(count)]
    for _ in range(steps):
        gradient = _gradient(x, z, s, parts[0] @ parts[1].mT if factored else parts[0])
        gradients = [gradient @ parts[1], gradient.mT @ parts[0]] if factored else [gradient]
        size = sum(g.square().sum((-2, -1), keepdim=True) for g in gradients)
        scale = lr / torch.as_tensor(size).sqrt().clamp(min=TINY)
        parts = [part - scale * g for part, g in zip(parts, gradients, strict=True)]
    return parts[0] @ parts[1].mT if factored else parts[0]


def attention_direction(model: nn.MultiheadAttention | Tensor) -> Tensor:
    """W / |W|_F of an attention layer, or of the matrix (..., d, d) itself: what the theorems speak of.

    Of `nn.MultiheadAttention` it is W = K Q' of each head, (heads, d_keys, d): x' W z is the product of the key of x
    and the query of z, without their biases.

    >>> attention_direction(nn.MultiheadAttention(8, 2)).norm(dim=(1, 2)).detach().round(decimals=4).tolist()
    [1.0, 1.0]
    """
    weights = _key_query_weights(model) if isinstance(model, nn.MultiheadAttention) else model
    return weights / weights.norm(dim=(-2, -1), keepdim=True)


def _key_query_weights(layer: nn.MultiheadAttention) -> Tensor:
    """K Q' of each head, (heads, d_keys, d)."""
    if layer.in_proj_weight is not None:
        q, k, _ = layer.in_proj_weight.chunk(3)
    else:
        q, k = layer.q_proj_weight, layer.k_proj_weight
    q, k = (weight.unflatten(0, (layer.num_heads, -1)) for weight in (q, k))
    return k.mT @ q


def selected_tokens(tokens: Tensor, queries: Tensor, weights: Tensor) -> Tensor:
    """The token to which most attention goes, (..., n)."""
    return _logits(tokens.double(), queries.double(), weights).argmax(-1)


def _logits(x: Tensor, z: Tensor, weights: Tensor) -> Tensor:
    """x_it' W z_i, (..., n, T)."""
    return (x @ (z @ weights.mT)[..., None])[..., 0]


def _gradient(x: Tensor, z: Tensor, s: Tensor, weights: Tensor) -> Tensor:
    """sum_i l'(f_i) X_i' (diag(a_i) - a_i a_i') s_i z_i', up to a factor for each W: only its direction is used.

    Soon all attention of an input goes to one token, and 1 - a underflows. So the others' attention is taken relative
    to the largest of theirs over all inputs, and the top token's share of the gradient as minus the sum of theirs.
    """
    log_a = _logits(x, z, weights).log_softmax(-1)
    top = log_a.argmax(-1, keepdim=True)
    rest = log_a.scatter(-1, top, -math.inf)
    advantage = s - s.gather(-1, top)
    excess = (rest.exp() * advantage).sum(-1, keepdim=True)  # f - s_top
    pull = (rest - rest.amax((-2, -1), keepdim=True)).exp() * (advantage - excess)
    pull = pull.scatter(-1, top, -pull.sum(-1, keepdim=True))
    slope = -torch.sigmoid(-excess - s.gather(-1, top))
    return ((slope * pull)[..., None, :] @ x)[..., 0, :].mT @ z


def _least_distance(constraints: Floats, bound: Floats) -> Floats | None:
    """The w of least norm with A w >= b, or None where there is none (Lawson & Hanson, chapter 23.4)."""
    scale = np.linalg.norm(constraints, axis=1)
    rows, bound = constraints / scale[:, None], bound / scale
    size = max(float(np.abs(bound).max()), TINY)
    system_ = np.vstack([rows.T, bound / size])
    target = np.zeros(len(system_))
    target[-1] = 1
    dual, _ = nnls(system_, target, maxiter=100 * len(bound))
    residual = target - system_ @ dual
    return size * -residual[:-1] / residual[-1] if residual[-1] > 1e-10 else None


def _least_nuclear(constraints: Floats, start: Floats, max_steps: int, tol: float) -> Floats:
    """ADMM from the Frobenius solution: C of low nuclear norm, Z that meets the constraints; in the end the same."""
    shrink = float(np.linalg.svd(start, compute_uv=False).mean())
    Z, price = start, np.zeros_like(start)
    for _ in range(max_steps):
        before = Z
        u, values, v = np.linalg.svd(Z - price, full_matrices=False)
        C = (u * np.maximum(values - shrink, 0)) @ v
        free = C + price
        move = _least_distance(constraints, 1 - constraints @ free.ravel())
        assert move is not None
        Z = free + move.reshape(start.shape)
        price = free - Z
        if max(np.linalg.norm(C - Z), np.linalg.norm(Z - before)) <= tol * np.linalg.norm(Z):
            break
    return Z


def _span(rows: Floats) -> Floats:
    """Orthonormal basis of the span of the rows, (d, rank)."""
    _, values, v = np.linalg.svd(rows, full_matrices=False)
    return v[values > values[0] * 1e-12].T


def _check(tokens: Tensor, queries: Tensor) -> None:
    ok = tokens.ndim >= 3 and tokens.shape[-2] >= 2 and queries.shape == (*tokens.shape[:-2], tokens.shape[-1])
    said = (tuple(tokens.shape), tuple(queries.shape))
    expect("tokens, queries", said, ok, "(..., n, T, d) with T of at least 2, and (..., n, d)")


def _draw(trial: Trial, count: int, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """`count` problems of 5 inputs with 6 tokens on the unit sphere, the first of which asks."""
    x = nn.functional.normalize(torch.randn(count, 5, 6, d, generator=trial.generator, dtype=torch.double), dim=-1)
    head = nn.functional.normalize(torch.randn(count, d, generator=trial.generator, dtype=torch.double), dim=-1)
    y = 2 * torch.randint(2, (count, 5, 1), generator=trial.generator) - 1
    return x, x[:, :, 0], y * (x @ head[:, None, :, None])[..., 0]


def _solutions(x: Tensor, z: Tensor, weights: Tensor, norm: str) -> Tensor:
    problems = zip(x, z, selected_tokens(x, z, weights), strict=True)
    return torch.stack([attention_svm(*problem, norm=norm) for problem in problems])


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (attention_direction(a) * attention_direction(b)).sum((-2, -1))


@claim(
    "gradient descent on W converges in direction to the Frobenius SVM of the tokens that it selects",
    reported="a theorem (2 to 4), for a decreasing loss, from a start near the direction or with many dimensions",
)
def descent_ends_at_the_svm(bench: Bench) -> Comparison:
    """Cosine of W after 5,000 normalised steps from 0 with the solution for the tokens selected: at least 0.98 in every
    one of 20 random problems a seed, whether these tokens are the best ones or not."""
    steps = bench.pick(smoke=300, small=5_000)

    def cosines(trial: Trial) -> tuple[Tensor, Tensor]:
        x, z, scores = _draw(trial, 20, 10)
        weights = train_attention(x, z, scores, steps=steps)
        return _cosine(weights, _solutions(x, z, weights, "fro")), torch.ones(20)

    return bench.equal(cosines, tolerance=0.02, setting=f"5 inputs of 6 tokens, d = 10; {steps} steps of length 0.1")


@claim(
    "gradient descent on K and Q ends nearer to the nuclear-norm SVM than to the Frobenius one",
    reported="a theorem (1) for the regularisation path; gradient descent is said to follow it in experiments",
)
def factors_prefer_the_nuclear_norm(bench: Bench) -> Comparison:
    """Mean cosine of K Q' with either solution for the tokens selected, over 20 random problems a seed; K and Q are
    square and start at 0.01 times a normal draw."""
    steps = bench.pick(smoke=300, small=5_000)

    def cosines(trial: Trial) -> list[float]:
        x, z, scores = _draw(trial, 20, 10)
        settings = {"steps": steps, "lr": 0.05, "init": 0.01}
        weights = train_attention(x, z, scores, factored=True, generator=trial.generator, **settings)
        return [float(_cosine(weights, _solutions(x, z, weights, norm)).mean()) for norm in ("nuc", "fro")]

    setting = f"5 inputs of 6 tokens, d = 10; {steps} steps of length 0.05"
    return bench.trials(cosines, baseline="the Frobenius solution", better_by=0.0, setting=setting)


@claim(
    "with more dimensions descent selects the best token of every input more often",
    reported="'over-parameterization catalyzes global convergence' (abstract)",
)
def dimensions_make_it_global(bench: Bench) -> Comparison:
    """Share of 100 random problems a seed in which the token selected is the best of its input in all 5 inputs."""
    steps = bench.pick(smoke=100, small=1_000)

    def share(trial: Trial, d: int) -> float:
        x, z, scores = _draw(trial, 100, d)
        weights = train_attention(x, z, scores, steps=steps)
        return float((selected_tokens(x, z, weights) == scores.argmax(-1)).all(-1).double().mean())

    setting = f"5 inputs of 6 tokens; {steps} steps of length 0.1 from 0"
    return bench.curve(share, over=[2, 4, 8, 16, 32], shape="rises", setting=setting)
