"""Geometry-Aware Adaptation for Pretrained Models (Roberts et al., 2023)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils import Tags, check_array, check_consistent_length

from tacit.catalogue import system
from tacit.claims import Bench, Comparison, Part, Trial, claim
from tacit.errors import expect

BLOCK = 2**24
"""Costs (rows times labels) that are held at once."""

TEMPERATURES = tuple(2.0 ** (step / 4) for step in range(-16, 17))
"""What `Loki.fit` tries: 1/16 to 16."""


@system("loki", paper="arXiv:2307.12226", modality="any")
class Loki(ClassifierMixin, BaseEstimator):
    """The Frechet mean in place of argmax: a classifier of some labels predicts all labels of a metric space.

        y(x) = argmin over all labels y of  sum over observed labels l of  P(l | x) d(y, l)^2
        P(l | x) proportional to  P_model(l | x)^(1 / temperature)

    A step after any classifier: what goes in are its probabilities, what comes out are label numbers, rows of the
    metric. Labels that the classifier has never seen can be predicted where they lie between those it has (`locus`).
    Nothing has to be trained. With d = 1 between any two labels it is argmax. Of equal costs the lowest label wins.

    The temperature matters: too high, and all rows are sent to central labels; near 0 it is argmax. `fit` picks it on
    labelled rows, by the mean squared distance that is to be made small; without `fit` it is 1, the plain rule.

    Memory: the metric, (labels, labels); rows are taken in blocks, so that a million rows need at most 0.3 GiB beside
    their probabilities and, at another temperature than 1, a copy of them.

    Args:
        metric: distances between all labels, (m, m): symmetric, at least 0, 0 on the diagonal. See `tree_metric`,
            `graph_metric`, `embedding_metric`.
        observed: the label of each column of the probabilities, (k,), each once; None: all m labels in their order.
        temperature: above 0; None: what `fit` finds, or 1 without it.

    Attributes:
        temperature_: the temperature in use, after `fit`.
        classes_: the labels that may be predicted, 0 to m - 1, after `fit`.

    Raises:
        ArgumentError: no metric or what is none, labels outside it, a temperature that is not above 0.
        ValueError: probabilities that are negative, not finite, do not sum to 1 (to 1e-3), or of another width than k.

    >>> line = np.abs(np.arange(5)[:, None] - np.arange(5))  # five labels in a row, of which the ends were seen
    >>> loki = Loki(line, observed=[0, 4])
    >>> loki.predict([[1.0, 0.0], [0.75, 0.25], [0.5, 0.5], [0.1, 0.9]])
    array([0, 1, 2, 4])
    >>> loki.locus(), Loki(line, observed=[0, 2]).select(1)
    (array([0, 1, 2, 3, 4]), array([4]))
    """

    settings: ClassVar = {"paper": {"temperature": 1.0}}

    def __init__(
        self, metric: Any = None, observed: ArrayLike | None = None, *, temperature: float | None = None
    ) -> None:
        self.metric, self.observed, self.temperature = metric, observed, temperature

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        # columns are the labels of the metric and sum to 1; check_estimator feeds tables of any width
        tags.input_tags.two_d_array = False
        return tags

    def fit(self, probs: Any, y: Any) -> "Loki":
        """Choose the temperature, where none was given, by the mean squared label distance of the predictions.

        Args:
            probs: (n, k) probabilities of rows that the classifier was not trained on.
            y: their labels, (n,), of all m; observed or not.
        """
        metric, observed = self._labels()
        probs, y = self._checked(probs, observed), np.asarray(y)
        check_consistent_length(probs, y)
        ok = y.ndim == 1 and y.dtype.kind in "iu" and len(y) > 0 and y.min() >= 0 and y.max() < len(metric)
        expect("y", y[:5].tolist(), bool(ok), f"label numbers from 0 to {len(metric) - 1}, one a row")
        self.classes_, self.n_features_in_ = np.arange(len(metric)), len(observed)
        if self.temperature is not None:
            self.temperature_ = self.temperature
            return self
        squares = metric[observed] ** 2

        def cost(temperature: float) -> tuple[float, float]:
            found = _frechet_mean(_tempered(probs, temperature), squares)
            return float((metric[found, y] ** 2).mean()), abs(np.log(temperature))  # of equals, the nearest to 1

        self.temperature_ = min(TEMPERATURES, key=cost)
        return self

    def predict(self, probs: Any) -> np.ndarray:
        """Probabilities (n, k) of the observed labels -> labels of all m, int64 (n,)."""
        metric, observed = self._labels()
        probs = self._checked(probs, observed)
        temperature = getattr(self, "temperature_", 1.0 if self.temperature is None else self.temperature)
        return _frechet_mean(_tempered(probs, temperature), metric[observed] ** 2)

    def locus(self) -> np.ndarray:
        """The labels that can be predicted, as far as two observed ones at a time reach: see `locus`."""
        metric, observed = self._labels()
        return locus(metric, observed)

    def select(self, n: int) -> np.ndarray:
        """The n labels that should be observed next, in this order: each the furthest from the locus so far, (n,).

        On trees no other choice makes the locus grow more at any step; elsewhere it is a heuristic. Stops early when
        every label can be predicted.
        """
        metric, observed = self._labels()
        expect("n", n, n >= 0, "at least 0")
        reached, known = locus(metric, observed), observed.tolist()
        chosen: list[int] = []
        while len(chosen) < n and len(reached) < len(metric):
            gap = metric[reached].min(0)
            gap[reached] = -1
            chosen.append(int(gap.argmax()))
            grown = [between(metric, chosen[-1], other) for other in known]
            reached, known = np.unique(np.concatenate([reached, *grown])), [*known, chosen[-1]]
        return np.array(chosen, np.int64)

    def _labels(self) -> tuple[np.ndarray, np.ndarray]:
        """The metric, checked, and the label of each column."""
        metric = _checked_metric(self.metric)
        expect("temperature", self.temperature, self.temperature is None or self.temperature > 0, "a number above 0")
        return metric, _checked_labels(self.observed, len(metric))

    def _checked(self, probs: Any, observed: np.ndarray) -> np.ndarray:
        probs = check_array(probs, dtype=[np.float64, np.float32], input_name="probs")
        remedy = "observed= says which label each column is"
        expect("probs.shape", probs.shape, probs.shape[1] == len(observed), f"{len(observed)} columns", remedy)
        low, off = float(probs.min()), float(np.abs(probs.sum(1, dtype=np.float64) - 1).max())
        remedy = "give softmax(logits), not logits"
        expect("probs", f"{low:.3g} at least, sums {off:.3g} off 1", low >= 0 and off <= 1e-3, "probabilities", remedy)
        return probs


def tree_metric(parents: ArrayLike, lengths: ArrayLike | None = None) -> np.ndarray:
    """Distances along a tree, between all its nodes: (m, m).

    Args:
        parents: the parent of each node, (m,); -1 for the one root. Labels that are leaves alone are a part of the
            result: `tree_metric(parents)[:n_leaves, :n_leaves]`.
        lengths: of the edge from each node to its parent, (m,), above 0; the root's is not read. 1 if None.

    Raises:
        ArgumentError: not one root, parents that are no nodes, or a circle.

    >>> tree_metric([3, 3, 4, 4, -1])[:3, :3]  # two leaves under node 3, one beside it
    array([[0., 2., 3.],
           [2., 0., 3.],
           [3., 3., 0.]])
    """
    above = np.asarray(parents, dtype=np.int64)
    one_root = above.ndim == 1 and int((above == -1).sum()) == 1
    expect("parents", above.tolist()[:8], one_root, "-1 once: the root")
    children = np.flatnonzero(above != -1)
    edges = np.stack([children, above[children]], axis=1)
    return graph_metric(edges, len(above), None if lengths is None else np.asarray(lengths, float)[children])


def graph_metric(edges: Any, n_labels: int, lengths: ArrayLike | None = None) -> np.ndarray:
    """Lengths of the shortest paths between the nodes of an undirected graph: (n_labels, n_labels).

    Args:
        edges: pairs of nodes, (e, 2), numbers from 0 to n_labels - 1.
        n_labels: m, the number of nodes.
        lengths: of the edges, (e,), above 0; 1 if None.

    Raises:
        ArgumentError: edges to nodes that are none, lengths not above 0, or a graph in several parts.

    >>> graph_metric([(0, 1), (1, 2), (2, 3), (3, 0)], 4)[0]
    array([0., 1., 2., 1.])
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import shortest_path

    edges = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    inside = bool(((edges >= 0) & (edges < n_labels)).all())
    expect("edges", edges[:4].tolist(), inside, f"pairs of nodes from 0 to {n_labels - 1}")
    long = np.ones(len(edges)) if lengths is None else np.asarray(lengths, float)
    expect(
        "lengths", long[:4].tolist(), len(long) == len(edges) and bool((long > 0).all()), "numbers above 0, one each"
    )
    shortest: dict[tuple[int, int], float] = {}
    for (a, b), length in zip(np.sort(edges, axis=1).tolist(), long.tolist(), strict=True):
        shortest[a, b] = min(length, shortest.get((a, b), length))
    rows, columns = np.array(list(shortest), np.int64).reshape(-1, 2).T
    graph = coo_array((list(shortest.values()), (rows, columns)), shape=(n_labels, n_labels)).tocsr()
    found = shortest_path(graph, directed=False)
    apart = int(np.isinf(found[0]).sum()) if n_labels else 0
    expect("edges", len(edges), apart == 0, "a connected graph", f"{apart} nodes cannot be reached from node 0")
    return found


