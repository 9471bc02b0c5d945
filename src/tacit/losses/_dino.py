"""Self-distillation: a student's distributions against its teacher's (DINO, 2021; iBOT, 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tacit.errors import expect, unknown


def dino_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], temperature: float = 0.1, *, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy between the teacher's distributions of some crops and the student's of all others:

        sum over teacher's crops i and student's crops j != i of  H(P_i, softmax(s_j / t)),   H(p, q) = -sum of p log q

    averaged over the items, and over the pairs (DINO, arXiv:2104.14294, eq. 3). It takes one product of summed
    distributions, not one for each pair.

    Args:
        student: logits s_j (n, k) of each crop, those that the teacher sees first and in its order.
        teacher: distributions P_i (n, k) of its crops, such as those of `nn.Centering`, without gradient.
        temperature: t, above 0.
        reduction: over pairs, `"mean"` or `"sum"`. DINO averages. DINOv2's loss class sums, but its training divides by
            the number of pairs, which comes to the same.

    Returns:
        A scalar in float32 (float64 if the logits are).

    Raises:
        ArgumentError: no pair of different crops, more teacher's crops than student's, shapes that differ, or a
            temperature not above 0.

    >>> alike = torch.full((4, 8), 1 / 8)
    >>> dino_loss([torch.zeros(4, 8)] * 3, [alike] * 2)  # log 8
    tensor(2.0794)
    """
    pairs = len(teacher) * (len(student) - 1)
    numbers = (len(student), len(teacher))
    expect(
        "student, teacher",
        numbers,
        pairs > 0 and len(teacher) <= len(student),
        "two crops or more, the teacher's among them",
    )
    shapes = {tuple(logits.shape) for logits in (*student, *teacher)}
    expect("shapes", sorted(shapes), len(shapes) == 1, "one shape (n, k)")
    expect("temperature", temperature, temperature > 0, "a number above 0")
    if reduction not in ("mean", "sum"):
        raise unknown("reduction", reduction, ("mean", "sum"))
    log_q = [log_softmax(logits, temperature) for logits in student]
    all_pairs = torch.stack(list(teacher)).sum(0) * torch.stack(log_q).sum(0)
    same_crop = sum(p * q for p, q in zip(teacher, log_q, strict=False))
    total = (same_crop - all_pairs).sum(1).mean()
    return total if reduction == "sum" else total / pairs


def masked_patch_loss(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 0.1) -> Tensor:
    """The same between the tokens of patches that were hidden from the student, and that the teacher saw:

        mean over images of  the mean over an image's hidden patches of  H(P, softmax(s / t))

    (iBOT, arXiv:2111.07832, eq. 2), where an image without hidden patches counts as 0.

    Args:
        student: logits (m, k) of the m hidden patches, in the order of `tokens[mask]`.
        teacher: distributions (m, k) of the same, without gradient.
        mask: bool (n, t), True is hidden; m of them.
        temperature: t, above 0.

    Returns:
        A scalar in float32 (float64 if the logits are).

    Raises:
        ArgumentError: shapes that do not fit, or a temperature not above 0.

    >>> mask = torch.tensor([[True, False], [False, False]])
    >>> masked_patch_loss(torch.zeros(1, 8), torch.full((1, 8), 1 / 8), mask)  # log 8 for one image, 0 for the other
    tensor(1.0397)
    """
    expect("temperature", temperature, temperature > 0, "a number above 0")
    fits = student.shape == teacher.shape and student.ndim == 2 and len(student) == int(mask.sum())
    shapes = (tuple(student.shape), tuple(teacher.shape))
    expect("student, teacher", shapes, fits, f"two of shape ({int(mask.sum())}, k), a row for each hidden patch")
    cross_entropies = -(teacher * log_softmax(student, temperature)).sum(1)
    hidden = mask.sum(1)  # in each image, whose patches share a weight of 1
    return (cross_entropies / hidden.repeat_interleave(hidden)).sum() / len(mask)


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return (logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature).log_softmax(-1)
