"""The order of samples: a permutation per epoch, the same from wherever it is entered."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.order import MIXTURE_BLOCK, EpochOrder, Mixture, block_shares

shard_lengths = st.lists(st.integers(1, 30), min_size=1, max_size=8)


def make_order(lengths: list[int], seed: int = 0, window: int = 16, repeats: int = 1, name: str = "set") -> EpochOrder:
    return EpochOrder(np.repeat(np.arange(len(lengths)), lengths), seed, name, window, repeats)


@settings(max_examples=60, deadline=None)
@given(shard_lengths, st.integers(0, 5), st.integers(1, 50), st.integers(1, 4), st.integers(0, 10**9))
def test_every_sample_is_visited_exactly_as_often_as_asked_in_each_epoch(lengths, seed, window, repeats, epoch):
    order = make_order(lengths, seed, window, repeats)
    visited = order.at(epoch * order.length + np.arange(order.length))
    assert np.bincount(visited, minlength=sum(lengths)).tolist() == [repeats] * sum(lengths)


@settings(max_examples=40, deadline=None)
@given(shard_lengths, st.integers(1, 40), st.integers(1, 3), st.lists(st.integers(0, 400), min_size=1, max_size=40))
def test_any_positions_in_any_order_give_the_same_samples_as_reading_through(lengths, window, repeats, positions):
    through = make_order(lengths, window=window, repeats=repeats).at(np.arange(401))
    jumped = [int(make_order(lengths, window=window, repeats=repeats).at(np.array([p]))[0]) for p in positions[:6]]
    assert jumped == through[positions[:6]].tolist()
    together = make_order(lengths, window=window, repeats=repeats).at(np.array(positions))
    assert together.tolist() == through[positions].tolist()


def test_epochs_seeds_and_datasets_have_orders_of_their_own():
    first = make_order([40, 40]).at(np.arange(160))
    assert first[:80].tolist() != first[80:].tolist()
    assert first.tolist() != make_order([40, 40], seed=1).at(np.arange(160)).tolist()
    assert first.tolist() != make_order([40, 40], name="other").at(np.arange(160)).tolist()


def test_windows_are_shuffled_each_in_a_way_of_its_own():
    order = make_order([4096], window=64)
    ways = set()
    for epoch in range(4):
        for number in range(16):
            samples = order.window_at(epoch, number)
            if np.ptp(samples) == 63:  # the turn of the epoch breaks one window in two
                ways.add(tuple(samples - samples.min()))
    assert len(ways) >= 60 and tuple(range(64)) not in ways


def test_epochs_cut_even_a_single_shard_into_other_windows():
    order = make_order([4096], window=64)
    together = [{frozenset(order.window_at(epoch, number).tolist()) for number in range(64)} for epoch in range(2)]
    assert not together[0] & together[1]


def test_each_epoch_reads_its_shards_in_a_sequence_of_its_own():
    order = make_order([4] * 40, window=1)
    sequences = set()
    for epoch in range(4):
        shards = order.at(epoch * order.length + np.arange(order.length)) // 4
        in_turn = shards[shards != np.roll(shards, 1)]  # in a circle: each epoch enters it elsewhere
        sequences.add(tuple(np.roll(in_turn, -int(np.argmin(in_turn))).tolist()))
    assert len(sequences) == 4 and all(sorted(sequence) == list(range(40)) for sequence in sequences)


def test_a_window_touches_few_shards():
    order = make_order([100] * 50, window=200)
    shards = order.at(np.arange(200)) // 100
    assert len(set(shards.tolist())) <= 4  # two or three, and one more where the epoch's turn cuts a shard
    assert len(set(order.at(np.arange(200)).tolist())) == 200


def test_crops_of_a_tile_lie_in_one_window():
    order = make_order([500], window=64, repeats=4)
    visited = order.at(np.arange(order.length))
    for sample in range(500):
        places = np.flatnonzero(visited == sample)
        assert len(set((places // 64).tolist())) == 1
    for first in range(0, 500 // 16 * 64, 16):  # a window's 16 samples are visited in turn, never one twice at once
        assert len(set(visited[first : first + 16].tolist())) == 16


def test_the_place_at_step_one_million_is_that_of_its_epoch():
    order = make_order([1000] * 1000, window=4096)
    first = 1_000_000 * 256
    epoch_start = first - first % order.length
    whole_epoch = order.at(np.arange(epoch_start, epoch_start + order.length))
    assert np.array_equal(np.sort(whole_epoch), np.arange(order.length))
    place = first - epoch_start
    assert np.array_equal(order.at(np.arange(first, first + 256)), whole_epoch[place : place + 256])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_mixture_shares_fill_a_block_and_follow_the_weights(weights):
    share = block_shares(weights)
    assert share.sum() == MIXTURE_BLOCK and share.min() >= 1
    exact = np.array(weights) / sum(weights) * MIXTURE_BLOCK
    assert np.abs(share - exact).max() <= len(weights)


def test_a_source_of_next_to_no_weight_has_a_place_in_each_block():
    assert block_shares([1e-9, 1, 1e-9]).tolist() == [1, MIXTURE_BLOCK - 2, 1]


def test_blocks_of_a_mixture_mix_its_sources_each_in_a_way_of_its_own():
    orders = [make_order([50], name=name) for name in "ab"]
    source, _ = Mixture(orders, [1, 1], 0, "set").at(np.arange(2 * MIXTURE_BLOCK))
    assert source[:MIXTURE_BLOCK].tolist() != source[MIXTURE_BLOCK:].tolist()


@settings(max_examples=4, deadline=None)
@given(st.lists(st.tuples(shard_lengths, st.floats(0.5, 8)), min_size=1, max_size=4), st.integers(0, 3))
def test_each_source_of_a_mixture_is_read_in_its_own_order(sources, seed):
    orders = [make_order(lengths, seed, 16, 1, str(i)) for i, (lengths, _) in enumerate(sources)]
    mixture = Mixture(orders, [weight for _, weight in sources], seed, "mix")
    source, sample = mixture.at(np.arange(2 * MIXTURE_BLOCK))
    for number, (lengths, _) in enumerate(sources):
        alone = make_order(lengths, seed, 16, 1, str(number))
        mine = sample[source == number]
        assert mine.tolist() == alone.at(np.arange(len(mine))).tolist()
        assert len(mine) == 2 * mixture.share[number]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 50_000), min_size=1, max_size=20), st.integers(0, 3))
def test_a_mixture_is_entered_anywhere(positions, seed):
    def mixture() -> Mixture:
        return Mixture([make_order([50, 70], seed), make_order([30], seed, name="b")], [3, 1], seed, "mix")

    source, sample = mixture().at(np.array(positions))
    for place, position in enumerate(positions[:5]):
        one_source, one_sample = mixture().at(np.array([position]))
        assert (one_source[0], one_sample[0]) == (source[place], sample[place])


def test_the_perceptual_projects_mixture_has_its_proportions():
    images = [15_000, 15_000, 5_000, 2_500]
    share = block_shares(images)
    assert np.allclose(share / MIXTURE_BLOCK, np.array(images) / sum(images), atol=1 / MIXTURE_BLOCK)
