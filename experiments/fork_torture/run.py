"""Libraries of today and of the day before a fix, under `fork_torture`: which children get through.

    python experiments/fork_torture/run.py [NAME...]

Each version is installed from PyPI into an environment of its own, which goes away again. What is printed for a child that does not
get through is the failure text that a test would have had.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

BODY = """
from forkproof.testing.torture import Torture, TortureError
{setup}
if __name__ == "__main__":
    try:
        print("got through:", Torture()(call{options}), flush=True)
    except TortureError as error:
        print(error, flush=True)
"""

# name -> (the version with the bug, with the fix, what else it needs, the program)
CASES = {
    "loguru": (
        "0.4.1", "0.7.3", (), "",
        """
import io
from loguru import logger
logger.remove()
logger.add(io.StringIO())
def call():
    logger.info("a line")
""",
    ),
    "pymongo": (
        "4.2.0", "4.20.0" if False else "4.10.1", (), "",
        """
from bson.objectid import ObjectId
def call():
    ObjectId()
""",
    ),
    "redis": (
        "3.3.11", "8.1.0", (), "",
        """
import redis
class Connection:
    def __init__(self, **options): self.pid = __import__("os").getpid()
    def connect(self): pass
    def can_read(self, *a, **k): return False
    def disconnect(self, *a, **k): pass
    def should_reconnect(self): return False
    def set_re_auth_token(self, *a): pass
    def register_connect_callback(self, *a): pass
    def re_auth(self): pass
pool = redis.ConnectionPool(connection_class=Connection)
def call():
    c = pool.get_connection("PING")
    pool.release(c)
""",
    ),
    "opentelemetry-sdk": (
        "1.11.1", "1.27.0", ("setuptools<80",), "",
        """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
class Exporter(SpanExporter):
    def export(self, spans):
        return SpanExportResult.SUCCESS
    def shutdown(self): pass
processor = BatchSpanProcessor(Exporter())
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(processor)
tracer = provider.get_tracer("x")
def call():
    with tracer.start_as_current_span("work"): pass
    assert processor.force_flush(5000)
""",
    ),
    "sentry-sdk": (
        "1.40.0", "2.75.0", (), "",
        """
import sentry_sdk
class T(sentry_sdk.transport.Transport):
    def capture_envelope(self, e): pass
    def capture_event(self, e): pass
sentry_sdk.init("http://a@127.0.0.1:9/1", transport=T, enable_tracing=True, traces_sample_rate=1.0)
def call():
    sentry_sdk.capture_message("x")
    with sentry_sdk.start_transaction(name="a"): pass
""",
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*CASES])
    names = parser.parse_args().names
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder, "wheels")
        pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, ROOT]
        subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
        (wheel,) = wheels.iterdir()
        for name in names:
            buggy, fixed, needs, options, setup = CASES[name]
            program = Path(folder, "program.py")
            program.write_text(BODY.format(setup=setup, options=options))
            for version in buggy, fixed:
                environment = Path(folder, f"{name}-{version}")
                venv.create(environment, with_pip=True)
                python = environment / "bin" / "python"
                subprocess.run(
                    [python, "-m", "pip", "install", "-q", wheel, f"{name}=={version}", *needs],
                    check=True, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                print(f"=== {name} {version}", flush=True)
                subprocess.run([python, program], cwd=folder)


if __name__ == "__main__":
    main()
