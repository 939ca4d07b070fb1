from types import SimpleNamespace

import numpy as np

from rlhf_jax.feedback import golden_set


def test_the_least_disputed_come_first_and_ties_go_by_id():
    ratings = {"d": [0, 4], "c": [1, 1, 1], "b": [1, 2], "e": [3, 3], "a": [-2, -1, -2, -1]}
    sentences = [SimpleNamespace(id=id_, ratings=np.array(values)) for id_, values in ratings.items()]
    order = [sentences[i].id for i in golden_set(sentences, n=4)]
    assert order == ["c", "e", "a", "b"]  # c and e are unanimous; a and b both have variance 1/4
    assert len(golden_set(sentences)) == 5
    assert golden_set(sentences, n=0).dtype == np.int64
