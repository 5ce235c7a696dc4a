"""Host, service, user and group names: the C library's resolver and name service switch."""

from __future__ import annotations

import os
import socket
from typing import Any

from lab import KEEP, Forks, KeepsGil, row

# CPython imports this at the first look-up of a str host; that hazard (an import lock) is not the one looked for here.
import encodings.idna  # noqa: F401  isort: skip


def _look() -> object:
    return socket.getaddrinfo("localhost", 80)


# glibc asks the kernel for the machine's addresses when a name has more than one (as most have), to sort them. It holds
# a lock of the process meanwhile; nothing else in a look-up calls recvmsg.
TWO = "127.0.0.1 localhost\\n::1 localhost\\n:/etc/hosts"
NETLINK: dict[str, Any] = dict(strace=("recvmsg",), delay=10_000, root=TWO)


@row("getaddrinfo", **NETLINK)
def _() -> Forks:
    _look()
    return Forks(_look, _look, threads=2, forks=120)


@row("getaddrinfo / child: gethostbyname", **NETLINK)
def _() -> Forks:
    _look()
    return Forks(_look, lambda: socket.gethostbyname("localhost"), threads=2, forks=60)


@row("getaddrinfo / child: connect to a name", **NETLINK)
def _() -> Forks:
    def connect() -> None:
        with socket.socket() as s:
            s.connect_ex(("localhost", 9))

    _look()
    return Forks(_look, connect, threads=2, forks=60)


@row("getaddrinfo / child: getpwnam", **NETLINK)
def _() -> Forks:
    import pwd

    _look()
    return Forks(_look, lambda: pwd.getpwnam("root"), threads=2, forks=60)


@row("getaddrinfo with AI_ADDRCONFIG", strace=("recvmsg",), delay=10_000)
def _() -> Forks:
    def look() -> object:
        return socket.getaddrinfo("localhost", 80, flags=socket.AI_ADDRCONFIG)

    look()
    return Forks(look, look, threads=2, forks=120)


@row("getaddrinfo, a name with one address")
def _() -> Forks:
    _look()
    return Forks(_look, _look, threads=2, forks=120)


@row("getaddrinfo of a numeric address", **NETLINK)
def _() -> Forks:
    _look()
    return Forks(lambda: socket.getaddrinfo("127.0.0.1", 80), _look, threads=2, forks=80)


@row("getaddrinfo with a service name", strace=("openat",), path="/etc/services")
def _() -> Forks:
    socket.getaddrinfo("127.0.0.1", "http")
    return Forks(
        lambda: socket.getaddrinfo("127.0.0.1", "https"), lambda: socket.getaddrinfo("127.0.0.1", "http")
    )


@row("getaddrinfo, first in the process", strace=("openat",), path="/etc/resolv.conf", delay=1_000_000)
def _() -> Forks:
    return Forks(_look, _look, forks=3, settle=0.3)


@row("getaddrinfo, nsswitch.conf being read", strace=("openat",), path="/etc/nsswitch.conf", delay=1_000_000)
def _() -> Forks:
    return Forks(_look, _look, forks=3, settle=0.3)


def _silent_dns() -> socket.socket:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.53", 53))
    return server


@row("getaddrinfo, DNS server silent", root="nameserver 127.0.0.53\\noptions timeout:30\\n:/etc/resolv.conf")
def _() -> Forks | str:
    try:
        silent = _silent_dns()
    except OSError as error:
        return f"cannot serve 127.0.0.53: {error}"
    _look()

    def hold() -> None:
        socket.getaddrinfo("www.example.org", 80)
        silent.fileno()

    return Forks(hold, _look, blocks=True, forks=10, settle=0.5)


@row("gethostbyname", **NETLINK)
def _() -> Forks:
    socket.gethostbyname("localhost")
    return Forks(
        lambda: socket.gethostbyname("localhost"),
        lambda: socket.gethostbyname("localhost"),
        threads=2,
        forks=120,
    )


@row("gethostbyname_ex")
def _() -> Forks:
    def look() -> object:
        return socket.gethostbyname_ex("localhost")

    look()
    return Forks(look, look, threads=3, forks=500, gap=0.002)


@row("gethostbyname_ex, first in the process", strace=("openat",), path="/etc/resolv.conf", delay=1_000_000)
def _() -> Forks:
    def look() -> object:
        return socket.gethostbyname_ex("localhost")

    return Forks(look, look, forks=3, settle=0.3)


@row("gethostbyaddr")
def _() -> Forks:
    def look() -> object:
        return socket.gethostbyaddr("127.0.0.1")

    look()
    return Forks(look, look, threads=3, forks=500, gap=0.002)


@row("getnameinfo")
def _() -> Forks:
    def look() -> object:
        return socket.getnameinfo(("127.0.0.1", 80), 0)

    look()
    return Forks(look, look, threads=3, forks=500, gap=0.002)


@row("getnameinfo, first in the process", strace=("openat",), path="/etc/hosts", delay=1_000_000)
def _() -> Forks:
    def look() -> object:
        return socket.getnameinfo(("127.0.0.1", 80), 0)

    return Forks(look, look, forks=3, settle=0.3)


@row("getservbyname", strace=("openat",), path="/etc/services")
def _() -> Forks:
    return Forks(lambda: socket.getservbyname("https"), lambda: socket.getservbyname("http"), threads=2)


@row("getservbyport", strace=("openat",), path="/etc/services")
def _() -> Forks:
    return Forks(lambda: socket.getservbyport(443), lambda: socket.getservbyport(80), threads=2)


