"""Records as a run would leave them, without the run."""

from tacit.claims import Comparison, Record
from tacit.claims._evidence import current_code
from tacit.claims._found import find_claim


def made(claim: str, comparison: Comparison, /, **changes) -> Record:
    """The record of a claim that came out like this, with code and claim as they are now."""
    found = find_claim(claim)
    said = {
        "system": found.system,
        "claim": found.id,
        "level": found.entry.level,
        "kind": comparison.kind,
        "proxy": found.mark.proxy,
        "verdict": comparison.verdict,
        "effect": comparison.effect,
        "interval": comparison.interval,
        "values": list(comparison.values),
        "baseline_values": list(comparison.baseline_values),
        "effects": list(comparison.effects),
        "seeds": [0, 1, 2, 3, 4],
        "baseline": comparison.baseline,
        "margin": comparison.margin,
        "reported": found.mark.reported,
        "budget": "small",
        "steps": 12,
        "setting": "blobs; 12 steps of 20",
        "device": "cpu",
        "threads": 1,
        "versions": {},
        "commit": "abc",
        "claim_hash": found.hash,
        "code_hash": current_code(found, comparison.baseline),
        "data_hash": "",
        "reseed": False,
        "date": "2026-11-25",
        "seconds": 61.0,
        "details": dict(comparison.details),
    }
    return Record(**{**said, **changes})


def better(by: float = 0.03, **more) -> Comparison:
    """A comparison with toy-still in which every seed is better by about this."""
    theirs = [0.68, 0.69, 0.70, 0.69, 0.69]
    ours = [b + by + wiggle for b, wiggle in zip(theirs, (0.0, 0.002, -0.002, 0.001, -0.001), strict=True)]
    return Comparison.paired(ours, theirs, **{"baseline": "toy-still", **more})