def embedding_metric(vectors: Any, metric: str = "euclidean") -> np.ndarray:
    """Distances between the embeddings of the labels (of their names, or of one example each): (m, d) -> (m, m).

    Args:
        vectors: one row a label.
        metric: as in `sklearn.metrics.pairwise_distances`.

    >>> embedding_metric([[0.0, 0.0], [3.0, 4.0]])
    array([[0., 5.],
           [5., 0.]])
    """
    found = pairwise_distances(check_array(vectors, input_name="vectors"), metric=metric).astype(np.float64)
    found = (found + found.T) / 2  # rounding aside, they are symmetric
    np.fill_diagonal(found, 0)
    return found


def locus(metric: ArrayLike, observed: ArrayLike) -> np.ndarray:
    """The labels that the Frechet mean can reach from pairs of observed labels, ascending.

        Pi(L) contains  { y : y minimises w d(y, a)^2 + (1 - w) d(y, b)^2 for some w in [0, 1], a and b in L }

    On trees with edges of one length this is all of Pi(L): the union of the paths between the observed labels. In other
    spaces three labels or more may reach further. Takes the number of pairs times the square of the labels near both.

    Args:
        metric: (m, m).
        observed: label numbers, at least one.

    >>> locus(tree_metric([3, 3, 4, 4, -1]), [0, 2])  # the path 0 - 3 - 4 - 2
    array([0, 2, 3, 4])
    """
    metric = _checked_metric(metric)
    labels = _checked_labels(observed, len(metric)).tolist()
    pairs = [between(metric, a, b) for place, a in enumerate(labels) for b in labels[:place]]
    return np.unique(np.concatenate([np.array(labels, np.int64), *pairs]))


