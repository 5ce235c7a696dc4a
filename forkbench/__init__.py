"""Real programs that fork with threads; `python -m forkbench` runs them."""
