"""`forkproof run`: the real interpreter on the real program, with Forkproof started inside it.

    target.py     what to run, checked before anything starts
    launcher.py   the parent process: starts, follows the events, reports
    follow.py     the marks in the environment by which Forkproof gets into the program, and follows it through exec
    supervise.py  the parent process: signals, stops and the exit status, as if it were the program
    outside.py    the parent process: watches the program's processes, for those that cannot watch themselves
    _start/       the other side: starts Forkproof in the program, and leaves no trace of itself

The program never runs in the launcher's process, whose imports (click, rich) would change the program's own
and hide the hazard that is being looked for.
"""