def between(metric: np.ndarray, a: int, b: int) -> np.ndarray:
    """The labels that minimise w d(y, a)^2 + (1 - w) d(y, b)^2 for some w in [0, 1]: the lower hull of (d_a^2, d_b^2).

    >>> between(np.abs(np.arange(5.0)[:, None] - np.arange(5.0)), 1, 4)
    array([1, 2, 3, 4])
    """
    near = np.flatnonzero((metric[a] <= metric[a, b]) & (metric[b] <= metric[a, b]))  # a or b is better than others
    to_a, to_b = metric[near, a] ** 2, metric[near, b] ** 2
    gain = to_b[:, None] - to_b  # y costs no more than z where w * slope <= -gain
    slope = (to_a[:, None] - to_a) - gain
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = -gain / slope
    highest = np.where(slope > 0, bound, 1.0).min(1)
    lowest = np.where(slope < 0, bound, 0.0).max(1)
    never = ((slope == 0) & (gain > 0)).any(1)
    slack = 1e-9
    reached = ~never & (np.maximum(lowest, 0) <= np.minimum(highest, 1) + slack)
    return near[reached]


def _frechet_mean(probs: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """argmin over labels of probs @ squares: (n, k) and (k, m) -> (n,)."""
    rows = max(1, BLOCK // squares.shape[1])
    squares = squares.astype(probs.dtype, copy=False)
    found = [(probs[start : start + rows] @ squares).argmin(1) for start in range(0, len(probs), rows)]
    return np.concatenate(found)


def _tempered(probs: np.ndarray, temperature: float) -> np.ndarray:
    """p^(1 / temperature), each row divided by its sum."""
    if temperature == 1:
        return probs
    powers = (probs / probs.max(1, keepdims=True)) ** (1 / temperature)  # the largest is 1: nothing underflows to 0 / 0
    return powers / powers.sum(1, keepdims=True)


def _checked_metric(metric: Any) -> np.ndarray:
    metric = np.asarray(metric, dtype=np.float64)
    square = metric.ndim == 2 and metric.shape[0] == metric.shape[1] > 0
    expect("metric.shape", metric.shape, square, "(m, m), distances between all labels", "see tree_metric")
    plain = bool(np.isfinite(metric).all() and (metric >= 0).all() and (np.diag(metric) == 0).all())
    expect("metric", "", plain, "finite distances of at least 0, and 0 on the diagonal")
    expect("metric", "", bool(np.allclose(metric, metric.T)), "symmetric distances")
    return metric


def _checked_labels(observed: ArrayLike | None, m: int) -> np.ndarray:
    labels = np.arange(m) if observed is None else np.asarray(observed)
    ok = labels.ndim == 1 and labels.dtype.kind in "iu" and len(labels) > 0 and len(np.unique(labels)) == len(labels)
    ok = ok and labels.min() >= 0 and labels.max() < m
    expect("observed", labels.tolist()[:8], bool(ok), f"label numbers from 0 to {m - 1}, each once")
    return labels.astype(np.int64)


@claim(
    "predictions lie closer to the truth in the metric of the labels than those of argmax",
    reported="up to 29.7 % lower mean squared distance than SimCLR's on ImageNet, by WordNet (abstract)",
    proxy="CLINC150: requests of 150 intents in 10 domains, 75 intents observed, logistic regression on TF-IDF",
)
def closer_than_argmax(bench: Bench) -> Comparison:
    """Minus the mean squared distance along the tree root - domain - intent, over requests of all 150 intents.

    The seed draws the requests to learn from and the half of the intents that is observed. The plain rule, without
    calibration, on scikit-learn's default logistic regression. A tree this shallow leaves less to gain than WordNet.
    """
    requests = bench.data("clinc150", n=10_000)

    def scores(trial: Trial) -> list[float]:
        train, unseen = trial.split(requests)
        metric = domain_tree(train)
        observed = drawn_labels(trial, train.y.unique().numpy(), share=0.5)
        seen = train.select(np.flatnonzero(np.isin(train.y, observed)))
        features = make_pipeline(TfidfVectorizer(sublinear_tf=True), TruncatedSVD(100, random_state=0), Normalizer())
        model = LogisticRegression(max_iter=200).fit(features.fit_transform(seen.x), seen.y)
        probs = model.predict_proba(features.transform(unseen.x))

        def closeness(y: np.ndarray, found: np.ndarray) -> float:
            return -float((metric[found, y] ** 2).mean())

        predictions = Loki(metric, model.classes_).predict(probs), model.classes_[probs.argmax(1)]
        return [unseen.score(found, closeness) for found in predictions]

    return bench.trials(scores, baseline="argmax of the same probabilities", better_by=0.0, setting=requests.name)


@claim(
    "labels that the classifier has never seen are predicted, which argmax cannot",
    reported="adapts a trained model to reliably predict new classes without training (abstract)",
    proxy="100 characters of Omniglot, 60 observed; distances between one example of each, as pixels",
)
def predicts_unseen_labels(bench: Bench) -> Comparison:
    """Accuracy on items of the 40 unobserved characters, above twice chance among all 100; argmax has 0.

    One drawing of each character gives the metric (Euclidean, 50 principal components of blurred pixels); others of the
    60 observed ones train scikit-learn's default logistic regression. All come from the set's learning part, two
    fifths of it held out, since its test part has other characters.
    """
    characters = bench.images("omniglot", size=28)
    n_labels = 100

    def accuracy(trial: Trial) -> float:
        train, held_out = trial.split(characters)[0].divide(0.6)
        pixels = blurred(train.x)
        components = make_pipeline(PCA(min(50, *pixels.shape), random_state=trial.seed), Normalizer()).fit(pixels)
        names, example, count = np.unique(train.y, return_index=True, return_counts=True)
        chosen = drawn_labels(trial, np.flatnonzero(count >= 2), most=n_labels)
        names, example, vectors = names[chosen], example[chosen], components.transform(pixels)
        observed = drawn_labels(trial, np.arange(len(names)), share=0.6)

        mine = np.isin(train.y, names[observed])
        mine[example] = False
        model = LogisticRegression().fit(vectors[mine], np.searchsorted(names, train.y[mine]))
        loki = Loki(embedding_metric(vectors[example]), model.classes_)
        found = loki.predict(model.predict_proba(components.transform(blurred(held_out.x))))

        def accuracy_on_unobserved(y: np.ndarray, found: np.ndarray) -> float:
            asked = np.isin(y, np.delete(names, observed))
            return float((names[found[asked]] == y[asked]).mean())

        return held_out.score(found, accuracy_on_unobserved)

    return bench.trials(accuracy, above=0.02, setting=characters.name)


@claim(
    "on a tree the furthest label from the locus makes it grow most",
    reported="an optimal procedure to select the next classes; on trees, the one furthest from the locus (section 4)",
)
def selection_is_optimal(bench: Bench) -> Comparison:
    """Size of the locus after each of 5 selections in 10 random trees of 40 nodes, and the largest by any one label.

    The largest is found by trying every label, with the locus as the nodes v with d(a, v) + d(v, b) = d(a, b).
    """

    def sizes(trial: Trial) -> tuple[list[int], list[int]]:
        ours, best = [], []
        for _ in range(bench.pick(smoke=2, small=10)):
            metric = tree_metric([-1, *(int(trial.rng.integers(node)) for node in range(1, 40))])
            known = trial.rng.choice(40, 2, replace=False).tolist()
            for _ in range(5):
                chosen = Loki(metric, known).select(1).tolist()
                best.append(max(on_paths(metric, [*known, label]) for label in range(40)))
                known = [*known, *chosen]
                ours.append(on_paths(metric, known))
        return ours, best

    return bench.equal(sizes, tolerance=0.0, setting="10 random trees of 40 nodes, 5 selections in each")


def domain_tree(train: Part) -> np.ndarray:
    """Distances between the intents along root - domain - intent."""
    n_labels, domains = train.n_classes, train.columns["domain"]
    above = np.zeros(n_labels, np.int64)
    above[train.y] = np.unique(domains, return_inverse=True)[1]
    n_domains = int(above.max()) + 1
    parents = [*(n_labels + above), *[n_labels + n_domains] * n_domains, -1]
    return tree_metric(parents)[:n_labels, :n_labels]


def drawn_labels(trial: Trial, labels: np.ndarray, *, share: float = 1.0, most: int | None = None) -> np.ndarray:
    """A share of the labels, drawn by the trial's seed, at least 2 and at most `most`; ascending."""
    count = max(2, round(share * len(labels)))
    return np.sort(trial.rng.choice(labels, min(count, most or count, len(labels)), replace=False))


def blurred(x: Any) -> np.ndarray:
    """Images uint8 (n, c, h, w) -> their pixels' means over 5 x 5, every second one: float32 (n, numbers)."""
    from torch.nn.functional import avg_pool2d

    return avg_pool2d(x.float() / 255, 5, 2, 2).flatten(1).numpy()


def on_paths(metric: np.ndarray, labels: Sequence[int]) -> int:
    """How many nodes of a tree lie on a path between two of the labels."""
    detour = metric[labels][:, None] + metric[labels] - metric[np.ix_(labels, labels)][:, :, None]
    return int((np.abs(detour) < 1e-9).any((0, 1)).sum())
