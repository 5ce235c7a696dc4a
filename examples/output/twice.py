"""A line that is printed once and comes out twice, where stdout is no terminal: `python twice.py | cat`."""

import os

print("starting")
pid = os.fork()
if pid == 0:
    print("in the child")
else:
    os.waitpid(pid, 0)
    print("in the parent")
