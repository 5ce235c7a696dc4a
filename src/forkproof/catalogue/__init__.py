"""What is known of the C functions a thread may be inside when the process forks: data, and this small reader of it.

`calls.toml` lists families of calls, `locks.toml` locks of libraries that no Python frame shows, `warnings.toml` what other
code says about forks without knowing whether they are at risk. A *name* there is
dotted: a module and a function (`_socket.getaddrinfo`), or a module, a type and a method (`_io.BufferedWriter.write`),
which means the descriptor in the type's own `__dict__`; or a type itself, for the call that makes one.

Nothing here imports what it describes: to import `ssl` because it is listed would change the program that is watched
(and import it at a bad moment). A name resolves when its module is in `sys.modules` already, and not before.

For the same reason it does without `tomllib`, which imports `re`, `typing`, `datetime` and eleven more (10 to 20 ms on 3.11
to 3.14): it reads the part of TOML that these files keep to, and a test holds it to what tomllib reads in them.

Keys of a [[call]]:
    what         what a report calls it
    names        the C functions, dotted
    resource     "process": one lock for the whole process; "object": the object that the method is called on;
                 "stream": the buffered object that the file, the text stream or print() ends in
    streams      (optional) for functions that are given no file: which of "stdin", "stdout" and "stderr" of sys they use
    keeps        (optional) true: the function has a reference of its own to the file that it is called on
    only         (optional) "host-name": only when the first argument is a host's name, not a numeric address;
                 "address": only when some argument is an address, that is a tuple, whose host is a name
    gil_outside  true: the lock has been let go before the call waits for the GIL to return, so a thread that waits
                 for the GIL at the end of the call holds nothing any more
    platforms    (optional) prefixes of sys.platform, which is taken as "linux-gnu" where the C library is glibc (musl
                 takes its own locks at a fork, so that they do not outlive it)
    python       (optional) versions, as in ">=3.11,<3.14"
    name_service (optional) only where /etc/nsswitch.conf has users or groups looked up by one of these modules
    emulated     (optional) only where `forkproof run --emulate` of that name is on; such entries come first, for the
                 first that names a function is the one that counts
    holds, child, source, advice   sentences: what is held, what the child does, how it is known, the mend

Keys of a [[warning]]:
    what         whose it is, and where
    contains     texts that are all in its message
    category     the built-in class
    issued       "parent": at the fork, in the process that forks; "child": in the child, at any time afterwards
    python       (optional) as above
    meaning, moot, source   sentences: what it says to its reader, when there is nothing in it, how it is known

A [[consumer]] has `names`, of C functions and types that go on with the iterator which is their first argument, and
`keeps`: whether they have a reference of their own to it meanwhile.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any


emulated: set[str] = set()
"""What `lab.emulate` has switched on in this process."""


class Call:
    """A family of C calls that may hold one lock. Immutable by convention; see the module's docstring for the fields."""

    __slots__ = (
        "advice",
        "child",
        "emulated",
        "gil_outside",
        "holds",
        "keeps",
        "name_service",
        "names",
        "only",
        "platforms",
        "python",
        "resource",
        "source",
        "streams",
        "what"
    )  # fmt: skip

    what: str
    names: tuple[str, ...]
    resource: str
    only: str | None
    streams: tuple[str, ...]
    keeps: bool
    gil_outside: bool
    name_service: tuple[str, ...]
    platforms: tuple[str, ...]
    python: str
    emulated: str | None
    holds: str
    child: str
    source: str
    advice: str

    def __init__(self, entry: dict[str, Any]) -> None:
        _check_keys(self, entry)
        self.what = entry["what"]
        self.names = tuple(entry["names"])
        self.resource = entry["resource"]
        self.only = entry.get("only")
        self.streams = tuple(entry.get("streams", ()))
        self.keeps = entry.get("keeps", False)
        self.gil_outside = entry["gil_outside"]
        self.name_service = tuple(entry.get("name_service", ()))
        self.platforms = tuple(entry.get("platforms", ()))
        self.python = entry.get("python", "")
        self.emulated = entry.get("emulated")
        self.holds = entry["holds"]
        self.child = entry["child"]
        self.source = entry["source"]
        self.advice = entry["advice"]

    def applies(self, platform: str, version: tuple[int, ...]) -> bool:
        """Whether this family is a hazard on such a platform (as `sys.platform`) and interpreter (as (3, 12, 1))."""
        if self.emulated is not None and self.emulated not in emulated:
            return False
        if self.platforms and not any(platform.startswith(p) for p in self.platforms):
            return False
        return version_matches(self.python, version)

    def __repr__(self) -> str:
        return f"<Call {self.what}>"


