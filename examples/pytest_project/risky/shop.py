"""A small shop whose prices are refreshed by a thread, and whose bills are computed in forked processes."""

import multiprocessing
import threading

_fork = multiprocessing.get_context("fork")


class Prices:
    """Prices by article, refreshed now and then by a thread."""

    def __init__(self, source):
        self._source = source
        self._lock = threading.Lock()
        self._prices = {}
        self.refreshing = threading.Event()

    def refresh_in_background(self):
        thread = threading.Thread(target=self.refresh, name="price refresher", daemon=True)
        thread.start()
        return thread

    def refresh(self):
        with self._lock:
            self.refreshing.set()
            self._prices = self._source()
        self.refreshing.clear()

    def of(self, article):
        with self._lock:
            return self._prices[article]


def bill(prices, basket):
    """What a basket costs."""
    return sum(prices.of(article) * count for article, count in basket.items())


def bills(prices, baskets):
    """What each basket costs, computed by a process for each."""
    results = _fork.Queue()
    processes = [_fork.Process(target=_put_bill, args=(results, prices, basket)) for basket in baskets]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a bill could not be computed")
    return sorted(results.get() for _ in processes)


def _put_bill(results, prices, basket):
    results.put(bill(prices, basket))
