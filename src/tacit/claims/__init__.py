"""Claims: what a paper says of its system, as a function that anyone can run, and the record of what came out.

A system's file imports `claim`, `Bench` and `Comparison`; the engine behind `Bench` loads when a claim runs, and the
records are read without it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_bench": ["Bench", "Trial"],
        "_comparison": ["Comparison"],
        "_data": ["Data", "Part", "Unseen"],
        "_marks": ["Picture", "checked", "claim", "drawing"],
        "_record": ["Record", "read_records"],
    },
)
