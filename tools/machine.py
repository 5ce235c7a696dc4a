"""An emulated machine with this checkout in it: to try what depends on the kernel, its settings or the processor.

    machine.py make FOLDER [ARCH [EXTRA]]       a Debian of ARCH (amd64 or arm64) with `forkproof[EXTRA]` (doctor) in /venv
    machine.py run FOLDER SCRIPT [FILE...]      boot it, run the Python script in it as root, and end as that ended

`make` is for root on Debian or Ubuntu, with the packages debootstrap and, for another processor than this one, qemu-user-static
(so that the other Debian's programs run here). `run` needs qemu-system-x86 or qemu-system-arm, and no special right. The
processor is emulated, so that neither /dev/kvm nor this machine's processor matters: ten times slower, or more.
Tried with amd64 on x86-64; arm64 has not been made to its end.

The whole Debian is handed to its kernel as the first file system, in memory, so no device has to be found; the script and the files
come as a second archive after it, into /try. What was written is gone when the machine ends.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("src", "tests", "tools", "pyproject.toml", "setup.py", "README.md", "LICENSE")
PACKAGES = ("python3", "python3-venv", "python3-dev", "gcc", "libc6-dev", "ca-certificates", "procps")
LEFT_OUT = (
    "./boot",
    "./var/cache",
    "./var/lib/apt",
    "./usr/share/doc",
    "./usr/share/locale",
    "./usr/share/man",
    "./proc",
    "./sys",
)
MEMORY = "4G"
ENDED = re.compile(rb"^machine: ended with status (\d+)\r?$", re.MULTILINE)

# Process 1 of the machine. What it starts, and not it, is what is tried: it has the standing of a service's or a user's process.
INIT = """#!/usr/bin/python3
import ctypes, os, socket, struct, subprocess, fcntl
mount = ctypes.CDLL(None, use_errno=True).mount
for kind, where in ("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/dev/shm"), ("tmpfs", "/run"):
    os.makedirs(where, exist_ok=True)
    mount(kind.encode(), where.encode(), kind.encode(), 0, None)
console = os.open("/dev/console", os.O_RDWR)
for number in 0, 1, 2:
    os.dup2(console, number)
for name, target in ("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2"):
    os.symlink("/proc/self/fd" + target, "/dev/" + name)
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
environment = {"PATH": "/venv/bin:/usr/sbin:/usr/bin", "HOME": "/root", "LANG": "C.UTF-8"}
os.chdir("/try")
status = subprocess.run(["/venv/bin/python", "-u", "script.py"], env=environment).returncode
print("machine: ended with status", status if status >= 0 else 128 - status, flush=True)
os.sync()
with open("/proc/sysrq-trigger", "w") as file:
    file.write("o")
"""


@dataclass(frozen=True)
class Arch:
    """How an architecture is called, and emulated."""

    name: str
    machine: str
    """As uname has it."""
    emulator: tuple[str, ...]
    console: str


ARCHS = (
    Arch("amd64", "x86_64", ("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"), "ttyS0"),
    Arch(
        "arm64",
        "aarch64",
        ("qemu-system-aarch64", "-accel", "tcg,thread=multi", "-M", "virt", "-cpu", "cortex-a72"),
        "ttyAMA0",
    ),
)


def make(folder: Path, arch: Arch, extra: str) -> None:
    """Install Debian and this checkout into `folder/root`; what is there already is kept, but for the checkout."""
    root = folder / "root"
    if not (root / "usr/bin/gcc").exists():
        command = [
            "debootstrap",
            f"--arch={arch.name}",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
        ]
        subprocess.run([*command, "bookworm", root], check=True)
    if not list(folder.glob("vmlinuz-*")):
        _kernel(folder, root, arch)
    for name in "etc/resolv.conf", "etc/ssl/certs/ca-certificates.crt":
        shutil.copy(Path("/", name), root / name)  # as here, for pip
    source = root / "src"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(
                ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
            )
        else:
            shutil.copy(ROOT / part, source / part)
    _inside(root, "/usr/bin/python3", "/src/tools/install.py", "/venv", extra)
    _pack(folder / "root.cpio", root, (name for name in _names(root) if not name.startswith(LEFT_OUT)))


def _kernel(folder: Path, root: Path, arch: Arch) -> None:
    with tempfile.TemporaryDirectory(dir=root / "tmp") as place:
        inner = Path("/", Path(place).relative_to(root))
        depends = _inside(root, "apt-cache", "depends", f"linux-image-{arch.name}")
        found = re.search(r"Depends: (linux-image-\S+)", depends)
        assert found, depends
        _inside(root, "sh", "-c", f"cd {inner} && apt-get -q download {found[1]}")
        (package,) = Path(place).glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", package, place], check=True)
        for kernel in Path(place, "boot").glob("vmlinuz-*"):
            shutil.copy(kernel, folder)


def _inside(root: Path, *command: str) -> str:
    environment = os.environ | {
        "DEBIAN_FRONTEND": "noninteractive",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "TMPDIR": "/tmp",
    }
    return subprocess.run(
        ["chroot", root, *command], check=True, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout


def _names(root: Path) -> Iterable[str]:
    found = subprocess.run(["find", ".", "-xdev", "-print0"], cwd=root, check=True, stdout=subprocess.PIPE)
    return os.fsdecode(found.stdout).rstrip("\0").split("\0")


def _pack(archive: Path, root: Path, names: Iterable[str]) -> None:
    """A cpio archive as the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    with archive.open("wb") as file:
        given = os.fsencode("\0".join(names))
        subprocess.run(
            ["cpio", "--quiet", "-o", "-0", "-H", "newc", "-R", "+0:+0"],
            cwd=root,
            check=True,
            input=given,
            stdout=file,
        )


def run(folder: Path, script: Path, files: Sequence[Path]) -> int:
    """Boot, run, and show what the machine wrote; the script's status, 255 where the machine ended without one."""
    (kernel,) = folder.glob("vmlinuz-*")
    arch = next(arch for arch in ARCHS if kernel.name.endswith(arch.name))
    with tempfile.TemporaryDirectory() as place:
        added = Path(place, "added")
        (added / "try").mkdir(parents=True)
        (added / "init").write_text(INIT)
        (added / "init").chmod(0o755)
        shutil.copy(script, added / "try" / "script.py")
        for name in files:
            shutil.copy(name, added / "try")
        more = Path(place, "more.cpio")
        _pack(more, added, _names(added))
        whole = Path(place, "whole.cpio")
        with whole.open("wb") as file:
            for archive in folder / "root.cpio", more:
                with archive.open("rb") as one:
                    shutil.copyfileobj(one, file)
        command = [*arch.emulator, "-smp", "2", "-m", MEMORY, "-nographic", "-no-reboot", "-nic", "none"]
        command += ["-kernel", str(kernel), "-initrd", str(whole)]
        command += ["-append", f"console={arch.console} rdinit=/init quiet panic=-1"]
        written = b""
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as machine:
            assert machine.stdout
            while data := os.read(machine.stdout.fileno(), 65536):
                written += data
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
    ended = ENDED.search(written)
    return int(ended[1]) if ended else 255


if __name__ == "__main__":
    what, folder, *rest = sys.argv[1:]
    if what == "make":
        name, extra = (*rest, "amd64", "doctor")[:2] if len(rest) != 1 else (rest[0], "doctor")
        make(Path(folder), next(arch for arch in ARCHS if arch.name == name), extra)
    else:
        sys.exit(run(Path(folder), Path(rest[0]), [Path(name) for name in rest[1:]]))
