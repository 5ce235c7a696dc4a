"""An application as one finds them: a connection pool (SQLAlchemy), metrics (prometheus_client) and a thread that keeps them.

With `gunicorn --preload` pool and thread are made in the arbiter. Each worker has the pool forget the connections that it inherited, as
SQLAlchemy asks of programs that fork; nothing is held at most forks, so this is what Forkproof costs where it is not needed.

    gunicorn --preload --workers 4 --max-requests 200 shop:app
    FORKPROOF=on gunicorn --preload --workers 4 --max-requests 200 shop:app
"""

import atexit
import os
import shutil
import tempfile
import threading
import time

from prometheus_client import Counter, Gauge
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, func, insert, select

folder = tempfile.mkdtemp(prefix="shop-")
owner = os.getpid()
engine = create_engine(f"sqlite:///{folder}/shop.db", pool_size=4)
goods = Table("goods", MetaData(), Column("id", Integer, primary_key=True), Column("name", String))
served = Counter("served", "Requests that were answered.")
kinds = Gauge("kinds", "Of goods in the shop.")
os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))
atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder))

with engine.begin() as connection:
    goods.create(connection)
    connection.execute(insert(goods), [{"name": f"good {n}"} for n in range(20)])


def keep_metrics():
    while True:
        with engine.connect() as connection:
            kinds.set(connection.execute(select(func.count()).select_from(goods)).scalar_one())
        time.sleep(1)


threading.Thread(target=keep_metrics, name="metrics", daemon=True).start()


def app(environ, start_response):
    with engine.connect() as connection:
        names = connection.execute(select(goods.c.name).limit(5)).scalars().all()
    served.inc()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [", ".join(names).encode()]
