"""A parent and a child that ask over what was connected before the fork, at the same time.

    both(ask, before_fork=, in_child=, looks_first=)
                `ask(word)` asks the server to say the word, and returns what it answers; the others are the remedy, done only
                where the program is given the word "remedy" after the address. `looks_first`: the library looks, before it
                asks, whether something has come over a connection, and makes a new one then: so whether the two come to use the same
                is who asks first. Here that is the child, and the parent lets PAUSE seconds pass before it

Each process asks TIMES times, with words of its own, and prints one line: `right`, `mixed` (an answer to the other process's
question) or `error` (the library found something that the protocol does not allow), and after how many right answers. It ends
at its first wrong one, without another word to the server. One that waits for an answer which the other has taken prints nothing.
"""

import os
import sys
import time

TIMES = 300
PAUSE = 1.5  # Forkproof waits a second for the parent to close a connection that it may have handed over


def both(ask, before_fork=None, in_child=None, looks_first=False):
    assert ask("before") == "before"
    if before_fork and "remedy" in sys.argv:
        before_fork()
    ready, go = os.pipe(), os.pipe()
    pid = os.fork()
    name = "parent" if pid else "child"
    if pid:
        os.read(ready[0], 1)
        os.write(go[1], b"x")
    else:
        if in_child and "remedy" in sys.argv:
            in_child()
        if looks_first:
            assert ask("first") == "first"
            time.sleep(PAUSE)
        os.write(ready[1], b"x")
        os.read(go[0], 1)
    line = f"{name}: {_ask_all(ask, name)}\n"
    os.write(1, line.encode())
    if pid:
        os.waitpid(pid, 0)
    os._exit(0)


def _ask_all(ask, name):
    for i in range(TIMES):
        word = f"{name}{i}"
        try:
            answer = ask(word)
        except Exception as error:
            text = " ".join(str(error).split())[:90]
            return f"error after {i}: {type(error).__name__}: {text}"
        if answer != word:
            return f"mixed after {i}: asked for {word}, got {answer!r:.60}"
    return "right"


ADDRESS = sys.argv[1] if len(sys.argv) > 1 else ""
HOST, _, PORT = ADDRESS.partition(":")
