"""What each thread holds, is acquiring and is inside: read, named and told as hazards. Nothing here acts.

`_native` looks (C, exact, no Python code runs); `naming` finds the words for what was seen; `mended` knows what other
libraries put right in the child themselves; `coarse` looks where the extension does not know the interpreter.
"""
