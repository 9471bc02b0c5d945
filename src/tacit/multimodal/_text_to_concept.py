"""Text-To-Concept (and Back) via Cross-Model Alignment (Moayeri et al., 2023)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, Unseen, claim
from tacit.errors import expect
from tacit.learner import encoder_of
from tacit.multimodal._clip import GLYPH_TEMPLATES, GLYPHS, glyph_pairs, labelled_digits, of_character
from tacit.multimodal._zero_shot import embed, zero_shot_weights


@system("text-to-concept", paper="arXiv:2305.06386", modality="features", level="mechanism")
class TextToConcept(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """An affine map from any encoder's features to a dual encoder's, so that texts name what the encoder sees.

        W, b = argmin  sum_i |W z_i + b - y_i|^2 + ridge c |W|^2          (eq. 1)

    over images without labels: z_i are their features, y_i their embeddings by the image half of a dual encoder such as
    CLIP. An aligned feature h(z) = W z + b is compared by cosine with embeddings of texts: classes by their names
    (`zero_shot`), the strength of named concepts (`concept_scores`), images that meet a list of them (`select`). The
    encoder is not trained. c is the mean variance of the features times n, so that `ridge` has no unit.

    The official code goes down the same loss by SGD for a few epochs on both sides scaled to one variance; here it is
    solved. Concept-to-text, which decodes h(z) into a caption, needs a captioner of the dual encoder and is left out.

    Args:
        ridge: penalty on W; 0 is plain least squares.

    Attributes:
        coef_: W, (d_y, d_z), or (d_z,) where y has one dimension.
        intercept_: b, (d_y,).

    Raises:
        ArgumentError: `ridge` is negative, or concepts of another width than y.

    >>> rng = np.random.default_rng(0)
    >>> y, map = rng.normal(size=(50, 3)), rng.normal(size=(3, 5))
    >>> aligner = TextToConcept(ridge=0).fit(y @ map + 1, y)  # another encoder's features of the same 50 images
    >>> concepts = np.eye(3)  # embeddings of three texts
    >>> bool((aligner.zero_shot(y @ map + 1, concepts) == y.argmax(1)).all())
    True
    """

    settings: ClassVar = {"paper": {"ridge": 0.0}, "small": {"ridge": 1e-3}}

    def __init__(self, *, ridge: float = 1e-3) -> None:
        self.ridge = ridge

    def fit(self, X: ArrayLike, y: ArrayLike) -> "TextToConcept":
        """Align.

        Args:
            X: features (n, d_z) of n images by the encoder.
            y: embeddings (n, d_y) of the same images by the dual encoder.
        """
        expect("ridge", self.ridge, self.ridge >= 0, "at least 0")
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=[np.float64, np.float32])
        unit = len(X) * float(X.var(0, dtype=np.float64).mean())
        solver = Ridge(alpha=self.ridge * unit, solver="svd").fit(X, y)
        self.coef_, self.intercept_ = solver.coef_, solver.intercept_
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Features (n, d_z) in the dual encoder's space: W z + b, (n, d_y)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return X @ self.coef_.T + self.intercept_

    def concept_scores(self, X: ArrayLike, concepts: ArrayLike) -> np.ndarray:
        """Cosine of each aligned feature with each text: (n, d_z) and embeddings of texts (k, d_y) -> (n, k)."""
        aligned, concepts = self.predict(X), np.asarray(concepts)
        aligned = aligned.reshape(len(aligned), -1)
        ok = concepts.ndim == 2 and concepts.shape[1] == aligned.shape[1]
        expect(
            "concepts.shape", concepts.shape, ok, f"(k, {aligned.shape[1]}), embeddings of texts", "zero_shot_weights"
        )
        return _unit(aligned) @ _unit(concepts).T

    def zero_shot(self, X: ArrayLike, concepts: ArrayLike) -> np.ndarray:
        """The concept nearest to each aligned feature: numbers of rows of `concepts`, int64 (n,)."""
        return self.concept_scores(X, concepts).argmax(1)

    def select(
        self, X: ArrayLike, concepts: ArrayLike, signs: Sequence[int], deviations: float | Sequence[float] = 1.0
    ) -> np.ndarray:
        """The items that meet every constraint: item numbers, ascending.

        Concept j is there (sign 1) where its score is above the mean over these items by `deviations` standard
        deviations, and absent (sign -1) where it is below the mean by as many (section 5.2).

        Args:
            X: (n, d_z).
            concepts: (k, d_y).
            signs: 1 or -1 for each concept.
            deviations: one for all concepts, or one for each.
        """
        scores, signs = self.concept_scores(X, concepts), np.asarray(signs)
        ok = signs.shape == (scores.shape[1],) and bool(np.isin(signs, (1, -1)).all())
        expect("signs", signs.tolist(), ok, f"1 or -1 for each of {scores.shape[1]} concepts")
        away = (scores - scores.mean(0)) * signs
        return np.flatnonzero((away > np.asarray(deviations) * scores.std(0)).all(1))


def _unit(x: Any) -> np.ndarray:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length == 0, 1, length)


# Claims ---------------------------------------------------------------------------------------------------------------


def _aligned_accuracy(trial: Trial, train: Part, unseen: Unseen, system_id: str, n: int = 3000) -> float:
    """Zero-shot accuracy at the characters, by their names, of an encoder that is aligned on n pictures."""
    pictures = labelled_digits(train)
    encoder = _encoder(trial, system_id, pictures)
    clip = trial.pretrained("clip", train).eval()
    target = embed(clip.encode_image, train.columns["image"][:n]).numpy()
    aligner = TextToConcept().fit(trial.predict(encoder, pictures.x[:n]).numpy(), target)
    names = zero_shot_weights(clip.encode_text, list(GLYPHS), GLYPH_TEMPLATES).cpu().numpy()
    found = aligner.zero_shot(trial.predict(encoder, unseen.columns["image"]).numpy(), names)
    return unseen.score(found, by=of_character)


def _encoder(trial: Trial, system_id: str, pictures: Part) -> nn.Module:
    """Trained on pictures alone, or on their labels."""
    if system_id == "untrained":
        return trial.build("supervised", pictures).classifier.encoder
    return encoder_of(trial.pretrained(system_id, pictures, batch_size=64))


@claim(
    "a linear layer makes a zero-shot classifier of an encoder that was trained on images alone",
    reported="fixed encoders become strong zero-shot classifiers, at times more accurate than CLIP itself (abstract)",
    proxy="SimCLR and supervised ResNet-8s and a small CLIP on drawn digits, aligned on 3,000 pictures; each is to "
    "reach 80 % of CLIP's accuracy",
    steps={"small": 600, "full": 20_000},
)
def keeps_most_of_the_accuracy(bench: Bench) -> Comparison:
    """Zero-shot accuracy at ten digits by their names, of aligned encoders (equal
    steps of 64 images) over 0.8 times the dual encoder's own, on
    pictures of pairs of character and colour unseen by all; the smaller gap of the two encoders counts."""
    pairs = glyph_pairs(bench)

    def gap(trial: Trial, system_id: str) -> tuple[float, float]:
        train, unseen = trial.split(pairs)
        clip = trial.pretrained("clip", train)
        found = clip.zero_shot(unseen.columns["image"], list(GLYPHS), GLYPH_TEMPLATES)
        dual = unseen.score(found, by=of_character)
        return _aligned_accuracy(trial, train, unseen, system_id), 0.8 * dual

    said = "0.8 times the dual encoder's accuracy"
    return bench.curve(gap, over=["simclr", "supervised"], shape="above", baseline=said)


@claim(
    "what the aligned encoder knows it has learned; the linear layer alone does not do it",
    reported="alignment succeeds for diverse trained encoders (abstract); random ones are this test's own",
    proxy="a supervised ResNet-8 and the same one untrained, aligned on 3,000 drawn digits",
    steps={"small": 600, "full": 20_000},
)
def better_than_an_aligned_random_encoder(bench: Bench) -> Comparison:
    """Zero-shot accuracy at ten digits of the aligned supervised encoder, over that of its aligned random start."""
    pairs = glyph_pairs(bench)

    def both(trial: Trial) -> tuple[float, float]:
        train, unseen = trial.split(pairs)
        trained = _aligned_accuracy(trial, train, unseen, "supervised")
        return trained, _aligned_accuracy(trial, train, unseen, "untrained")

    return bench.trials(both, baseline="the same encoder, untrained and aligned", better_by=0.0)