class Lock:
    """A process-wide lock of a library (`h5py._objects.phil`) that is held in code without Python frames."""

    __slots__ = ("advice", "distribution", "module", "path", "source", "versions", "what")

    path: str
    module: str
    distribution: str
    versions: str
    what: str
    source: str
    advice: str

    def __init__(self, entry: dict[str, Any]) -> None:
        _check_keys(self, entry, name="path")
        optional = {"versions": "", "module": entry["path"].rpartition(".")[0]}
        for key in self.__slots__:
            setattr(self, key, entry.get(key, optional[key]) if key in optional else entry[key])

    @property
    def steps(self) -> tuple[str, ...]:
        """The module, and the attributes from there on."""
        return (self.module, *self.path.removeprefix(f"{self.module}.").split("."))

    @property
    def marker(self) -> str:
        """What the file names of the library's frames contain."""
        return f"/{self.path.partition('.')[0]}/"

    def concerns_loaded(self) -> bool:
        """Whether the library is loaded in a version that has the fault."""
        return version_matches(self.versions, _loaded_version(self.distribution))

    def __repr__(self) -> str:
        return f"<Lock {self.path}>"


class Warning:
    """A blanket warning about forks. See the module's docstring for the fields."""

    __slots__ = ("category", "contains", "issued", "meaning", "moot", "python", "source", "what")

    what: str
    contains: list[str]
    category: str
    issued: str
    python: str
    meaning: str
    moot: str
    source: str

    def __init__(self, entry: dict[str, Any]) -> None:
        _check_keys(self, entry)
        for key in self.__slots__:
            setattr(self, key, entry[key] if key != "python" else entry.get(key, ""))


class Worker:
    """A function that threads run on which others rely; a child of a fork does not have them. Keys of a [[worker]]:

    what          what a report calls such a thread
    run           the functions, each as module and qualified name (`queue:Queue.get`)
    methods       (optional) methods in C that do it, each dotted; what one is called on is its variable `self`
    child         what happens in a child that needs it
    each          (optional) the function says little by itself: told of for each function that calls it
    executor      (optional) the variable that has a weak reference to the executor whose jobs are done
    queue         (optional) the path to the queue that is emptied (evidence/paths.py: `self.queue`)
    job           (optional) the variable that has the job at hand
    awaited       (optional) paths to what a child may wait for: queues, futures, the object that is served. Without any a child
                  that needs the thread loses something and does not hang
    jobs          (optional) paths to what it has been given to do and has not begun: a child that waits for something to which
                  one of these leads waits for the thread
    last          (optional) no library starts another in its place, so that what it was asked for is never done
    broken        (optional) path to the attribute in which its executor keeps why it is broken; while that is false, none is. An
                  executor refuses work when it is set, so a child that has no such thread can be told instead of hanging
    fails         (optional) path to the jobs, each with a `future`, that it alone would have completed
    distribution  (optional) the library, if it is not Python's own
    mended        (optional) its versions that mend themselves at a fork: then it is no hazard
    mended_by     (optional) functions of its own that fork and put it right in the child: no hazard of a fork in one
    source, advice   how it is known, and the mend
    """

    __slots__ = (
        "advice",
        "awaited",
        "broken",
        "child",
        "distribution",
        "each",
        "executor",
        "fails",
        "job",
        "jobs",
        "last",
        "mended",
        "mended_by",
        "methods",
        "queue",
        "run",
        "source",
        "what",
    )

    what: str
    run: tuple[str, ...]
    methods: tuple[str, ...]
    child: str
    each: bool
    executor: str
    queue: str
    job: str
    awaited: tuple[str, ...]
    jobs: tuple[str, ...]
    last: bool
    broken: str
    fails: str
    distribution: str
    mended: str | None
    mended_by: tuple[str, ...]
    source: str
    advice: str

    def __init__(self, entry: dict[str, Any]) -> None:
        _check_keys(self, entry)
        self.what, self.child = entry["what"], entry["child"]
        self.source, self.advice = entry["source"], entry["advice"]
        self.run, self.methods = tuple(entry["run"]), tuple(entry.get("methods", ()))
        self.each = entry.get("each", False)
        self.executor, self.queue, self.job = (entry.get(key, "") for key in ("executor", "queue", "job"))
        self.awaited, self.jobs = (tuple(entry.get(key, ())) for key in ("awaited", "jobs"))
        self.last = entry.get("last", False)
        self.broken, self.fails = entry.get("broken", ""), entry.get("fails", "")
        self.distribution = entry.get("distribution", "")
        self.mended = entry.get("mended")
        self.mended_by = tuple(entry.get("mended_by", ()))

    def is_mended(self) -> bool:
        """Whether the library that is loaded puts it right in a child itself."""
        return self.mended is not None and version_matches(self.mended, _loaded_version(self.distribution))

    def __repr__(self) -> str:
        return f"<Worker {self.what}>"


