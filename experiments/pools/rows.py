"""The rows: (distribution; what parent and child do; the program's part that defines work())."""

ONNX = """
import numpy as np, onnxruntime as ort
from onnx import helper, TensorProto, numpy_helper
W = numpy_helper.from_array(np.random.rand(256, 256).astype("float32"), "W")
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [256, 256])
g = helper.make_graph([helper.make_node("MatMul", ["x", "W"], ["y"])], "g", [value("x")], [value("y")], [W])
m = helper.make_model(g, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
so = ort.SessionOptions(); so.intra_op_num_threads = 4
sess = ort.InferenceSession(m.SerializeToString(), so, providers=["CPUExecutionProvider"])
x = np.random.rand(256, 256).astype("float32")
me = os.getpid()
"""

GRPC = """
import subprocess
from concurrent import futures
import grpc
SERVER = '''
import grpc, sys
from concurrent import futures
class H(grpc.GenericRpcHandler):
    def service(self, d): return grpc.unary_unary_rpc_method_handler(lambda r, c: r)
s = grpc.server(futures.ThreadPoolExecutor(4)); s.add_generic_rpc_handlers((H(),))
print(s.add_insecure_port('127.0.0.1:0'), flush=True); s.start(); sys.stdin.read()
'''
srv = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
port = int(srv.stdout.readline())
kept = []
def work():
    kept.append(grpc.insecure_channel("127.0.0.1:%d" % port))
    return kept[-1].unary_unary("/s/m")(b"y") == b"y"
"""

NUMBA = """
import numpy as np, numba
@numba.njit(parallel=True)
def f(a):
    s = 0.0
    for i in numba.prange(len(a)): s += a[i]
    return s
a = np.ones(100000)
def work(): return f(a) == 100000
"""

MKL = """
import ctypes
import numpy as np
library = lambda name: ctypes.CDLL(os.path.join(sys.prefix, "lib", name), ctypes.RTLD_GLOBAL)
if os.environ["MKL_THREADING_LAYER"] == "TBB": library("libtbb.so.12")
mkl = library("libmkl_rt.so.3")
n, one, zero = ctypes.c_int(800), ctypes.c_double(1), ctypes.c_double(0)
a = np.random.rand(800, 800); c = np.zeros_like(a); right = np.dot(a, a)
at = lambda array: array.ctypes.data_as(ctypes.c_void_p)
def work():
    c[:] = 0
    mkl.cblas_dgemm(101, 111, 111, n, n, n, one, at(a), n, at(a), n, zero, at(c), n)
    return abs(c - right).max() < 1e-6
"""

TENSORFLOW = """
os.environ.update(CUDA_VISIBLE_DEVICES="", TF_CPP_MIN_LOG_LEVEL="3")
import tensorflow as tf
"""

GROUP = """
import subprocess
BROKER = "import time, confluent_kafka as k; p = k.Producer({'bootstrap.servers': 'x', 'test.mock.num.brokers': 1, 'log_level': 0}); p.produce('news', b'x'); p.flush(5); print(next(iter(p.list_topics(timeout=5).brokers.values())).port, flush=True); time.sleep(100)"
broker = subprocess.Popen([sys.executable, "-c", BROKER], stdout=subprocess.PIPE, text=True)
address = f"127.0.0.1:{int(broker.stdout.readline())}"
"""

CLASSES = """
os.environ["OMP_NUM_THREADS"] = "2"
import numpy as np
X = np.random.rand(2000, 10); y = (X[:, 0] > .5).astype(int)
"""

POLARS = """
import polars as pl
df = pl.DataFrame({"g": [i % 7 for i in range(100000)], "x": list(range(100000))})
def query(): return df.lazy().group_by("g").agg(pl.col("x").sum()).sort("g").collect()
query()
"""

