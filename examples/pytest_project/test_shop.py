"""Ten tests, one of which forks at risk: pytest --forkproof -o pythonpath=risky (or mended)"""

import threading

import pytest
from shop import Prices, bill, bills


class Source:
    """Prices at once at first, and then as soon as it is told to."""

    def __init__(self):
        self.open = threading.Event()
        self.open.set()

    def __call__(self):
        self.open.wait()
        return {"tea": 3, "milk": 1}


@pytest.fixture
def source():
    source = Source()
    yield source
    source.open.set()


@pytest.fixture
def prices(source):
    prices = Prices(source)
    prices.refresh()
    return prices


def test_a_price(prices):
    assert prices.of("tea") == 3


def test_an_article_that_is_not_sold(prices):
    with pytest.raises(KeyError):
        prices.of("coffee")


def test_an_empty_basket(prices):
    assert bill(prices, {}) == 0


@pytest.mark.parametrize(
    ("basket", "expected"), [({"tea": 1}, 3), ({"milk": 2}, 2), ({"tea": 1, "milk": 1}, 4)]
)
def test_a_bill(prices, basket, expected):
    assert bill(prices, basket) == expected


def test_prices_are_refreshed_in_the_background(source):
    prices = Prices(source)
    prices.refresh_in_background().join()
    assert prices.of("milk") == 1


def test_bills_in_processes(prices):
    assert bills(prices, [{"tea": 1}, {"tea": 2}]) == [3, 6]


def test_no_bills(prices):
    assert bills(prices, []) == []


def test_bills_while_prices_are_refreshed(prices, source):
    source.open.clear()
    prices.refresh_in_background()
    prices.refreshing.wait()
    assert bills(prices, [{"tea": 1}, {"tea": 2}]) == [3, 6]
