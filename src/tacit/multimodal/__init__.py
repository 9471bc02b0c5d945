"""Images with texts, and labels with meaning. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_clip": ["CLIP"],
        "_cwcl": ["CWCL", "CWCLoss", "cwcl_loss"],
        "_ovdiff": ["PrototypeSegmenter", "ovdiff"],
        "_loki": ["Loki", "embedding_metric", "graph_metric", "locus", "tree_metric"],
        "_pouf": ["POUF", "pouf_loss"],
        "_text_to_concept": ["TextToConcept"],
        "_tfup": ["TFUP", "TFUPT"],
        "_zero_shot": ["fill_templates", "zero_shot_logits", "zero_shot_weights"],
    },
)