ROWS = [
    (
        "numpy",
        "a matrix product (OpenBLAS)",
        """
import numpy as np
a = np.random.rand(500, 500)
def work(): return (a @ a).shape == (500, 500)
""",
    ),
    (
        "scipy",
        "a linear solve (an OpenBLAS of its own)",
        """
import numpy as np, scipy.linalg
a = np.random.rand(500, 500)
def work(): return scipy.linalg.solve(a, a[:, 0]).shape == (500,)
""",
    ),
    ("polars", "a query", POLARS + "def work(): return query().height == 7"),
    (
        "polars",
        "the length of a frame, no query in the child",
        POLARS + "def work(): return len(df) == 100000",
    ),
    (
        "scikit-learn",
        "HistGradientBoostingClassifier (libgomp)",
        CLASSES
        + """
from sklearn.ensemble import HistGradientBoostingClassifier
def work(): return HistGradientBoostingClassifier(max_iter=3).fit(X, y) is not None
""",
    ),
    (
        "scikit-learn",
        "KMeans (libgomp and OpenBLAS)",
        CLASSES
        + """
from sklearn.cluster import KMeans
def work(): return KMeans(3, n_init=1).fit(X) is not None
""",
    ),
    (
        "faiss-cpu",
        "a search",
        """
import numpy as np, faiss
faiss.omp_set_num_threads(2)
x = np.random.rand(20000, 64).astype("float32"); ix = faiss.IndexFlatL2(64); ix.add(x)
def work(): return ix.search(x[:500], 5) is not None
""",
    ),
    (
        "lightgbm",
        "training (libgomp)",
        CLASSES
        + """
import lightgbm
def work():
    return lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 2}, lightgbm.Dataset(X, y), 3) is not None
""",
    ),
    (
        "xgboost-cpu",
        "training (libgomp)",
        CLASSES
        + """
import xgboost
def work(): return xgboost.train({"nthread": 2}, xgboost.DMatrix(X, y), 3) is not None
""",
    ),
    (
        "catboost",
        "training",
        CLASSES
        + """
import catboost
def work():
    return catboost.CatBoostClassifier(iterations=3, thread_count=2, verbose=False, allow_writing_files=False).fit(X, y) is not None
""",
    ),
    (
        "torch",
        "sum and matrix product",
        """
import torch
torch.set_num_threads(2)
a = torch.rand(2000, 2000)
def work(): return float((a + a).sum()) > 0 and (a @ a).shape == (2000, 2000)
""",
    ),
    (
        "torch",
        "backward()",
        """
import torch
a = torch.rand(500, 500, requires_grad=True)
def work():
    (a @ a).sum().backward()
    return True
""",
    ),
    (
        "jax",
        "a jitted product",
        """
import jax, jax.numpy as jnp
f = jax.jit(lambda x: x @ x)
def work(): return f(jnp.ones((300, 300))).block_until_ready() is not None
""",
    ),
    (
        "duckdb",
        "a query on one connection",
        """
import duckdb
con = duckdb.connect(); con.execute("set threads=4")
con.execute("create table t as select i, i%100 g from range(300000) r(i)")
def work(): return len(con.execute("select g, sum(i) from t group by g order by 1").fetchall()) == 100
""",
    ),
    (
        "onnxruntime",
        "run() of one session",
        ONNX
        + """
def work():
    for _ in range(5): sess.run(None, {"x": x})
    return True
""",
    ),
    (
        "onnxruntime",
        "run(), and the end of the session in the child",
        ONNX
        + """
def work():
    global sess
    sess.run(None, {"x": x})
    if os.getpid() != me: del sess
    return True
""",
    ),
    (
        "pyarrow",
        "group_by with threads",
        """
import pyarrow as pa
t = pa.table({"x": list(range(200000)), "g": [i % 9 for i in range(200000)]})
def work(): return t.group_by("g", use_threads=True).aggregate([("x", "sum")]).num_rows == 9
""",
    ),
    (
        "tokenizers",
        "encode_batch()",
        """
from tokenizers import Tokenizer, models, pre_tokenizers
t = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
t.pre_tokenizer = pre_tokenizers.Whitespace()
def work(): return len(t.encode_batch(["a b c"] * 2000)) == 2000
""",
    ),
    (
        "numexpr",
        "evaluate()",
        """
import numpy as np, numexpr as ne
ne.set_num_threads(2)
a = np.ones(2_000_000)
def work(): return ne.evaluate("a*2+sin(a)", local_dict={"a": a}).shape == a.shape
""",
    ),
    (
        "blosc2",
        "compression with threads",
        """
import numpy as np, blosc2
blosc2.set_nthreads(2)
a = np.arange(4_000_000)
def work(): return len(blosc2.compress2(a.tobytes(), typesize=8)) > 0
""",
    ),
    (
        "zstandard",
        "compression with threads",
        """
import zstandard
c = zstandard.ZstdCompressor(threads=2)
def work(): return len(c.compress(bytes(5_000_000))) > 0
""",
    ),
    ("grpcio", "a call on a new channel", GRPC),
    (
        "grpcio",
        "a call on a new channel, GRPC_ENABLE_FORK_SUPPORT=0",
        'os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"' + GRPC,
    ),
    (
        "confluent-kafka",
        "flush() of a record, no broker",
        """
from confluent_kafka import Producer
p = Producer({"bootstrap.servers": "127.0.0.1:1", "message.timeout.ms": 500, "log_level": 0})
done = []
def work():
    done.clear()
    p.produce("t", b"x", callback=lambda error, message: done.append(error)); p.flush(3)
    return bool(done)
""",
    ),
    (
        "confluent-kafka",
        "poll() of a Consumer in a group (librdkafka's broker for tests)",
        GROUP
        + """
import confluent_kafka
c = confluent_kafka.Consumer({"bootstrap.servers": address, "group.id": "g", "auto.offset.reset": "earliest", "enable.auto.commit": False})
c.subscribe(["news"])
def work():
    "A record, from the beginning again."
    end = time.monotonic() + 5
    while time.monotonic() < end:
        m = c.poll(0.5)
        if m is not None and not m.error():
            c.seek(confluent_kafka.TopicPartition("news", m.partition(), 0))
            return True
    return False
""",
    ),
    (
        "confluent-kafka",
        "close() of a Consumer in a group (librdkafka's broker for tests)",
        GROUP
        + """
import confluent_kafka
c = confluent_kafka.Consumer({"bootstrap.servers": address, "group.id": "g", "auto.offset.reset": "earliest"})
c.subscribe(["news"]); me = os.getpid()
def work():
    if os.getpid() != me: c.close()
    else: return until(lambda: c.poll(0.5) is not None, 10)
    return True
""",
    ),
    (
        "pyzmq",
        "a message over sockets made before",
        """
import zmq
c = zmq.Context(); a = c.socket(zmq.PAIR); b = c.socket(zmq.PAIR)
port = a.bind_to_random_port("tcp://127.0.0.1"); b.connect("tcp://127.0.0.1:%d" % port); a.rcvtimeo = 3000
def work():
    b.send(b"x")
    try: return a.recv() == b"x"
    except zmq.Again: return False
""",
    ),
    (
        "pyzmq",
        "close() and term() of the parent's context",
        """
import zmq
c = zmq.Context(); me = os.getpid()
a = c.socket(zmq.PAIR); a.linger = 0; a.bind_to_random_port("tcp://127.0.0.1")
def work():
    if os.getpid() != me: a.close(); c.term()
    return True
""",
    ),
    (
        "pyzmq",
        "an answer over a REQ socket made before",
        """
import zmq
c = zmq.Context(); rep = c.socket(zmq.REP); req = c.socket(zmq.REQ)
req.connect("tcp://127.0.0.1:%d" % rep.bind_to_random_port("tcp://127.0.0.1"))
def serve():
    while True: rep.send(rep.recv())
thread(serve)
def work(): req.send(b"x"); return req.recv() == b"x"
""",
    ),
    (
        "confluent-kafka",
        "flush() of a record without a time limit (librdkafka's broker for tests)",
        """
from confluent_kafka import Producer
p = Producer({"bootstrap.servers": "", "test.mock.num.brokers": 1, "log_level": 0})
def work(): p.produce("t", b"x"); return p.flush() == 0
""",
    ),
    (
        "rapidgzip",
        "read() of a file that was read with threads",
        """
import gzip, tempfile, rapidgzip
f = tempfile.NamedTemporaryFile(suffix=".gz"); f.write(gzip.compress(os.urandom(3_000_000), 1) * 10); f.flush()
r = rapidgzip.open(f.name, parallelization=2); me = os.getpid()
def work(): n = 1_000_000 if os.getpid() == me else 25_000_000; return len(r.read(n)) == n
""",
    ),
    (
        "rapidgzip",
        "read() of a file of the child's own",
        """
import gzip, tempfile, rapidgzip
f = tempfile.NamedTemporaryFile(suffix=".gz"); f.write(gzip.compress(os.urandom(3_000_000), 1) * 10); f.flush()
files = []
def work(): files.append(rapidgzip.open(f.name, parallelization=2)); return len(files[-1].read(10_000_000)) == 10_000_000
""",
    ),
    (
        "pycares",
        "a name from a channel made before, by c-ares' event thread",
        """
import pycares, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 0))
def serve():
    while True:
        d, a = s.recvfrom(512); s.sendto(d[:2] + b"\\x81\\x83" + d[4:6] + b"\\0\\0" * 3 + d[12:], a)
thread(serve)
c = pycares.Channel(servers=["127.0.0.1"], udp_port=s.getsockname()[1])
def work():
    e = threading.Event(); c.query("example.org", pycares.QUERY_TYPE_A, callback=lambda *a: e.set()); e.wait()
    return True
""",
    ),
    *(
        (
            "mkl",
            f"a matrix product, MKL_THREADING_LAYER={layer} ({runtime})",
            f'os.environ.update(MKL_THREADING_LAYER="{layer}", MKL_NUM_THREADS="2", OMP_NUM_THREADS="2")'
            + MKL,
        )
        for layer, runtime in (("INTEL", "OpenMP of Intel and LLVM"), ("GNU", "libgomp"), ("TBB", "oneTBB"))
    ),
    (
        "tensorflow-cpu",
        "a product and a sum",
        TENSORFLOW
        + """
a = tf.random.normal((1000, 1000))
def work(): return tf.reduce_sum(tf.matmul(a, a)).numpy() is not None
""",
    ),
    (
        "tensorflow-cpu",
        "a tf.function and its gradient",
        TENSORFLOW
        + """
v = tf.Variable(tf.random.normal((300, 300)))
@tf.function
def step(x):
    with tf.GradientTape() as tape: loss = tf.reduce_sum(tf.matmul(v, x) ** 2)
    return tape.gradient(loss, v)
def work(): return step(tf.ones((300, 300))).shape == (300, 300)
""",
    ),
    (
        "tensorflow-cpu",
        "a tf.data pipeline with parallel calls",
        TENSORFLOW
        + """
def work(): return len(list(tf.data.Dataset.range(100).map(lambda i: i * 2, num_parallel_calls=2).prefetch(2))) == 100
""",
    ),
    ("numba", "prange (the layer it chooses itself)", NUMBA),
    (
        "numba",
        "prange, NUMBA_THREADING_LAYER=tbb",
        'import ctypes; ctypes.CDLL(os.path.join(sys.prefix, "lib", "libtbb.so.12"), ctypes.RTLD_GLOBAL); os.environ["NUMBA_THREADING_LAYER"] = "tbb"'
        + NUMBA,
    ),
    (
        "numba",
        "prange, NUMBA_THREADING_LAYER=workqueue",
        'os.environ["NUMBA_THREADING_LAYER"] = "workqueue"' + NUMBA,
    ),
    ("numba", "prange, NUMBA_THREADING_LAYER=omp", 'os.environ["NUMBA_THREADING_LAYER"] = "omp"' + NUMBA),
    (
        "opencv-python-headless",
        "GaussianBlur()",
        """
import numpy as np, cv2
cv2.setNumThreads(4)
a = np.random.randint(0, 255, (2000, 2000, 3), dtype=np.uint8)
def work(): return cv2.GaussianBlur(a, (31, 31), 0).shape == a.shape
""",
    ),
    (
        "datafusion",
        "a query",
        """
import datafusion
ctx = datafusion.SessionContext()
def work(): return len(ctx.sql("select sum(v) from (values (1), (2)) t(v)").collect()) >= 1
""",
    ),
    (
        "deltalake",
        "opening a table",
        """
import tempfile, pyarrow as pa
from deltalake import DeltaTable, write_deltalake
d = tempfile.mkdtemp(); write_deltalake(d, pa.table({"x": [1, 2, 3]}))
def work(): return DeltaTable(d).version() == 0
""",
    ),
    (
        "obstore",
        "put and get of a local file",
        """
import obstore, tempfile
from obstore.store import LocalStore
s = LocalStore(tempfile.mkdtemp())
def work():
    obstore.put(s, "a", b"x")
    return bytes(obstore.get(s, "a").bytes()) == b"x"
""",
    ),
    (
        "plyvel",
        "put until it compacts (LevelDB)",
        """
import plyvel, tempfile
db = plyvel.DB(tempfile.mkdtemp(), create_if_missing=True, write_buffer_size=65536)
def work():
    for i in range(20000): db.put(b"%d" % i, b"x" * 100)
    return db.get(b"1") is not None
""",
    ),
    (
        "rocksdict",
        "put and flush (RocksDB)",
        """
import rocksdict, tempfile
db = rocksdict.Rdict(tempfile.mkdtemp())
def work():
    for i in range(1000): db[i] = "x" * 100
    db.flush()
    return db[1] is not None
""",
    ),
    (
        "usearch",
        "a search with threads",
        """
import numpy as np
from usearch.index import Index
ix = Index(ndim=16); v = np.random.rand(2000, 16).astype("float32"); ix.add(np.arange(2000), v, threads=2)
def work(): return len(ix.search(v[:200], 5, threads=2)) == 200
""",
    ),
    (
        "av",
        "encoding with threads",
        """
import av, numpy as np, io
out = av.open(io.BytesIO(), "w", format="matroska")
s = out.add_stream("mpeg4", rate=24); s.width = s.height = 320; s.pix_fmt = "yuv420p"; s.thread_count = 2
frame = av.VideoFrame.from_ndarray(np.zeros((320, 320, 3), dtype=np.uint8), format="rgb24")
def work():
    for _ in range(5):
        for p in s.encode(frame): out.mux(p)
    return True
""",
    ),
    (
        "primp",
        "a request that is refused",
        """
import primp
c = primp.Client(timeout=2)
def work():
    try: c.get("http://127.0.0.1:1/")
    except Exception: pass
    return True
""",
    ),
    (
        "pylance",
        "counting the rows of a dataset",
        """
import lance, pyarrow as pa, tempfile
d = tempfile.mkdtemp() + "/x"; lance.write_dataset(pa.table({"x": [1, 2, 3]}), d)
def work(): return lance.dataset(d).count_rows() == 3
""",
    ),
]