@row("getprotobyname", strace=("openat",), path="/etc/protocols")
def _() -> Forks:
    return Forks(lambda: socket.getprotobyname("udp"), lambda: socket.getprotobyname("tcp"), threads=2)


@row("getservbyname / child: getservbyport", strace=("openat",), path="/etc/services")
def _() -> Forks:
    return Forks(lambda: socket.getservbyname("https"), lambda: socket.getservbyport(80), threads=2)


@row("getservbyname / child: getaddrinfo with a service", strace=("openat",), path="/etc/services")
def _() -> Forks:
    return Forks(
        lambda: socket.getservbyname("https"), lambda: socket.getaddrinfo("127.0.0.1", "http"), threads=2
    )


@row("connect to a name", **NETLINK)
def _() -> Forks:
    def connect() -> None:
        with socket.socket() as s:
            s.connect_ex(("localhost", 9))

    connect()
    return Forks(connect, connect, threads=2, forks=120)


@row("connect to a name, first in the process", strace=("openat",), path="/etc/resolv.conf", delay=1_000_000)
def _() -> Forks:
    def connect() -> None:
        with socket.socket() as s:
            s.connect_ex(("localhost", 9))

    return Forks(connect, connect, forks=3, settle=0.3)


@row("create_connection to a name", **NETLINK)
def _() -> Forks:
    def connect() -> None:
        try:
            socket.create_connection(("localhost", 9), 1)
        except OSError:
            pass

    connect()
    return Forks(connect, connect, threads=2, forks=60)


@row("connect to a numeric address, in progress")
def _() -> Forks:
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    address = server.getsockname()
    KEEP.append(server)
    full = [socket.create_connection(address) for _ in range(1)]

    def connect() -> None:
        s = socket.socket()
        s.connect(address)
        full.append(s)

    def child() -> None:
        _look()
        with socket.socket() as s:
            s.setblocking(False)
            s.connect_ex(address)

    return Forks(connect, child, blocks=True, forks=10)


# ------------------------------------------------------------------------------------------------- users and groups


def _user_rows(name: str, module: str, argument: object, path: str) -> None:
    @row(name, strace=("openat",), path=path)
    def _() -> Forks:
        function = getattr(__import__(module), name)
        function(argument)
        return Forks(lambda: function(argument), lambda: function(argument), threads=2, forks=120)


_user_rows("getpwnam", "pwd", "root", "/etc/passwd")
_user_rows("getpwuid", "pwd", 0, "/etc/passwd")
_user_rows("getgrnam", "grp", "root", "/etc/group")
_user_rows("getgrgid", "grp", 0, "/etc/group")


@row(
    "getpwnam, its name service module being loaded / child: imports an extension module",
    root="passwd: files systemd\\n:/etc/nsswitch.conf",
    strace=("openat",),
    path="/lib/x86_64-linux-gnu/libcap.so.2",  # which the module itself needs
    delay=700_000,
)
def _() -> Forks:
    import pwd

    def look() -> None:
        try:
            pwd.getpwnam("nobody-of-that-name")
        except KeyError:
            pass

    def child() -> None:
        import _lzma

        assert _lzma

    return Forks(look, child, blocks=True, forks=3, settle=0.3)


@row("getpwnam of an unknown user (libnss_systemd)", strace=("connect",))
def _() -> Forks:
    import pwd

    def look() -> None:
        try:
            pwd.getpwnam("nobody-of-that-name")
        except KeyError:
            pass

    look()
    return Forks(look, look, threads=2, forks=80)


@row("getpwall", strace=("openat",), path="/etc/passwd", delay=50_000)
def _() -> KeepsGil:
    import pwd

    return KeepsGil(pwd.getpwall)


@row("getgrall", strace=("openat",), path="/etc/group", delay=50_000)
def _() -> KeepsGil:
    import grp

    return KeepsGil(grp.getgrall)


@row("spwd.getspnam", needs="<3.13", strace=("openat",), path="/etc/shadow", delay=50_000)
def _() -> KeepsGil:
    import warnings

    warnings.simplefilter("ignore")
    import spwd

    return KeepsGil(lambda: spwd.getspnam("root"))


@row("os.getgrouplist", strace=("openat",), path="/etc/group", delay=50_000)
def _() -> KeepsGil:
    return KeepsGil(lambda: os.getgrouplist("root", 0))


@row("os.initgroups", strace=("openat",), path="/etc/group", delay=50_000)
def _() -> KeepsGil | str:
    if os.geteuid():
        return "needs root"
    return KeepsGil(lambda: os.initgroups("root", 0))


@row("os.getlogin", strace=("openat",), path="/proc/self/loginuid", delay=50_000)
def _() -> KeepsGil:
    def call() -> None:
        try:
            os.getlogin()
        except OSError:
            pass

    return KeepsGil(call)


# ---------------------------------------------------------------- name service modules that lock for themselves (if installed)


def _service(module: str, strace: tuple[str, ...], path: str) -> None:
    @row(f"getpwnam by libnss_{module}", root=f"passwd: files {module}\\ngroup: files {module}\\n:/etc/nsswitch.conf",
         strace=strace, path=path, delay=20_000)  # fmt: skip
    def _() -> Forks | str:
        import ctypes
        import pwd

        try:
            ctypes.CDLL(f"libnss_{module}.so.2")
        except OSError as error:
            return str(error)

        def look() -> None:
            try:
                pwd.getpwnam("nobody-of-that-name")
            except KeyError:
                pass

        look()
        return Forks(look, look, threads=2, forks=80)


_service("winbind", ("lstat", "newfstatat", "connect"), "/run/samba/winbindd")
_service("sss", ("connect", "newfstatat"), "/var/lib/sss/pipes/nss")
