"""The rows: (distribution, "" for Python's own; what the child asks; the program's part that defines work())."""

GRPC_SERVER = """
import subprocess
SERVER = "import grpc, sys; from concurrent.futures import ThreadPoolExecutor as T; H = type('H', (grpc.GenericRpcHandler,), {'service': lambda self, d: (grpc.stream_stream_rpc_method_handler(lambda r, c: r) if d.method == '/a/stream' else grpc.unary_unary_rpc_method_handler(lambda r, c: r))}); s = grpc.server(T(4), handlers=[H()]); print(s.add_insecure_port('127.0.0.1:0'), flush=True); s.start(); sys.stdin.read()"
server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
target = f"127.0.0.1:{int(server.stdout.readline())}"
"""

ROWS = [
    (
        "",
        "a job for a ThreadPoolExecutor",
        """
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(2)
def work(): return pool.submit(lambda: 1).result() == 1
""",
    ),
    (
        "",
        "asyncio.to_thread() of one loop, run again",
        """
import asyncio
loop = asyncio.new_event_loop()
async def use(): return await loop.run_in_executor(None, lambda: 1)
def work(): return loop.run_until_complete(use()) == 1
""",
    ),
    (
        "",
        "put() and join() of a queue.Queue",
        """
import queue
q = queue.Queue()
def consume():
    while True:
        q.get(); q.task_done()
thread(consume)
def work():
    q.put(1); q.join()
    return True
""",
    ),
    (
        "",
        "the next steps of a threading.Barrier",
        """
import threading
barrier = threading.Barrier(2)
def step():
    while True: barrier.wait()
thread(step)
def work():
    barrier.wait(); barrier.wait()
    return True
""",
    ),
    (
        "",
        "a record for a QueueListener",
        """
import logging, logging.handlers, queue
seen = []
class Keep(logging.Handler):
    def emit(self, record): seen.append(record)
q = queue.Queue()
logging.handlers.QueueListener(q, Keep()).start()
log = logging.getLogger("x"); log.addHandler(logging.handlers.QueueHandler(q))
def work():
    seen.clear(); log.warning("x")
    return until(lambda: seen)
""",
    ),
    (
        "",
        "the end of a Timer",
        """
timer = None
def work():
    global timer
    if timer is None:
        timer = threading.Timer(0.5, lambda: setattr(timer, "done", True)); timer.daemon = True; timer.start()
        return True
    return until(lambda: hasattr(timer, "done"))
""",
    ),
    (
        "",
        "put() to a multiprocessing.Queue, of a bare fork",
        """
import multiprocessing
q = multiprocessing.Queue()
def work():
    q.put(1)
    return q.get() == 1
""",
    ),
    (
        "",
        "a task for a multiprocessing.Pool",
        """
import multiprocessing
pool = multiprocessing.get_context("fork").Pool(1)
def work(): return pool.apply(abs, (-1,)) == 1
""",
    ),
    (
        "",
        "a task for a ThreadPool",
        """
from multiprocessing.pool import ThreadPool
pool = ThreadPool(1)
def work(): return pool.apply(abs, (-1,)) == 1
""",
    ),
    (
        "",
        "a job for a ProcessPoolExecutor",
        """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
def work(): return pool.submit(abs, -1).result() == 1
""",
    ),
    (
        "",
        "run_coroutine_threadsafe()",
        """
import asyncio
loop = asyncio.new_event_loop()
thread(loop.run_forever)
def work():
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
    return True
""",
    ),
    (
        "uvloop",
        "run_coroutine_threadsafe(), the loop in a thread",
        """
import asyncio, uvloop
loop = uvloop.new_event_loop()
thread(loop.run_forever)
def work():
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
    return True
""",
    ),
    (
        "",
        "shutdown() of a socketserver",
        """
import socketserver
server = None
def work():
    global server
    if server is None:
        server = socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        thread(server.serve_forever)
    else:
        server.shutdown()
    return True
""",
    ),
    (
        "",
        "an event of sched, run by a thread of the program (not catalogued)",
        """
import sched
s = sched.scheduler(); done = []
def work():
    done.clear(); s.enter(0.01, 1, lambda: done.append(1))
    if not hasattr(s, "t"): s.t = thread(lambda: [(s.run(), time.sleep(0.01)) for _ in iter(int, 1)])
    return until(lambda: done)
""",
    ),
    (
        "asgiref",
        "sync_to_async, used before",
        """
import asyncio
from asgiref.sync import sync_to_async
f = sync_to_async(lambda: 1)
def work(): return asyncio.run(f()) == 1
""",
    ),
    (
        "pymongo",
        "monitors of a MongoClient start anew when it is used",
        """
import threading
from pymongo import MongoClient
c = MongoClient("mongodb://127.0.0.1:1", serverSelectionTimeoutMS=300)
def work():
    try: c.admin.command("ping")
    except Exception: pass
    return any("pymongo" in t.name for t in threading.enumerate())
""",
    ),
    (
        "sentry-sdk",
        "a job for the BackgroundWorker",
        """
from sentry_sdk.worker import BackgroundWorker
w = BackgroundWorker()
def work():
    e = threading.Event(); w.submit(e.set)
    return e.wait(3)
""",
    ),
    (
        "opentelemetry-sdk",
        "force_flush() of a BatchSpanProcessor",
        """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
seen = []
class Keep(SpanExporter):
    def export(self, spans): seen.extend(spans); return SpanExportResult.SUCCESS
    def shutdown(self): pass
p = TracerProvider(); p.add_span_processor(BatchSpanProcessor(Keep(), schedule_delay_millis=20))
t = p.get_tracer("x")
def work():
    seen.clear()
    with t.start_as_current_span("a"): pass
    return until(lambda: seen)
""",
    ),
    (
        "opentelemetry-sdk",
        "the next export of a PeriodicExportingMetricReader",
        """
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader, MetricExporter, MetricExportResult
seen = []
class Keep(MetricExporter):
    def export(self, data, timeout_millis=0, **kw): seen.append(data); return MetricExportResult.SUCCESS
    def shutdown(self, *a, **k): pass
    def force_flush(self, *a, **k): return True
p = MeterProvider([PeriodicExportingMetricReader(Keep(), export_interval_millis=50)])
counter = p.get_meter("x").create_counter("c")
def work():
    seen.clear(); counter.add(1)
    return until(lambda: seen)
""",
    ),
    (
        "opentelemetry-sdk",
        "the next export of a PeriodicExportingMetricReader that is exporting at the fork",
        """
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader, MetricExporter, MetricExportResult
seen = []
class Slow(MetricExporter):
    def export(self, data, timeout_millis=0, **kw):
        seen.append(data); time.sleep(0.3); return MetricExportResult.SUCCESS
    def shutdown(self, *a, **k): pass
    def force_flush(self, *a, **k): return True
p = MeterProvider([PeriodicExportingMetricReader(Slow(), export_interval_millis=1)])
counter = p.get_meter("x").create_counter("c")
def work():
    seen.clear(); counter.add(1)
    return until(lambda: seen)
""",
    ),
    (
        "prometheus-client",
        "a scrape of start_http_server() (answered by the parent)",
        """
import urllib.request, prometheus_client
server, t = prometheus_client.start_http_server(0, "127.0.0.1")
def work(): return b"python_info" in urllib.request.urlopen("http://127.0.0.1:%d" % server.server_port, timeout=3).read()
""",
    ),
    (
        "APScheduler",
        "a job added to a BackgroundScheduler",
        """
from apscheduler.schedulers.background import BackgroundScheduler
s = BackgroundScheduler(); s.start()
def work():
    done = []
    s.add_job(lambda: done.append(1))
    return until(lambda: done)
""",
    ),
    (
        "loguru",
        "a record for a sink with enqueue=True",
        """
from loguru import logger
r, w = os.pipe()
logger.remove(); logger.add(lambda m: os.write(w, m.encode()), enqueue=True)
def work():
    logger.debug("x")
    logger.complete()
    import select
    return bool(select.select([r], [], [], 3)[0]) and bool(os.read(r, 100))
""",
    ),
    (
        "tqdm",
        "a bar that the monitor refreshes",
        """
from tqdm import tqdm
tqdm.monitor_interval = 0.05
bar = tqdm(range(3), file=open(os.devnull, "w"))
def work():
    bar.update(1)
    return True
""",
    ),
    (
        "watchdog",
        "an event for an Observer",
        """
import tempfile
from watchdog.observers import Observer
from watchdog.events import FileSystemEventHandler
folder = tempfile.mkdtemp(); seen = []
class Handler(FileSystemEventHandler):
    def on_any_event(self, event): seen.append(event)
o = Observer(); o.schedule(Handler(), folder); o.start(); time.sleep(0.1)
def work():
    seen.clear(); open(os.path.join(folder, str(time.monotonic())), "w").close()
    return until(lambda: seen)
""",
    ),
    (
        "watchdog",
        "stop() and join() of an Observer",
        """
import tempfile
from watchdog.observers import Observer
from watchdog.events import FileSystemEventHandler
o = Observer(); o.schedule(FileSystemEventHandler(), tempfile.mkdtemp()); o.start(); n = 0
def work():
    global n; n += 1
    if n == 2:
        o.stop(); o.join(2)
    return True
""",
    ),
    (
        "posthog",
        "flush()",
        """
import posthog
c = posthog.Posthog("key", host="http://127.0.0.1:1", max_retries=0, gzip=False, timeout=1)
def work():
    c.capture("event", distinct_id="x")
    c.flush()
    return c.queue.empty()
""",
    ),
    (
        "segment-analytics-python",
        "flush()",
        """
import segment.analytics as analytics
from segment.analytics.client import Client
c = Client("key", host="http://127.0.0.1:1", max_retries=1, timeout=1)
def work():
    c.track("user", "event"); c.flush()
    return c.queue.empty()
""",
    ),
    (
        "trio",
        "trio.to_thread.run_sync(), used before",
        """
import trio
def work(): return trio.run(trio.to_thread.run_sync, lambda: 1) == 1
""",
    ),
    (
        "anyio",
        "anyio.to_thread.run_sync(), used before",
        """
import anyio
def work(): return anyio.run(anyio.to_thread.run_sync, lambda: 1) == 1
""",
    ),
    (
        "distributed",
        "a task for a Client with threads",
        """
from distributed import Client
c = Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None)
def work(): return c.submit(abs, -1).result() == 1
""",
    ),
    (
        "joblib",
        "Parallel(n_jobs=2), used before (loky)",
        """
from joblib import Parallel, delayed
def work(): return Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]
""",
    ),
    (
        "joblib",
        "Parallel(n_jobs=2, backend='threading'), one context",
        """
from joblib import Parallel, delayed
p = Parallel(n_jobs=2, backend="threading").__enter__()
def work(): return p(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]
""",
    ),
    (
        "elastic-apm",
        "a message for the transport",
        """
import elasticapm
c = elasticapm.Client(service_name="x", server_url="http://127.0.0.1:1", metrics_interval="0ms", central_config=False, api_request_time="200ms")
def work():
    c.begin_transaction("a"); c.end_transaction("b")
    c._transport.flush()
    return True
""",
    ),
    (
        "datadog",
        "buffered metrics that a thread flushes",
        """
import socket
from datadog.dogstatsd import DogStatsd
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); s.settimeout(3)
d = DogStatsd("127.0.0.1", s.getsockname()[1], disable_buffering=False, flush_interval=0.05, disable_telemetry=True)
def work():
    d.increment("x")
    try: return bool(s.recv(1000))
    except TimeoutError: return False
""",
    ),
    (
        "paho-mqtt",
        "loop_stop() after loop_start()",
        """
import paho.mqtt.client as mqtt
c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
c.connect_async("127.0.0.1", 1); c.loop_start(); n = 0
def work():
    global n; n += 1
    if n == 2: c.loop_stop()
    return True
""",
    ),
    (
        "aiosqlite",
        "a query on a connection made before",
        """
import asyncio, aiosqlite
loop = asyncio.new_event_loop()
c = loop.run_until_complete(aiosqlite.connect(":memory:"))
async def q():
    async with c.execute("select 1") as cursor: return await cursor.fetchone()
def work(): return loop.run_until_complete(q()) == (1,)
""",
    ),
    (
        "logtail-python",
        "flush of a LogtailHandler",
        """
import logging
from logtail import LogtailHandler
h = LogtailHandler(source_token="x", host="http://127.0.0.1:1")
log = logging.getLogger("x"); log.addHandler(h)
def work():
    log.warning("x")
    return until(lambda: h.pipe.empty())
""",
    ),
    (
        "python-logstash-async",
        "a record that the worker sends",
        """
import logging, socket
from logstash_async.handler import AsynchronousLogstashHandler
from logstash_async.constants import constants
constants.QUEUE_CHECK_INTERVAL = 0.05; constants.QUEUED_EVENTS_FLUSH_INTERVAL = 0.1
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0)); s.settimeout(3)
log = logging.getLogger("x")
log.addHandler(AsynchronousLogstashHandler("127.0.0.1", s.getsockname()[1], None, transport="logstash_async.transport.UdpTransport"))
def work():
    log.warning("x")
    try: return bool(s.recv(10000))
    except TimeoutError: return False
""",
    ),
    (
        "huey",
        "a task in an in-process consumer (not asked)",
        """
from huey import MemoryHuey
huey = MemoryHuey(); done = []
@huey.task()
def f(): done.append(1)
c = huey.create_consumer(workers=1, periodic=False, initial_delay=0.01, max_delay=0.05); c.start()
def work():
    done.clear(); f()
    return until(lambda: done)
""",
    ),
    (
        "redis",
        "a message for a PubSubWorkerThread (a Redis of its own)",
        """
import redis, subprocess, tempfile
path = os.path.join(os.path.dirname(EVENTS), "redis")
subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", path, "--save", ""], stdout=subprocess.DEVNULL)
assert until(lambda: os.path.exists(path))
client, heard = redis.Redis(unix_socket_path=path), []
pubsub = client.pubsub(); pubsub.subscribe(news=heard.append); pubsub.run_in_thread(0.01, daemon=True)
def work():
    heard.clear()
    return until(lambda: client.publish("news", "x") and heard)
""",
    ),
    (
        "kafka-python",
        "send() of a KafkaProducer and its result (librdkafka's broker for tests)",
        """
import kafka, subprocess
BROKER = "import time, confluent_kafka as k; p = k.Producer({'bootstrap.servers': 'x', 'test.mock.num.brokers': 1, 'log_level': 0}); print(next(iter(p.list_topics(timeout=5).brokers.values())).port, flush=True); time.sleep(100)"
broker = subprocess.Popen([sys.executable, "-c", BROKER], stdout=subprocess.PIPE, text=True)
producer = kafka.KafkaProducer(bootstrap_servers=f"127.0.0.1:{int(broker.stdout.readline())}", api_version=(2, 0))
def work(): return producer.send("news", b"x").get(timeout=5) is not None
""",
    ),
    *(
        (
            "kafka-python",
            f"{what} of a KafkaConsumer in a group (librdkafka's broker for tests)",
            f"""
import kafka, subprocess
BROKER = "import time, confluent_kafka as k; p = k.Producer({{'bootstrap.servers': 'x', 'test.mock.num.brokers': 1, 'log_level': 0}}); p.produce('news', b'x'); p.flush(5); print(next(iter(p.list_topics(timeout=5).brokers.values())).port, flush=True); time.sleep(100)"
broker = subprocess.Popen([sys.executable, "-c", BROKER], stdout=subprocess.PIPE, text=True)
c = kafka.KafkaConsumer("news", bootstrap_servers=f"127.0.0.1:{{int(broker.stdout.readline())}}", group_id="g", auto_offset_reset="earliest", api_version=(2, 0))
me = os.getpid()
def poll():
    if not c.poll(5000): return False
    c.seek_to_beginning()
    return True
def work():
    {call}
""",
        )
        for what, call in (
            ("poll()", "return poll()"),
            ("close()", "return poll() if os.getpid() == me else not c.close()"),
        )
    ),
    (
        "ddtrace",
        "the next turn of a PeriodicService",
        """
from ddtrace.internal.periodic import PeriodicService
turns = []
class Service(PeriodicService):
    def periodic(self): turns.append(os.getpid())
s = Service(0.02); s.start()
def work(): return until(lambda: os.getpid() in turns)
""",
    ),
    (
        "ddtrace",
        "a span for the tracer, flushed (an agent of its own)",
        """
import select, subprocess
AGENT = '''
import http.server, os
class Agent(http.server.BaseHTTPRequestHandler):
    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(200); self.send_header("content-length", "2"); self.end_headers(); self.wfile.write(b"{}")
        if "/traces" in self.path: os.write(1, b"x")
    do_GET = do_PUT = do_POST = answer
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agent)
os.write(1, b"%d " % server.server_port)
server.serve_forever()
'''
agent = subprocess.Popen([sys.executable, "-c", AGENT], stdout=subprocess.PIPE)
port = b"".join(iter(lambda: os.read(agent.stdout.fileno(), 1).strip(), b""))
os.environ["DD_TRACE_AGENT_URL"] = f"http://127.0.0.1:{int(port)}"
from ddtrace.trace import tracer
def work():
    with tracer.trace("work"): pass
    tracer.flush()
    return bool(select.select([agent.stdout], [], [], 4)[0] and os.read(agent.stdout.fileno(), 1))
""",
    ),
    (
        "grpcio",
        "the result of a call of a channel (to the parent's server), made in the background",
        """
import grpc
from concurrent.futures import ThreadPoolExecutor
class All(grpc.GenericRpcHandler):
    def service(self, details): return grpc.unary_unary_rpc_method_handler(lambda request, context: request)
server = grpc.server(ThreadPoolExecutor(1), handlers=[All()])
port = server.add_insecure_port("127.0.0.1:0"); server.start()
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
ask = channel.unary_unary("/a/b")
def work(): return ask.future(b"x").result(timeout=4) == b"x"
""",
    ),
    (
        "grpcio",
        "the same with GRPC_ENABLE_FORK_SUPPORT=1",
        """
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "1"
import grpc
from concurrent.futures import ThreadPoolExecutor
class All(grpc.GenericRpcHandler):
    def service(self, details): return grpc.unary_unary_rpc_method_handler(lambda request, context: request)
server = grpc.server(ThreadPoolExecutor(1), handlers=[All()])
port = server.add_insecure_port("127.0.0.1:0"); server.start()
channel = grpc.insecure_channel(f"127.0.0.1:{port}")
ask = channel.unary_unary("/a/b")
def work(): return ask.future(b"x").result(timeout=4) == b"x"
""",
    ),
    (
        "",
        "an item for a thread that takes from a queue.SimpleQueue, and its answer",
        """
import queue
q = queue.SimpleQueue()
def consume():
    while True: q.get().set()
thread(consume)
def work():
    e = threading.Event(); q.put(e)
    return e.wait()
""",
    ),
    (
        "anyio",
        "anyio.to_thread.run_sync() of the loop in which the fork was (asyncio)",
        """
import anyio
run = anyio.run
async def work(): return await anyio.to_thread.run_sync(lambda: 1) == 1
""",
    ),
    (
        "trio",
        "trio.to_thread.run_sync() of the loop in which the fork was",
        """
import trio
run = trio.run
async def work(): return await trio.to_thread.run_sync(lambda: 1) == 1
""",
    ),
    (
        "starlette",
        "run_in_threadpool(), used before",
        """
import anyio
from starlette.concurrency import run_in_threadpool
def work(): return anyio.run(run_in_threadpool, lambda: 1) == 1
""",
    ),
    (
        "starlette",
        "a request of a TestClient that was entered before",
        """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
client = TestClient(Starlette(routes=[Route("/", lambda request: PlainTextResponse("x"))])).__enter__()
def work(): return client.get("/").text == "x"
""",
    ),
    (
        "asgiref",
        "sync_to_async(thread_sensitive=True) of the loop in which the fork was",
        """
import asyncio
from asgiref.sync import sync_to_async
run = lambda main: asyncio.run(main())
async def work(): return await sync_to_async(lambda: 1)() == 1
""",
    ),
    (
        "eventlet",
        "tpool.execute(), used before",
        """
from eventlet import tpool
def work(): return tpool.execute(abs, -1) == 1
""",
    ),
    (
        "gevent",
        "a job for the hub's threadpool, plain os.fork()",
        """
import gevent
def work(): return gevent.get_hub().threadpool.apply(abs, (-1,)) == 1
""",
    ),
    (
        "gevent",
        "a job for the hub's threadpool, gevent.os.fork()",
        """
import gevent.os
os.fork = gevent.os.fork
def work(): return gevent.get_hub().threadpool.apply(abs, (-1,)) == 1
""",
    ),
    (
        "Twisted",
        "callInThread() of a ThreadPool",
        """
from twisted.python.threadpool import ThreadPool
pool = ThreadPool(1, 1); pool.start()
def work():
    e = threading.Event(); pool.callInThread(e.set)
    return e.wait()
""",
    ),
    (
        "Twisted",
        "deferToThread() through a reactor in a thread",
        """
from twisted.internet import reactor, threads
thread(reactor.run, False)
def work(): return threads.blockingCallFromThread(reactor, threads.deferToThread, abs, -1) == 1
""",
    ),
    (
        "tornado",
        "IOLoop.run_in_executor(), used before",
        """
from tornado.ioloop import IOLoop
loop = IOLoop()
async def use(): return await IOLoop.current().run_in_executor(None, abs, -1)
def work(): return loop.run_sync(use) == 1
""",
    ),
    (
        "tornado",
        "a function under @run_on_executor of a loop, used before",
        """
from concurrent.futures import ThreadPoolExecutor
from tornado.concurrent import run_on_executor
from tornado.ioloop import IOLoop
class Thing:
    executor = ThreadPoolExecutor(1)
    @run_on_executor
    def f(self): return 1
thing, loop = Thing(), IOLoop()
async def use(): return await thing.f()
def work(): return loop.run_sync(use) == 1
""",
    ),
    (
        "tornado",
        "a name from a ThreadedResolver",
        """
from tornado.ioloop import IOLoop
from tornado.netutil import ThreadedResolver
loop = IOLoop()
async def use(): return await ThreadedResolver().resolve("127.0.0.1", 1)
def work(): return bool(loop.run_sync(use))
""",
    ),
    (
        "tornado",
        "a name from a ThreadedResolver that was made before",
        """
from tornado.ioloop import IOLoop
from tornado.netutil import ThreadedResolver
loop = IOLoop()
async def make(): return ThreadedResolver()
resolver = loop.run_sync(make)
async def use(): return await resolver.resolve("127.0.0.1", 1)
def work(): return bool(loop.run_sync(use))
""",
    ),
    (
        "tornado",
        "add_callback() to a loop in a thread",
        """
import asyncio
from tornado.ioloop import IOLoop
loops = []
def serve():
    asyncio.set_event_loop(asyncio.new_event_loop()); loops.append(IOLoop.current()); loops[0].start()
thread(serve); until(lambda: loops)
def work():
    e = threading.Event(); loops[0].add_callback(e.set)
    return e.wait()
""",
    ),
    (
        "curio",
        "run_in_thread() of one Kernel, used before",
        """
import curio
kernel = curio.Kernel()
async def use(): return await curio.run_in_thread(abs, -1)
def work(): return kernel.run(use) == 1
""",
    ),
    (
        "tensorboardX",
        "flush() of a SummaryWriter",
        """
import tempfile
from tensorboardX import SummaryWriter
writer = SummaryWriter(tempfile.mkdtemp(), flush_secs=1)
def work():
    writer.add_scalar("x", 1, 1); writer.flush()
    return True
""",
    ),
    (
        "tensorboardX",
        "a scalar for a SummaryWriter, not flushed",
        """
import tempfile
from tensorboardX import SummaryWriter
folder = tempfile.mkdtemp()
writer = SummaryWriter(folder, flush_secs=0.1)
size = lambda: sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder))
def work():
    before = size(); writer.add_scalar("x", 1, 1)
    return until(lambda: size() > before)
""",
    ),
    (
        "tensorboard",
        "flush() of an EventFileWriter, as PyTorch's SummaryWriter has",
        """
import tempfile
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.event_file_writer import EventFileWriter
writer = EventFileWriter(tempfile.mkdtemp())
def work():
    writer.add_event(Event(wall_time=1.0)); writer.flush()
    return True
""",
    ),
    (
        "influxdb-client",
        "close() of a batching WriteApi (no server)",
        """
import logging; logging.disable(50)
import influxdb_client
client = influxdb_client.InfluxDBClient("http://127.0.0.1:1", token="t", org="o")
api = client.write_api(write_options=influxdb_client.WriteOptions(batch_size=10, flush_interval=100, max_retries=0))
me = os.getpid()
def work():
    api.write("b", "o", "m f=1"); time.sleep(0.3)
    if os.getpid() != me: api.close()
    return True
""",
    ),
    (
        "influxdb-client",
        "a point for a batching WriteApi (a server of its own)",
        """
import logging; logging.disable(50)
import http.server, influxdb_client, subprocess
SERVER = "import http.server, os; H = type('H', (http.server.BaseHTTPRequestHandler,), {'do_POST': lambda self: (os.write(1, b'x'), self.send_response(204), self.end_headers()), 'log_message': lambda *a: None}); s = http.server.HTTPServer(('127.0.0.1', 0), H); os.write(1, b'%d ' % s.server_port); s.serve_forever()"
server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
port = b"".join(iter(lambda: os.read(server.stdout.fileno(), 1).strip(), b""))
client = influxdb_client.InfluxDBClient(f"http://127.0.0.1:{int(port)}", token="t", org="o")
api = client.write_api(write_options=influxdb_client.WriteOptions(batch_size=1, flush_interval=50, max_retries=0))
def work():
    import select
    api.write("b", "o", "m f=1")
    return bool(select.select([server.stdout], [], [], 3)[0] and os.read(server.stdout.fileno(), 1))
""",
    ),
    *(
        ("grpcio", f"{what} (a server of its own){title}", setting + GRPC_SERVER + code)
        for setting, title in (
            ("", ""),
            ('os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"\n', ", GRPC_ENABLE_FORK_SUPPORT=0"),
        )
        for what, code in (
            (
                "a call of the parent's channel",
                """
import grpc
call = grpc.insecure_channel(target).unary_unary("/a/b")
def work(): return call(b"x") == b"x"
""",
            ),
            (
                "the result of a call in the background",
                """
import grpc
call = grpc.insecure_channel(target).unary_unary("/a/b")
def work(): return call.future(b"x").result() == b"x"
""",
            ),
            (
                "the next message of a stream that was open at the fork",
                """
import grpc, queue
asked = queue.SimpleQueue()
answers = grpc.insecure_channel(target).stream_stream("/a/stream")(iter(asked.get, None))
def work():
    asked.put(b"x")
    return next(answers) == b"x"
""",
            ),
            (
                "channel_ready_future() of the parent's channel",
                """
import grpc
channel = grpc.insecure_channel(target)
def work():
    grpc.channel_ready_future(channel).result()
    return True
""",
            ),
            (
                "a call of a grpc.aio channel, its loop run again",
                """
import asyncio, grpc.aio
loop = asyncio.new_event_loop(); asyncio.set_event_loop(loop)
async def make(): return grpc.aio.insecure_channel(target).unary_unary("/a/b")
call = loop.run_until_complete(make())
async def use(): return await call(b"x")
def work(): return loop.run_until_complete(use()) == b"x"
""",
            ),
            (
                "a call of a new grpc.aio channel in a new loop",
                """
import asyncio, grpc.aio
async def use():
    async with grpc.aio.insecure_channel(target) as channel: return await channel.unary_unary("/a/b")(b"x")
def work(): return asyncio.run(use()) == b"x"
""",
            ),
        )
    ),
]
