"""Experiments: a program that hangs, told as a story (`forkproof demo`)."""
