"""Measures that everyone uses: k-NN, probes, spectra, the sphere, neighbourhoods, clusterings; with intervals."""

from tacit.evaluate._agreement import neighbour_stability, view_retrieval
from tacit.evaluate._anova import two_way_anova
from tacit.evaluate._clustering import ami, ari, clustering_accuracy, nmi
from tacit.evaluate._dense import dense_features, mean_iou, segmentation_probe
from tacit.evaluate._episodes import Episode, episodes, episodic_accuracy
from tacit.evaluate._estimates import Estimate, Score, mean_interval, wilson
from tacit.evaluate._knn import knn_accuracy, knn_predict
from tacit.evaluate._linear import linear_probe
from tacit.evaluate._membership import membership_auroc, membership_rate
from tacit.evaluate._neighbours import approximate_neighbours, neighbours
from tacit.evaluate._restoration import psnr, ssim
from tacit.evaluate._retrieval import mrr, ndcg, ranking_scores, recall_at
from tacit.evaluate._segmentation import (
    box_iou,
    corloc,
    largest_regions,
    mask_average_precision,
    mask_boxes,
    mask_iou,
)
from tacit.evaluate._spectrum import effective_rank, rankme
from tacit.evaluate._sphere import alignment, uniformity
from tacit.evaluate._streams import incremental_tasks

__all__ = [
    "Episode",
    "Estimate",
    "Score",
    "alignment",
    "ami",
    "approximate_neighbours",
    "ari",
    "box_iou",
    "clustering_accuracy",
    "corloc",
    "dense_features",
    "effective_rank",
    "episodes",
    "episodic_accuracy",
    "incremental_tasks",
    "knn_accuracy",
    "knn_predict",
    "largest_regions",
    "linear_probe",
    "mask_average_precision",
    "mask_boxes",
    "mask_iou",
    "mean_interval",
    "mean_iou",
    "membership_auroc",
    "membership_rate",
    "mrr",
    "ndcg",
    "neighbour_stability",
    "neighbours",
    "nmi",
    "psnr",
    "ranking_scores",
    "rankme",
    "recall_at",
    "segmentation_probe",
    "ssim",
    "two_way_anova",
    "uniformity",
    "view_retrieval",
    "wilson",
]
