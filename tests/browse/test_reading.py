from pipeline.browse.reading import _order_of
from pipeline.core.keys import canonical
from pipeline.tokens.olmo_order import OlmoShuffle
from pipeline.tokens.order import FEISTEL


def test_the_order_of_a_run_is_known_from_its_key():
    for order in (FEISTEL, OlmoShuffle(), OlmoShuffle(6198)):
        assert _order_of({"order": canonical(order)}) == order


def test_a_run_of_before_orders_could_be_chosen_has_the_keyed_permutation():
    assert _order_of({}) == FEISTEL
