"""What looks like a credential is hidden, and nothing that a reader needs is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Run, Start
from doctoring import doctor

from forkproof._secrets import redacted, redacted_command


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("serve --password hunter2 --port 80", "serve --password *** --port 80"),
        ("serve --db-password=hunter2 -v", "serve --db-password=*** -v"),
        ("serve --api-key hunter2", "serve --api-key ***"),
        ("serve --auth_token=hunter2", "serve --auth_token=***"),
        ("env PGPASSWORD=hunter2 psql", "env PGPASSWORD=*** psql"),
        ("get https://me:hunter2@host/x?token=hunter2&y=1", "get https://me:***@host/x?token=***&y=1"),
        ("curl -H Authorization:hunter2", "curl -H Authorization:***"),
        ("push ghp_hunter2hunter2hunter2hunter2hunter2", "push ***"),
        ("aws AKIAHUNTER2HUNTER2HU", "aws ***"),
        ("psql host=db password=hunter2", "psql host=db password=***"),
        ("serve --password-file /run/secret --verbose", "serve --password-file /run/secret --verbose"),
        ("serve --password --verbose", "serve --password --verbose"),
        (
            "gunicorn --workers 4 --bind 127.0.0.1:8000 app:app",
            "gunicorn --workers 4 --bind 127.0.0.1:8000 app:app",
        ),
    ],
)
def test_command_lines(command: str, shown: str) -> None:
    assert redacted_command(command.split(" ")) == shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ('password = "hunter2"', 'password = "***"'),
        ("connect(password='hunter2', port=1)", "connect(password='***', port=1)"),
        ('{"api_key": "hunter2", "a": "b"}', '{"api_key": "***", "a": "b"}'),
        ('os.environ["DB_PASSWORD"] = "hunter2"', 'os.environ["DB_PASSWORD"] = "***"'),
        ('SECRET_KEY: str = "hunter2"', 'SECRET_KEY: str = "***"'),
        ("MongoClient('mongodb://me:hunter2@host')", "MongoClient('mongodb://me:***@host')"),
        ('headers = {"Authorization": "Bearer hunter2hunter2"}', 'headers = {"Authorization": "***"}'),
    ],
)
def test_lines_of_source(line: str, shown: str) -> None:
    assert redacted(line) == shown


@pytest.mark.parametrize(
    "text",
    [
        "token = self._next_token()",
        "with self._password_lock:",
        "lock of app.Tokens",
        "import of secrets",
        "password = os.environ['DB_PASSWORD']",
        "http://127.0.0.1:8000/path",
        "Thread-1 (refresh_token)",
        "self._lock of prometheus_client.registry.CollectorRegistry",
    ],
)
def test_what_a_reader_needs_is_left(text: str) -> None:
    assert redacted(text) == text


def test_the_doctor_does_not_show_them(run: Run, start: Start, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("print('ready', flush=True); input()")
    with start(tmp_path / "app.py", "--password", "hunter2", "--url=db://me:hunter2@host") as program:
        assert program.line() == "ready"
        _status, (found,) = doctor(run, program.process.pid)
        assert "--password *** --url=db://me:***@host" in found.command
        text = run("-m", "forkproof", "doctor", str(program.process.pid))
    assert "app.py" in text.stdout
    assert "hunter2" not in text.stdout + json.dumps(found.to_json())
