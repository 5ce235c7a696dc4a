"""Squares, computed in processes, beside a thread that holds a lock which the processes take as well.

python squares.py fork         # multiprocessing's own way: hangs
python squares.py forkproof    # the same with forkproof.get_context(): does not
"""

import multiprocessing
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import forkproof

progress = threading.Lock()


def report():
    while True:
        with progress:
            time.sleep(0.05)
        time.sleep(0.001)


def square(number):
    with progress:
        return number**2


if __name__ == "__main__":
    ways = {"fork": multiprocessing.get_context, "forkproof": lambda _: forkproof.get_context()}
    context = ways[sys.argv[1]]("fork")
    threading.Thread(target=report, name="progress", daemon=True).start()
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        print(list(pool.map(square, range(6))))
