"""CPython's own objects, read in the memory of another process: as much as it takes to ask a lock who has it.

Everything is read defensively. An object's type must have the name that it is expected to have, and where something does
not look as the layout says there is no answer rather than a wrong one. Layouts are those of CPython 3.11 to 3.15 with
the GIL, from its headers (each named where it is used); free-threaded builds have others and give no answer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

# PyHeapTypeObject.ht_cached_keys (cpython/object.h) and the first character of an ASCII str (cpython/unicodeobject.h).
_CACHED_KEYS = {(3, 11): 872, (3, 12): 880, (3, 13): 880, (3, 14): 880, (3, 15): 888}
_CHARACTERS = {(3, 11): 48, (3, 12): 40, (3, 13): 40, (3, 14): 40, (3, 15): 40}
_TYPE, _NAME, _BASIC_SIZE, _FLAGS = 8, 24, 32, 168
_INLINE_VALUES, _MANAGED_DICT = 1 << 2, 1 << 4
_LONGEST = 200
_MOST_ITEMS = 1000  # of a container; what lies behind them is not looked at
# PyTypeObject.tp_members, tp_base (cpython/object.h); a PyMemberDef (descrobject.h) has 40 bytes, the type 6 is an object's or none.
_MEMBERS, _BASE, _MEMBER = 240, 256, 40
_SLOT = (6, 16)  # _Py_T_OBJECT, Py_T_OBJECT_EX
# PyFunctionObject (cpython/funcobject.h): func_globals, func_code, func_closure; PyCodeObject (cpython/code.h): co_names and
# co_localsplusnames.
_GLOBALS, _CODE, _CLOSURE, _NAMES, _VARIABLE_NAMES = 16, 48, 72, 32, 96
_BLOCK = 64  # objects in a block of a deque (_collectionsmodule.c)
# TaskObj.task_coro (_asynciomodule.c); PyGenObject.gi_qualname and gi_iframe (cpython/genobject.h, pycore_interpframe_structs.h).
_COROUTINE = {(3, 11): 136, (3, 12): 136, (3, 13): 120, (3, 14): 128, (3, 15): 128}
_LONGEST_CHAIN = 20

_RECURSIVE = ("RLock", "_thread.RLock")
LOCKS = ("lock", "_thread.lock", *_RECURSIVE)
BUFFERED = ("_io.BufferedWriter", "_io.BufferedReader", "_io.BufferedRandom")
_LARGEST_HOLDER = 256  # bytes from an object's begin to its lock, at most
_PIECE = 1 << 24
_MOST_GLOBALS = 4000  # variables of a module
_MOST = 1 << 30  # bytes of memory to search for a lock


class Objects:
    """The objects of a process that runs `version` of CPython; `read(address, size)` reads its memory."""

    def __init__(self, read: Callable[[int, int], bytes], version: tuple[int, int]) -> None:
        self._read = read
        self.version = version

    @property
    def known(self) -> bool:
        """Whether the layouts of this version are known."""
        return self.version in _CACHED_KEYS

    def kind(self, address: int) -> str:
        """The name of an object's type; "" where there is no object."""
        return self._c_string(self._word(self._word(address + _TYPE) + _NAME))

    def size(self, address: int) -> int:
        """The bytes that an object takes, without what varies."""
        size = self._word(self._word(address + _TYPE) + _BASIC_SIZE)
        return size if 0 < size < 4096 else 0

    def text(self, address: int) -> str:
        """An ASCII str; "" for anything else."""
        if self.kind(address) != "str":
            return ""
        length = self._word(address + 16)
        data = self._read(address + _CHARACTERS[self.version], length) if 0 < length < _LONGEST else b""
        return data.decode("ascii", "replace") if data.isascii() else ""

    def number(self, address: int) -> int | None:
        """An int; None for anything else."""
        if self.kind(address) != "int":
            return None
        tag = self._word(address + 16)
        # 3.12 put the number of digits above three bits of flags (cpython/longintrepr.h).
        count = tag if self.version == (3, 11) else tag >> 3
        data = self._read(address + 24, 4 * count) if 0 <= count <= 3 else b""
        digits: tuple[int, ...] = struct.unpack(f"@{len(data) // 4}I", data)
        return sum(digit << 30 * at for at, digit in enumerate(digits))

    def attributes(self, address: int) -> Mapping[str, int]:
        """The attributes of an instance of a Python class: the address of each."""
        kind = self._word(address + _TYPE)
        flags = self._word(kind + _FLAGS)
        if not flags & _MANAGED_DICT:
            return {}
        dictionary = values = 0
        if self.version == (3, 11):  # pycore_object.h: _PyObject_ValuesPointer, _PyObject_ManagedDictPointer
            values, dictionary = self._word(address - 32), self._word(address - 24)
        elif self.version == (3, 12):  # pycore_object.h: PyDictOrValues, tagged
            either = self._word(address - 24)
            values, dictionary = (either + 1, 0) if either & 1 else (0, either)
        else:  # pycore_dict.h: _dictvalues; `valid` is its fourth byte
            dictionary = self._word(address - 24)
            inline = address + self.size(address)
            if flags & _INLINE_VALUES and self._read(inline + 3, 1) == b"\1":
                values = inline + 8
        if values:
            keys = self._word(kind + _CACHED_KEYS[self.version])
            return self._pairs(keys, values)
        return self._items(dictionary) if dictionary else {}

    def _items(self, dictionary: int) -> Mapping[str, int]:
        keys, values = self._word(dictionary + 32), self._word(dictionary + 40)
        if values and self.version >= (3, 13):
            values += 8
        return self._pairs(keys, values)

    def _pairs(self, keys: int, values: int) -> Mapping[str, int]:
        """pycore_dict.h: _dictkeysobject. `values` is 0 where they lie beside the keys."""
        head = self._read(keys, 32)
        if not head:
            return {}
        _, _, log_index_bytes, kind, _, _, count = struct.unpack("@qBBBxIqq", head)
        if not 0 <= count < _LONGEST or log_index_bytes > 12:
            return {}
        entries = keys + 32 + (1 << log_index_bytes)
        width, skip = (24, 8) if kind == 0 else (16, 0)
        found = {}
        for at in range(count):
            entry = entries + at * width + skip
            value = self._word(values + 8 * at) if values else self._word(entry + 8)
            if value and (name := self.text(self._word(entry))):
                found[name] = value
        return found

    # What objects refer to.

    def inside(self, address: int, name: str) -> int:
        """An attribute of an object, also one in a slot, or what a function encloses under that name; 0 where there is none."""
        if self.kind(address) == "function":
            return self._enclosed(address).get(name, 0)
        return self.attributes(address).get(name, 0) or self._slots(address).get(name, 0)

    def items(self, address: int) -> list[int]:
        """What a container has in it: a list, tuple, set or deque, the values of a dict, what waits in a queue."""
        kind = self.kind(address)
        if kind == "list":
            return self._words(self._word(address + 24), self._word(address + 16))
        if kind == "tuple":
            # 3.14 put the hash before the items (cpython/tupleobject.h).
            items = address + (24 if self.version < (3, 14) else 32)
            return self._words(items, self._word(address + 16))
        if kind == "dict":
            return list(self._items(address).values())
        if (
            kind == "set"
        ):  # setobject.h: pairs of key and hash; the type object of a deleted one has no type of that name
            table = self._words(self._word(address + 40), 2 * (self._word(address + 32) + 1))
            return [key for key in table[::2] if key and self.kind(key)]
        if kind == "collections.deque":
            return self._deque(address)
        if kind == "_queue.SimpleQueue":
            return self._simple_queue(address)
        queue = self.attributes(address).get("queue", 0)
        return self.items(queue) if queue else []

    def follow(self, path: str, variables: Mapping[str, int]) -> list[int]:
        """All that a path (evidence/paths.py) leads to from variables, which are given by their addresses."""
        first, *steps = path.replace("[]", ".[]").split(".")
        found = [variables[first]] if first in variables else []
        for step in steps:
            inner = (self.items(thing) if step == "[]" else [self.inside(thing, step)] for thing in found)
            found = [address for addresses in inner for address in addresses if address]
        return found

    def bound_to(self, address: int) -> int:
        """The object whose method this is; 0 if it is none."""
        return (
            self._word(address + 24) if self.kind(address) in ("method", "builtin_function_or_method") else 0
        )

    def referent(self, address: int) -> int:
        """What a weak reference refers to (weakrefobject.h: wr_object); 0 for none."""
        return self._word(address + 16) if self.kind(address) in ("weakref", "weakref.ReferenceType") else 0

    def loop_of(self, address: int) -> int:
        """The event loop of a future or task of asyncio's (_asynciomodule.c: fut_loop); 0 for what is none."""
        return self._word(address + 16) if self.kind(address) in ("_asyncio.Future", "_asyncio.Task") else 0

    def task_of(self, future: int) -> int:
        """The task that awaits a future of asyncio's; 0 if there is none."""
        tasks = (self.bound_to(callback) for callback in self.callbacks_of(future))
        return next((task for task in tasks if self.kind(task) == "_asyncio.Task"), 0)

    def callbacks_of(self, future: int) -> list[int]:
        """What is called when a future of asyncio's is done (fut_callback0, and fut_callbacks: pairs of callback and context)."""
        pairs = [self.items(pair) for pair in self.items(self._word(future + 40))]
        return [self._word(future + 24), *(pair[0] for pair in pairs if pair)]

    def awaits(self, task: int) -> tuple[list[str], int]:
        """The coroutines of a task of asyncio's, outermost first, and the future that the innermost awaits (0: none is seen)."""
        names: list[str] = []
        inner = self._word(task + _COROUTINE[self.version]) if self.kind(task) == "_asyncio.Task" else 0
        while self.kind(inner) in ("coroutine", "generator") and len(names) < _LONGEST_CHAIN:
            names.append(self.text(self._word(inner + (40 if self.version == (3, 11) else 32))) or "?")
            inner = self._on_top_of_stack(inner)
        # futureiterobject: fi_future
        return names, self._word(inner + 16) if self.kind(inner) == "_asyncio.FutureIter" else 0

    def _on_top_of_stack(self, coroutine: int) -> int:
        """What a coroutine that is suspended awaits."""
        frame = coroutine + (80 if self.version == (3, 11) else 72)
        if self.version >= (3, 14):  # stackpointer; the two lowest bits of a _PyStackRef are tags
            above = 1 if self.version == (3, 14) else 2  # 3.15 has an index on top of what is iterated
            return self._word(self._word(frame + 64) - 8 * above) & ~3
        count = int.from_bytes(self._read(frame + 64, 4), "little")  # stacktop, of localsplus
        return self._word(frame + 72 + 8 * (count - 1)) if 0 < count < _MOST_ITEMS else 0

    def length(self, address: int) -> int | None:
        """How many things are in a set (setobject.h: used); None for what is none."""
        return self._word(address + 24) if self.kind(address) == "set" else None

    def _slots(self, address: int) -> Mapping[str, int]:
        found: dict[str, int] = {}
        kind = self._word(address + _TYPE)
        while kind:
            at = self._word(kind + _MEMBERS)
            while at and (member := self._read(at, _MEMBER)):
                name, what, offset = struct.unpack_from("@Qixxxxq", member)
                if not name or not 0 < offset < 4096:
                    break
                if what in _SLOT and (value := self._word(address + offset)):
                    found.setdefault(self._c_string(name), value)
                at += _MEMBER
            kind = self._word(kind + _BASE)
        return found

    def used_by(self, address: int) -> frozenset[int]:
        """What a function encloses, and the global variables that it names; nothing for what is no function."""
        if self.kind(address) != "function":
            return frozenset()
        names = {self.text(name) for name in self.items(self._word(self._word(address + _CODE) + _NAMES))}
        variables = self._items(self._word(address + _GLOBALS))
        return frozenset(
            {*self._enclosed(address).values(), *(variables[name] for name in names if name in variables)}
        )

    def _enclosed(self, function: int) -> Mapping[str, int]:
        """The last of a code object's variables are those that it encloses."""
        cells = self.items(self._word(function + _CLOSURE))
        names = self.items(self._word(self._word(function + _CODE) + _VARIABLE_NAMES))
        if not cells:
            return {}
        return {
            self.text(name): self._word(cell + 16)
            for name, cell in zip(names[-len(cells) :], cells, strict=False)
            if self.kind(cell) == "cell"
        }

    def _deque(self, address: int) -> list[int]:
        count, block, at = (self._word(address + offset) for offset in (16, 24, 40))
        found: list[int] = []
        while len(found) < min(count, _MOST_ITEMS) and block and at < _BLOCK:
            found += self._words(block + 8 + 8 * at, min(count - len(found), _BLOCK - at))
            block, at = self._word(block + 8 + 8 * _BLOCK), 0
        return found

    def _simple_queue(self, address: int) -> list[int]:
        """_queuemodule.c: a list and where it begins up to 3.12, a ring buffer from 3.13 on."""
        if self.version < (3, 13):
            return self.items(self._word(address + 32))[self._word(address + 40) :]
        first, items, size, count = (self._word(address + offset) for offset in (32, 40, 48, 56))
        ring = self._words(items, size)
        return [ring[(first + at) % size] for at in range(min(count, size))] if ring else []

    def _words(self, address: int, count: int) -> list[int]:
        data = self._read(address, 8 * count) if 0 < count <= 2 * _MOST_ITEMS else b""
        return list(struct.unpack(f"@{len(data) // 8}Q", data))

    # Locks.

    def owner_of_recursive(self, address: int) -> int | None:
        """The ident of the thread that has an RLock (_threadmodule.c: rlockobject); None if it is none, or nobody's."""
        if self.kind(address) not in _RECURSIVE:
            return None
        return self._word(address + 24) or None

    def is_waited_for_at(self, lock: int, futex: int, mutex: int) -> bool:
        """Whether a thread that waits at the word `futex` waits for this object.

        A `lock` holds its PyMutex itself (3.14 on; `mutex` is the address that the thread is parked at), or points to
        the semaphore that the futex is in. A buffered file or another object does either somewhere inside.
        """
        if mutex and lock + 16 <= mutex < lock + max(self.size(lock), 17):
            return True
        data = self._read(lock, self.size(lock))
        words = [data[at : at + 8] for at in range(16, len(data) - 7, 8)]
        return any(struct.pack("@L", word) in words for word in (futex, mutex) if word)

    def parked_at(self, futex: int) -> int:
        """The address that a thread is parked at (3.13 on), whose own semaphore is at `futex`; 0 if that is none.

        Python/parking_lot.c: in a wait_entry the address lies before the semaphore. A lock that has its semaphore to
        itself (up to 3.13, and still for buffered files) has the size of a malloc'ed piece there, which is no address.
        """
        address = self._word(futex - 8) if self.version >= (3, 13) else 0
        return address if self._read(address, 1) else 0

    def behind(self, address: int) -> int:
        """What is in a cell (cpython/cellobject.h: ob_ref), as of a variable of an enclosing function; anything else itself."""
        return self._word(address + 16) if self.kind(address) == "cell" else address

    def global_names(self, address: int, memory: Iterable[tuple[int, int]]) -> list[tuple[str, str, bool]]:
        """The variables of modules that refer to an object: name, module, and whether it is in a class of that module.

        A reference in a dict's table (pycore_dict.h: PyDictUnicodeEntry, PyDictKeyEntry) has its name before it, and the table of
        a module begins with `__name__`, that of a class with `__module__`.
        """
        found = []
        for place in self.places_of(address, memory):
            if (name := self.text(self._word(place - 8))) and (owner := self._table_of(place)):
                found.append((name, *owner))
        return found

    def _table_of(self, place: int) -> tuple[str, bool] | None:
        for width in (16, 24):
            for value in range(place, place - width * _MOST_GLOBALS, -width):
                key = self._word(value - 8)
                name = self.text(key)
                if name in ("__name__", "__module__"):
                    module = self.text(self._word(value))
                    return (module, name == "__module__") if module else None
                if key and not name:
                    break
        return None

    def handle_of(self, semlock: int) -> int:
        """The address of the semaphore of a SemLock (_multiprocessing/semaphore.c: handle, last_tid, count)."""
        return self._word(semlock + 16)

    def count_of(self, semlock: int) -> int:
        """How often a process has taken a SemLock, less how often it has let go of it."""
        return int.from_bytes(self._read(semlock + 32, 4), "little", signed=True)

    def places_of(self, word: int, memory: Iterable[tuple[int, int]], most: int = _MOST) -> Iterator[int]:
        """The places where `word` is, as a whole, aligned word, in the first `most` bytes of `memory` (pairs of begin and end)."""
        wanted = struct.pack("@L", word)
        for begin, end in memory:
            for start in range(begin, end, _PIECE):
                size = min(_PIECE, end - start)
                most -= size
                if most < 0:
                    return
                data = self._read(start, size)
                at = data.find(wanted)
                while at >= 0:
                    if at % 8 == 0:
                        yield start + at
                    at = data.find(wanted, at + 1)

    def holder_of(
        self, futex: int, parked: int, memory: Iterable[tuple[int, int]]
    ) -> tuple[int, str, int | None] | None:
        """The object whose lock a thread waits for at the word `futex`: its address, its type, and the owner that it names.

        Its lock is part of it, or it has the address of its lock: of a PyMutex (3.14 on), or of the semaphore that
        the thread waits at. That is searched for in `memory` (pairs of begin and end). A buffered file and an RLock
        have the owner after the lock.
        """
        memory = list(memory)
        words = [word for word in (futex, parked) if word]
        places = chain([parked] if parked else (), *(self.places_of(word, memory) for word in words))
        for place in places:
            for begin in range(place - 16, place - _LARGEST_HOLDER, -8):
                kind = self.kind(begin)
                if kind in (*LOCKS, *BUFFERED) and place < begin + self.size(begin):
                    names_owner = kind in _RECURSIVE or kind in BUFFERED
                    return begin, kind, (self._word(place + 8) or None) if names_owner else None
        return None

    def _word(self, address: int) -> int:
        data = self._read(address, 8) if 0 < address < 1 << 63 else b""
        return int.from_bytes(data, "little") if data else 0

    def _c_string(self, address: int) -> str:
        """Read page by page: what follows the string may not be there."""
        found = b""
        while address and len(found) < _LONGEST:
            size = min(64, 4096 - address % 4096)
            piece = self._read(address, size)
            found += piece.partition(b"\0")[0]
            if not piece or b"\0" in piece:
                break
            address += size
        return found.decode("ascii", "replace")
