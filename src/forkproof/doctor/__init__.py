"""`forkproof doctor`: what a process waits for, and who has it, seen from outside, with or without Forkproof in it.

    process.py    the process as the kernel shows it: threads, system calls, memory        (/proc)
    stacks.py     Python and native stacks                                                 (pystack)
    deputy.py     has stacks read where Yama lets nobody do so who was not there before       yama.py   what that says
    objects.py    CPython's lock objects in its memory
    importlock.py the interpreter's import lock, in its own variables
    native.py     the C library's locks in its memory        symbols.py   their names      (pyelftools)
    record.py     what Forkproof left there at the fork
    origin.py     which process it was forked from
    waits.py      what each thread waits for
    workers.py    whose work that is, where the fork left them behind
    between.py    which processes have what a thread waits for, and whether they wait in turn
    descriptors.py, filelocks.py, semaphores.py   what the kernel, and each process's books, tell of that
    holders.py    which thread has what another waits for, and where that leads
    verdict.py    whether that is for ever, and the proof
    examine.py    all of it, in the order that costs the process least
    errors.py     why that was not possible

Nothing is imported here: the reader of stacks, a process of its own for each look, needs one of these modules only.

It needs the extra `forkproof[doctor]`, in the interpreter that it runs on; that may be another than the process's.
"""
