"""`forkproof demo`: six acts with real programs, whose ends are what the acts say they are."""

from __future__ import annotations

import re

import pytest
from conftest import Run

from forkproof.lab import server

DEMO = ("-m", "forkproof", "demo", "--fast")


def ends(text: str) -> list[str]:
    return re.findall(r"=> It (\w+)", text)


@pytest.mark.parametrize(
    ("act", "last", "says"),
    [
        ("1", "hung", "socket.getaddrinfo"),
        ("2", "hung", "held: import of encodings.idna"),
        ("3", "hung", "(MainThread): getting lock"),
    ],
)
def test_an_act_that_ends_in_a_hang(run: Run, act: str, last: str, says: str) -> None:
    ended = run(*DEMO, "--act", act, limit=120)
    assert (ended.status, ended.stderr) == (0, "")
    assert ends(ended.stdout)[-1] == last
    assert says in ended.stdout
    assert ended.stdout.startswith(f"\n{act}. ")
    assert "\x1b" not in ended.stdout


@pytest.mark.skipif(server.lacking() is not None, reason=str(server.lacking()))
def test_the_mongoclient_that_finds_no_server(run: Run) -> None:
    ended = run(*DEMO, "--act", "4", limit=120)
    assert ended.status == 0
    assert ends(ended.stdout) == ["finished", "failed"]
    assert "ServerSelectionTimeoutError after 3." in ended.stdout


def test_the_experiments(run: Run) -> None:
    ended = run(*DEMO, "--act", "5", limit=200)
    assert ended.status == 0
    assert "under policy wait" in ended.stdout


def test_under_forkproof_all_of_them_finish(run: Run) -> None:
    ended = run(*DEMO, "--act", "6", limit=120)
    assert ended.status == 0, ended.stdout
    assert set(ends(ended.stdout)) == {"finished"}


def test_without_a_server_the_mongoclient_is_left_out_and_said_to_be(run: Run) -> None:
    hide = "import sys; sys.modules['secantus'] = None; sys.modules['pymongo'] = None; "
    code = hide + "from forkproof.lab.demo import demo; sys.exit(demo([4], fast=True))"
    ended = run("-c", code, env={"MONGODB_URI": None})
    assert ended.status == 0
    assert "(Left out: the MongoClient needs " in ended.stdout
