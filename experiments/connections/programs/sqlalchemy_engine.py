"""SQLAlchemy: an engine that has been used before the fork. argv: HOST:PORT of a PostgreSQL."""

import sqlalchemy
from both import ADDRESS, both

engine = sqlalchemy.create_engine(f"postgresql+psycopg://postgres@{ADDRESS}/postgres")


def ask(word):
    with engine.connect() as connection:
        return connection.execute(sqlalchemy.text("SELECT CAST(:word AS text)"), {"word": word}).scalar()


both(ask, in_child=lambda: engine.dispose(close=False))