class Wait:
    """Functions in which threads wait for one thing. Keys of a [[wait]]:

    what     what a report says that they wait for
    run      the functions, each as module and qualified name; none where `polls` says all
    things   (optional) paths from their variables to the objects of which one has to answer
    by       (optional) paths from such an object to others that answer for it
    polls    (optional) functions in C, dotted, that it calls again and again; `time.sleep` always is one. Or methods that look
             again and again themselves, called from wherever
    pool     (optional) the native threads (`what` of a [[pool]]) without which nothing that it waits for comes about
    idle     (optional) a program may wait so on purpose, until a signal ends it
    """

    __slots__ = ("by", "idle", "polls", "pool", "run", "things", "what")

    what: str
    run: tuple[str, ...]
    things: tuple[str, ...]
    by: tuple[str, ...]
    polls: tuple[str, ...]
    pool: str
    idle: bool

    def __init__(self, entry: dict[str, Any]) -> None:
        _check_keys(self, entry)
        self.what, self.run = entry["what"], tuple(entry["run"])
        self.things, self.by, self.polls = (tuple(entry.get(key, ())) for key in ("things", "by", "polls"))
        self.pool = entry.get("pool", "")
        self.idle = entry.get("idle", False)

    def __repr__(self) -> str:
        return f"<Wait {self.what}>"


class Pool:
    """What is known of the native threads of a library. Keys of a [[pool]]:

    what       what a report calls the library
    libraries  parts of the paths of its shared objects (`/libgomp`); `<python>` is the interpreter itself
    threads    (optional) names of threads instead, in whatever library
    unless_environment   (optional) harmless unless this variable says 0, no, off or false
    harmless   true where a child does without those threads, or the library starts new ones
    child, source, advice   what happens in a child, how it is known, the mend (none for a harmless one)
    """

    __slots__ = (
        "advice",
        "child",
        "harmless",
        "libraries",
        "source",
        "threads",
        "unless_environment",
        "what",
    )

    what: str
    libraries: tuple[str, ...]
    threads: tuple[str, ...]
    unless_environment: str
    harmless: bool
    child: str
    source: str
    advice: str

    def __init__(self, entry: dict[str, Any]) -> None:
        _check_keys(self, entry)
        self.what, self.child, self.source = entry["what"], entry["child"], entry["source"]
        self.libraries = tuple(entry["libraries"])
        self.threads = tuple(entry.get("threads", ()))
        self.unless_environment = entry.get("unless_environment", "")
        self.harmless = entry["harmless"]
        self.advice = entry.get("advice", "")

    def is_harmless(self) -> bool:
        """In this process: a switch in the environment may decide."""
        if self.unless_environment:
            return os.environ.get(self.unless_environment, "").lower() not in ("0", "no", "off", "false")
        return self.harmless

    def __repr__(self) -> str:
        return f"<Pool {self.what}>"


class Connection:
    """A library that keeps connections, and what a child of a fork is to do with those it inherits. Keys of a [[connection]]:

    what       what a report calls the library
    packages   folders of its Python code, as they are installed (`django/db`)
    libraries  (optional) parts of the paths of its shared objects (`/libpq`)
    child      what the library itself does in a child with what it has inherited
    source, advice   how it is known, and the mend
    """

    __slots__ = ("advice", "child", "libraries", "packages", "source", "what")

    what: str
    packages: tuple[str, ...]
    libraries: tuple[str, ...]
    child: str
    source: str
    advice: str

    def __init__(self, entry: dict[str, Any]) -> None:
        _check_keys(self, entry)
        self.what, self.child = entry["what"], entry["child"]
        self.source, self.advice = entry["source"], entry["advice"]
        self.packages = tuple(entry["packages"])
        self.libraries = tuple(entry.get("libraries", ()))

    def __repr__(self) -> str:
        return f"<Connection {self.what}>"


