"""The report's map at 50,000 points of 128 dimensions: at most two minutes on two quiet cores; umap-learn beside it.

Points are drawn (40 clusters on curved surfaces of ten dimensions), or are Fashion-MNIST's first 128 principal
components where TACIT_DATA holds it. Preservation is the share of an item's 15 nearest neighbours in the data that
are among its 15 nearest on the map, over 2,000 items; trustworthiness@15 is scikit-learn's, on 3,000 items. Higher is
better for both.

    python benchmarks/map.py --json map.json
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from tacit.evaluate import neighbours
from tacit.report import neighbour_map

CLUSTERS, SURFACE, CHECKED, TRUSTED, NEAREST = 40, 10, 2000, 3000, 15


def drawn(n, dim):
    generator = torch.Generator().manual_seed(0)
    cluster = torch.randint(CLUSTERS, (n,), generator=generator)
    place = 2 * torch.randn(CLUSTERS, SURFACE, generator=generator)[cluster] + torch.randn(
        n, SURFACE, generator=generator
    )
    curved = (place @ torch.randn(SURFACE, dim, generator=generator) / SURFACE**0.5).tanh()
    return curved + 0.05 * torch.randn(n, dim, generator=generator)


def fashion(path, n, dim):
    images = np.load(path)["images"]
    picked = np.random.default_rng(0).permutation(len(images))[:n]
    x = torch.from_numpy(images[picked]).flatten(1).float() / 255
    x = x - x.mean(dim=0)
    return x @ torch.linalg.eigh(x.T @ x).eigenvectors[:, -dim:]


def principal_plane(x):
    centred = x - x.mean(dim=0)
    return (centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:]).numpy()


def preservation(x, y):
    picked = torch.arange(0, len(x), max(1, len(x) // CHECKED))
    rows = [neighbours(a[picked], a, NEAREST + 1, metric="euclidean")[1] for a in (x, torch.as_tensor(y))]
    near, placed = (_others(found, picked) for found in rows)
    return float((near[:, :, None] == placed[:, None]).any(dim=2).double().mean())


def _others(rows, own):
    """Without the item itself, which stands first unless it has copies."""
    rank = (rows == own[:, None]).to(torch.int8)
    return rows.gather(1, rank.argsort(dim=1, stable=True)[:, :NEAREST])


def trustworthiness(x, y):
    from sklearn.manifold import trustworthiness

    picked = np.random.default_rng(0).permutation(len(x))[:TRUSTED]
    return float(trustworthiness(x[picked].numpy(), y[picked], n_neighbors=NEAREST))


def measured(name, make, x):
    start = time.perf_counter()
    y = make()
    seconds = time.perf_counter() - start
    row = {"seconds": seconds, "preservation": preservation(x, y), "trustworthiness": trustworthiness(x, y)}
    print(f"{name:18} {seconds:8.1f} s   preservation {row['preservation']:.3f}   ", end="")
    print(f"trustworthiness {row['trustworthiness']:.3f}", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    file = Path(os.environ.get("TACIT_DATA", "")) / "fashion_mnist" / "train.npz"
    x = fashion(file, options.n, options.dim) if file.is_file() else drawn(options.n, options.dim)
    x = torch.nn.functional.normalize(x, dim=1)
    print(f"{len(x):,} x {x.shape[1]}, {'Fashion-MNIST' if file.is_file() else 'drawn'}, {options.threads} threads")
    found = {
        "principal plane": measured("principal plane", lambda: principal_plane(x), x),
        "tacit": measured("tacit", lambda: neighbour_map(x), x),
    }
    try:
        import umap
    except ImportError:
        print("umap-learn is not installed: pip install 'tacit[viz]' to compare")
    else:
        neighbour_map(x[:500], method="umap")  # compiles, which is not what is compared
        found["umap-learn"] = measured("umap-learn " + umap.__version__, lambda: neighbour_map(x, method="umap"), x)
        ratio = found["umap-learn"]["seconds"] / found["tacit"]["seconds"]
        print(f"umap-learn takes {ratio:.1f} times as long")
    found["within two minutes"] = found["tacit"]["seconds"] <= 120
    print(f"tacit within two minutes: {'yes' if found['within two minutes'] else 'NO'}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
