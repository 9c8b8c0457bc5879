from pathlib import Path

from pipeline.browse.reading import _order_of
from pipeline.core.keys import canonical
from pipeline.store.lineage import Made
from pipeline.tokens.olmo_order import OlmoShuffle
from pipeline.tokens.order import FEISTEL


def order_of(args):
    return _order_of(None, Made("", "", "", "", Path(), args), Path("key.json"))


def test_the_order_of_a_run_is_known_from_its_key():
    for order in (FEISTEL, OlmoShuffle(), OlmoShuffle(6198)):
        assert order_of({"order": canonical(order)}) == order


def test_a_run_of_before_orders_could_be_chosen_has_the_keyed_permutation():
    assert order_of({}) == FEISTEL
