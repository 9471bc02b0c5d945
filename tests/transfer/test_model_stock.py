import copy
import itertools

import pytest
import torch
from torch import nn

from tacit.errors import ArgumentError
from tacit.transfer import model_stock


def shell(n, dim, centre, radius, seed=0):
    """A pretrained point and n points at `radius` from a centre, exactly as the paper's geometry has them.

    Centre minus pretrained, and every point minus centre, are at right angles to each other.
    """
    generator = torch.Generator().manual_seed(seed)
    axes, _ = torch.linalg.qr(torch.randn(dim, n + 1, generator=generator, dtype=torch.float64))
    w0 = torch.randn(dim, generator=generator, dtype=torch.float64)
    middle = w0 + centre * axes[:, 0]
    return w0, middle, [middle + radius * axes[:, i + 1] for i in range(n)]


def foot(point, w0, ends):
    """Where the perpendicular from `point` meets the flat through w0 and the ends, by least squares."""
    span = torch.stack([w - w0 for w in ends], dim=1)
    return w0 + span @ torch.linalg.lstsq(span, (point - w0)[:, None]).solution[:, 0]


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize(("centre", "radius"), [(1.0, 0.5), (1.0, 2.0), (0.1, 3.0)])
def test_it_is_the_foot_of_the_perpendicular_from_the_centre(n, centre, radius):
    w0, middle, ends = shell(n, 20, centre, radius)
    merged = model_stock({"w": w0}, [{"w": w} for w in ends])["w"]
    torch.testing.assert_close(merged, foot(middle, w0, ends))


def test_it_is_nearer_the_centre_than_any_other_blend_of_anchor_and_average():
    w0, middle, ends = shell(3, 20, 1.0, 2.0)
    merged = model_stock({"w": w0}, [{"w": w} for w in ends])["w"]
    average = torch.stack(ends).mean(0)
    nearest = min((t * average + (1 - t) * w0 - middle).norm() for t in torch.linspace(0, 1.2, 1201))
    assert (merged - middle).norm() <= nearest + 1e-9
    assert (merged - middle).norm() < (average - middle).norm() < (ends[0] - middle).norm()


def test_two_models_in_closed_form():
    """t = 2 cos / (1 + cos), by hand for vectors at 60 degrees and of unequal length."""
    w0, w1, w2 = torch.zeros(2), torch.tensor([2.0, 0.0]), torch.tensor([0.5, 0.75**0.5])
    merged = model_stock({"w": w0}, [{"w": w1}, {"w": w2}])["w"]
    torch.testing.assert_close(merged, (2 * 0.5 / 1.5) * (w1 + w2) / 2)


def test_the_cosines_of_all_pairs_are_averaged():
    w0 = torch.randn(7, dtype=torch.float64)
    ends = [w0 + 1 + torch.rand(7, dtype=torch.float64) for _ in range(4)]
    pairs = [torch.cosine_similarity(a - w0, b - w0, dim=0) for a, b in itertools.combinations(ends, 2)]
    cosine = sum(pairs) / 6
    t = 4 * cosine / (1 + 3 * cosine)
    merged = model_stock({"w": w0}, [{"w": w} for w in ends])["w"]
    torch.testing.assert_close(merged, t * sum(ends) / 4 + (1 - t) * w0)


def test_an_angle_for_each_layer_filter_or_model():
    torch.manual_seed(0)
    w0 = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    ends = [{name: w + 0.5 + torch.rand_like(w) for name, w in w0.items()} for _ in range(2)]
    by_layer = model_stock(w0, ends)
    for name in w0:
        alone = model_stock({name: w0[name]}, [{name: end[name]} for end in ends])
        torch.testing.assert_close(by_layer[name], alone[name])
    by_filter = model_stock(w0, ends, granularity="filter")
    for row in range(3):
        alone = model_stock({"r": w0["a"][row]}, [{"r": end["a"][row]} for end in ends])
        torch.testing.assert_close(by_filter["a"][row], alone["r"])
    torch.testing.assert_close(by_filter["b"], by_layer["b"])
    by_model = model_stock(w0, ends, granularity="model")
    flat = [torch.cat([state["a"].flatten(), state["b"]]) for state in (w0, *ends)]
    alone = model_stock({"w": flat[0]}, [{"w": w} for w in flat[1:]])["w"]
    torch.testing.assert_close(torch.cat([by_model["a"].flatten(), by_model["b"]]), alone)


def test_layers_that_agree_are_kept_and_those_that_did_not_move_or_disagree_go_back():
    w0 = {"agree": torch.zeros(2), "frozen": torch.ones(2), "against": torch.zeros(2)}
    first = {"agree": torch.tensor([1.0, 2.0]), "frozen": torch.ones(2), "against": torch.tensor([1.0, 0.0])}
    second = {**first, "against": torch.tensor([-1.0, 0.1])}
    merged = model_stock(w0, [first, second])
    torch.testing.assert_close(merged["agree"], first["agree"])
    assert torch.equal(merged["frozen"], torch.ones(2))
    assert torch.equal(merged["against"], torch.zeros(2))


def test_a_network_with_buffers_in_half_precision_and_another_memory_layout():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).to(memory_format=torch.channels_last)
    ends = [copy.deepcopy(net) for _ in range(2)]
    for end in ends:
        end(torch.randn(4, 3, 8, 8))
        for p in end.parameters():
            p.data += 0.1 + 0.1 * torch.rand_like(p)
    states = [end.state_dict() for end in ends]
    before = copy.deepcopy([net.state_dict(), *states])
    merged = model_stock(net.state_dict(), states)
    copy.deepcopy(net).load_state_dict(merged)
    assert merged["1.num_batches_tracked"] == 1
    assert (merged["1.running_var"] > 0).all()
    for state, kept in zip([net.state_dict(), *states], before, strict=True):
        assert all(torch.equal(state[name], kept[name]) for name in kept), "an input was changed"
        shared = {w.data_ptr() for w in state.values()} & {w.data_ptr() for w in merged.values()}
        assert not shared, "the result shares memory with an input"
    half = model_stock(_half(net.state_dict()), [_half(state) for state in states])
    assert half["0.weight"].dtype == torch.bfloat16
    torch.testing.assert_close(half["0.weight"].float(), merged["0.weight"], rtol=0.02, atol=0.02)


def _half(state):
    return {name: w.bfloat16() if w.is_floating_point() else w for name, w in state.items()}


def test_what_cannot_be_is_refused():
    w0 = {"w": torch.zeros(2)}
    with pytest.raises(ArgumentError, match="at least 2"):
        model_stock(w0, [w0])
    with pytest.raises(ArgumentError, match="its new head included"):
        model_stock(w0, [w0, {"w": torch.zeros(3)}])
    with pytest.raises(ArgumentError, match="'v'"):
        model_stock(w0, [w0, {"w": torch.zeros(2), "v": torch.zeros(1)}])
    with pytest.raises(ArgumentError, match="granularity"):
        model_stock(w0, [w0, w0], granularity="layers")
