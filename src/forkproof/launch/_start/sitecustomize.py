"""Starts Forkproof in a program that `forkproof run` started, then is as if it had never been there.

`site` imports this before the program runs, because the launcher put this folder first on PYTHONPATH. The
environment's own `sitecustomize`, which this one hides, is imported from here: it is then the one in
`sys.modules`. Where there is none, the ImportError is exactly what `site` expects when there is none, and
this module is gone too. Only modules that every interpreter has loaded by now are imported: an import is a
hazard, and one made here would hide the program's.

Where another platform is emulated, it is for the programs that the program starts as well: then the way here
stays in the environment. So this has to be readable by any Python, and does nothing in another one than
the launcher's.
"""

import marshal
import os
import sys


def _step_aside():
    # type: () -> dict[str, object] | None
    """Restore `sys.path`, `sys.modules` and the environment; return the options, None if there are none."""
    here = os.path.dirname(__file__)
    sys.path[:] = [entry for entry in sys.path if entry != here]
    sys.path_importer_cache.pop(here, None)
    sys.modules.pop("sitecustomize", None)
    python, _, packed = os.environ.get("_FORKPROOF_RUN", "").partition(":")
    if python != str(sys.hexversion):
        return None
    options = marshal.loads(bytes.fromhex(packed))  # type: dict[str, object]
    former = options["pythonpath"]
    if options.get("emulate") or options.get("trace_lookups"):
        passed_on = dict(options, policy=None, change=None)
        os.environ["_FORKPROOF_RUN"] = python + ":" + marshal.dumps(passed_on).hex()
        return options
    del os.environ["_FORKPROOF_RUN"]
    if isinstance(former, str):
        os.environ["PYTHONPATH"] = former
    else:
        os.environ.pop("PYTHONPATH", None)
    return options


def _activate(options):
    # type: (dict[str, object]) -> None
    """Forkproof on; whatever goes wrong, the program runs on as it would have without."""
    try:
        try:
            import forkproof
        except ImportError:
            # The launcher found it through its own sys.path[0], and the program's is not there yet.
            package = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
            sys.path.append(os.path.dirname(package))
            try:
                import forkproof  # noqa: F401
            finally:
                sys.path.pop()
        from forkproof._activate import activate

        activate(options)
    except Exception as error:
        if sys.stderr is not None:
            message = "forkproof: off, for it could not start: %s: %s" % (type(error).__name__, error)
            sys.stderr.write(message.replace("\n", " ") + "\n")


_options = _step_aside()
try:
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401  # the environment's own
finally:
    if _options is not None:
        _activate(_options)