def _check_keys(of: object, entry: dict[str, Any], name: str = "what") -> None:
    """Raise ValueError for a key of `entry`, an entry of the TOML that its key `name` names, that `of` has no slot for."""
    unknown = entry.keys() - set(type(of).__slots__)  # type: ignore[attr-defined]
    if unknown:
        raise ValueError(f"catalogue: {entry.get(name)!r} has unknown keys {sorted(unknown)}")


def version_matches(wanted: str, version: tuple[int, ...]) -> bool:
    """Whether `version` satisfies all of `wanted` ("" means any): comma-separated `>=`, `<=`, `>`, `<`, `==`, `!=`.

    Shorter versions are padded with zeros: 3.14 is 3.14.0, and 3.14.1 is not < 3.14.
    """
    for clause in wanted.split(","):
        clause = clause.strip()
        if not clause:
            continue
        op = clause[:2] if clause[1:2] == "=" else clause[:1]
        bound = tuple(int(part) for part in clause[len(op) :].strip().split("."))
        width = max(len(bound), len(version))
        a = version + (0,) * (width - len(version))
        b = bound + (0,) * (width - len(bound))
        if op == ">=":
            met = a >= b
        elif op == "<=":
            met = a <= b
        elif op == ">":
            met = a > b
        elif op == "<":
            met = a < b
        elif op == "==":
            met = a == b
        elif op == "!=":
            met = a != b
        else:
            raise ValueError(f"catalogue: cannot read the version {wanted!r}")
        if not met:
            return False
    return True


def _read(name: str) -> dict[str, list[dict[str, Any]]]:
    # The file beside this one: importlib.resources would import half of the library for the same.
    with open(__file__.rpartition("__init__")[0] + name, encoding="utf-8") as file:
        return _parse(file.read())


def _parse(text: str) -> dict[str, list[dict[str, Any]]]:
    """Read TOML that has only [[tables]], and in them strings in double quotes without escapes, true, false and arrays
    of strings. Anything else is an error, not a guess."""
    tables: dict[str, list[dict[str, Any]]] = {}
    table: dict[str, Any] | None = None
    array: list[str] | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if array is None and line.startswith("[[") and line.endswith("]]"):
            table = {}
            tables.setdefault(line[2:-2].strip(), []).append(table)
            continue
        if array is None:
            key, equals, line = line.partition("=")
            key, line = key.strip(), line.strip()
            if table is None or not equals or key in table:
                raise ValueError(f"catalogue: cannot read line {number}: {raw}")
            if line in ("true", "false"):
                table[key] = line == "true"
                continue
            if not line.startswith("["):
                (table[key],) = _strings(line, number)
                continue
            array = table[key] = []
            line = line[1:].strip()
        if line.endswith("]"):
            array += _strings(line[:-1], number)
            array = None
        else:
            array += _strings(line, number)
    if array is not None:
        raise ValueError("catalogue: an array has no end")
    return tables


def _strings(text: str, number: int) -> list[str]:
    """The strings of `"a", "b",`. What lies between the quotes can be anything but a quote or a backslash."""
    pieces = text.split('"')
    between = [piece.strip() for piece in pieces[0::2]]
    commas = [*between[1:-1], between[-1] or ","]
    if "\\" in text or len(pieces) % 2 == 0 or between[0] or any(comma != "," for comma in commas):
        raise ValueError(f"catalogue: cannot read line {number}: {text}")
    return pieces[1::2]


def calls(platform: str | None = None, version: tuple[int, ...] | None = None) -> list[Call]:
    """The families that matter on this interpreter and machine; or, if one is named, on any machine like it."""
    named = platform is not None
    platform = platform_here() if platform is None else platform
    version = sys.version_info[:3] if version is None else version
    found = [call for call in all_calls() if call.applies(platform, version)]
    if named or not any(call.name_service for call in found):
        return found
    services = _name_services()
    return [call for call in found if not call.name_service or not services.isdisjoint(call.name_service)]


def platform_here() -> str:
    """`sys.platform`, with "-gnu" where the C library is glibc."""
    try:
        glibc = sys.platform == "linux" and bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (AttributeError, OSError, ValueError):  # musl does not know the name
        glibc = False
    return sys.platform + ("-gnu" if glibc else "")


