"""Generative models. One file per system; each loads when it is first named."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_autoencoder": ["Autoencoder"],
        "_concept_masks": ["Masks", "concept_masks", "finch"],
        "_conceptexpress": ["Concept", "ConceptExpress"],
        "_freedom": ["FreeDoM"],
        "_meco": ["MECO", "CompositionalLoss", "nce_loss"],
        "_mpgd": ["MPGD"],
        "_bigan": ["BiGAN"],
        "_dcgan": ["DCGAN"],
        "_ddpm": ["DDPM", "ConditionalDDPM", "guided"],
        "_token_ddpm": ["TokenDDPM"],
    },
)
