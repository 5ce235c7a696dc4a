"""The lock around name resolution (_emulate.c)."""

def install(locking: bool, delay: float, tracing: bool) -> None:
    """Replace the look-ups of `_socket`, which is imported. `delay`: seconds for which the lock is held longer.

    Called again it changes the settings only. Raises ImportError where there is no `_socket`.
    """

def address() -> int:
    """Where the lock is: a pthread_mutex_t."""
