"""Forks in a test suite: `pytest --forkproof`, and the fixture `fork_torture` (docs/how-to/pytest.md).

plugin.py     what pytest asks for: options, the mark, the fixture, the summary; nothing else is imported while it is off
session.py    the forks of one test, and what is said of them
limit.py      a child that nothing is known of ends after its time, by a process beside the tests
torture.py    forks at every bad moment of somebody's code
"""