def _name_services(path: str = "/etc/nsswitch.conf") -> set[str]:
    """The modules by which the C library looks users and groups up on this machine."""
    found: set[str] = set()
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                database, _, modules = line.partition("#")[0].partition(":")
                if database.strip() in ("passwd", "group"):
                    found.update(modules.split())
    except OSError:
        pass
    return found


def all_calls() -> list[Call]:
    """Every family, whatever the platform."""
    return [Call(entry) for entry in _read("calls.toml")["call"]]


def consumers() -> dict[str, bool]:
    """Names of C functions that go on with the iterator they are given, and whether they keep a reference to it."""
    return {name: entry["keeps"] for entry in _read("calls.toml")["consumer"] for name in entry["names"]}


def all_locks() -> list[Lock]:
    """Every lock of a library that the catalogue knows, whatever its version."""
    return [Lock(entry) for entry in _read("locks.toml").get("lock", [])]


def blanket_warnings() -> list[Warning]:
    """Those that this interpreter's programs may see."""
    every = [Warning(entry) for entry in _read("warnings.toml")["warning"]]
    return [each for each in every if version_matches(each.python, sys.version_info[:3])]


def all_workers() -> list[Worker]:
    """Every function that the catalogue knows threads to run for others, whether its library is there or not."""
    return [Worker(entry) for entry in _read("workers.toml")["worker"]]


def all_waits() -> list[Wait]:
    """The functions in which threads wait for others, of the standard library and of those that are known."""
    return [Wait(entry) for entry in _read("workers.toml")["wait"]]


def all_pools() -> list[Pool]:
    """Every library whose native threads the catalogue knows."""
    return [Pool(entry) for entry in _read("pools.toml")["pool"]]


def all_connections() -> list[Connection]:
    """Every library of which the catalogue knows what to do with its connections in a child."""
    return [Connection(entry) for entry in _read("connections.toml")["connection"]]


def is_harmless(holder: type | None, attribute: str) -> bool:
    """Whether the catalogue says that no child needs that attribute's lock, of the class or one it derives from."""
    if holder is None:
        return False
    names = {f"{base.__module__}.{base.__qualname__}.{attribute}" for base in holder.__mro__}
    if not _harmless:
        _harmless.update(entry["lock"] for entry in _read("locks.toml").get("harmless", []))
    return not names.isdisjoint(_harmless)


_harmless: set[str] = set()


def resolve(name: str) -> object | None:
    """The C function, method descriptor or type of that dotted name; None while its module has not been imported.

    Looks only into `__dict__`s: no attribute hook, property or lazy import of a library runs.
    """
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = sys.modules.get(".".join(parts[:cut]))
        if module is None:
            continue
        found: object = module
        for part in parts[cut:]:
            inside: object = getattr(found, "__dict__", {}).get(part)
            if inside is None and found is module:
                inside = _hidden_type(".".join(parts[:cut]), part)
            elif inside is None and not isinstance(found, type):
                inside = _c_attribute(found, part)
            if inside is None:
                return None
            found = inside
        return found
    return None


def _c_attribute(found: object, name: str) -> object | None:
    """An attribute that a C type keeps outside any `__dict__` (`_bit_generator` of numpy's `RandomState`)."""
    for kind in type(found).__mro__:
        descriptor: Any = kind.__dict__.get(name)
        if type(descriptor).__name__ in ("getset_descriptor", "member_descriptor"):
            try:
                got: object = descriptor.__get__(found)
            except Exception:  # an empty slot, or a getter of some library that does not care to answer
                return None
            return got
    return None


def _hidden_type(module: str, name: str) -> type | None:
    """A C type that its module does not expose: `zlib.Compress` is only to be had as what `zlib.compressobj()` returns."""
    for kind in type.__subclasses__(object):
        if type.__getattribute__(kind, "__name__") == name and kind.__dict__.get("__module__") == module:
            return kind
    return None


def resolved(families: Iterable[Call]) -> Iterator[tuple[object, str, Call]]:
    """(object, dotted name, family) of each name that resolves now. Ask again when more modules have been imported."""
    for call in families:
        for name in call.names:
            found = resolve(name)
            if found is not None:
                yield found, name, call


def _loaded_version(distribution: str) -> tuple[int, ...]:
    """The numeric part of a loaded package's `__version__`; (0,) where it is not loaded or says nothing."""
    module = sys.modules.get(distribution.replace("-", "_"))
    text = getattr(module, "__dict__", {}).get("__version__")
    numbers = []
    for part in text.split(".") if isinstance(text, str) else ():
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers) or (0,)
