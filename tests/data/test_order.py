import numpy as np

from rlhf_jax.data import epoch_order


def test_an_order_is_a_permutation_and_differs_by_seed_and_epoch():
    orders = {(seed, epoch): epoch_order(500, seed, epoch) for seed in (0, 1) for epoch in (0, 1)}
    for order in orders.values():
        np.testing.assert_array_equal(np.sort(order), np.arange(500))
    assert len({tuple(order.tolist()) for order in orders.values()}) == 4
    np.testing.assert_array_equal(orders[1, 0], epoch_order(500, 1, 0))


def test_an_order_is_the_same_for_ever():
    # a resumed run on a newer release must see the same data
    assert epoch_order(8, seed=0, epoch=0).tolist() == [5, 3, 6, 7, 4, 2, 1, 0]


def test_nothing_has_an_order():
    assert epoch_order(0, 0, 0).shape == (0,)
    assert epoch_order(1, 0, 0).tolist() == [0]
