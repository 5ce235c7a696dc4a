"""What pytest asks for. Each test's forks are watched; one that was at risk, or whose child hung, fails the test.

The policy is `observe` unless asked otherwise: a test run is to show what is at risk, and under `wait` most of it would not be.
Off, which it is without `--forkproof` or `forkproof = true`, it registers the names of its options, a mark and a fixture, and
imports nothing but pytest.

With pytest-xdist the workers watch; what they found travels with their reports, so that the process with the terminal tells
of all of them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .session import Session, Settings
    from .torture import Torture

_INI = {
    "forkproof": ("bool", False, "watch the forks of each test, as --forkproof does"),
    "forkproof_policy": ("string", "observe", "observe (default), wait or raise"),
    "forkproof_on_risk": ("string", "fail", "what a fork at risk does to its test: fail (default), warn or ignore"),
    "forkproof_hang_after": ("string", "5", "seconds after which a child that hangs is killed (default 5)"),
    "forkproof_wait": ("string", "1", "seconds that a fork may be held up under policy wait (default 1)"),
    "forkproof_allow": ("linelist", [], "hazards that fail no test: patterns of their kind or name, one a line"),
    "forkproof_child_limit": ("string", "0", "seconds that any forked child may live, hanging or not; 0 for no limit"),
}  # fmt: skip
_MARK = (
    "forkproof(allow=(), policy=None, on_risk=None, hang_after=None, reason=''): what pytest --forkproof is to make of "
    "this test's forks; allow: patterns (as of file names) of the kind or the name of hazards that are no failure here"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("forkproof", "forks of threaded programs")
    group.addoption(
        "--forkproof", action="store_true", default=False,
        help="fail tests that fork while another thread holds what the child may need, or whose children hang",
    )  # fmt: skip
    for name, (kind, default, what) in _INI.items():
        parser.addini(name, what, type=kind, default=default)  # type: ignore[arg-type]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARK)
    if config.getoption("--forkproof") or config.getini("forkproof"):
        if not hasattr(os, "fork"):
            return
        config.pluginmanager.register(Watch(config), "forkproof-watch")


@pytest.fixture
def fork_torture(request: pytest.FixtureRequest) -> Torture:
    """`fork_torture(call, threads=2, forks=100, check=None, limit=30.0)`: forks at every bad moment of `call`, and fails if a
    child of one of them does not get through `check` (docs/how-to/pytest.md)."""
    from .torture import Torture

    class Failing(Torture):
        def fail(self, text: str) -> None:
            pytest.fail(text, pytrace=False)

    return Failing()


class Watch:
    """The plugin while it is on."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._settings = _settings(config)
        self._session: Session | None = None
        self._pid = os.getpid()
        self._phase: dict[str, Any] = {}
        self._section = ""
        self._totals = {"forks": 0, "tests": 0, "at_risk": 0, "allowed": 0, "hung": 0}
        self._tests: set[str] = set()
        self._late: list[str] = []

    def pytest_report_header(self) -> str:
        s = self._settings
        return f"forkproof: policy {s.policy}, on risk {s.on_risk}, hang after {s.hang_after:g} s"

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """A mark that makes no sense is said before any test runs."""
        for item in items:
            try:
                self._settings.of(item.iter_markers("forkproof"))
            except (TypeError, ValueError) as error:
                raise pytest.UsageError(f"{item.nodeid}: mark forkproof: {error}") from None

    # ------------------------------------------------------------------------------------------------------------------
    # Around each test, in the process that runs it

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        session = self._open()
        session.begin(item.nodeid, self._settings.of(item.iter_markers("forkproof")))
        return (yield from self._watched(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        return (yield from self._watched(item))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        return (yield from self._watched(item))

    def _watched(self, item: pytest.Item) -> Generator[None, object, object]:
        problem: BaseException | None = None
        result: object = None
        try:
            result = yield
        except BaseException as error:
            problem = error
        if os.getpid() == self._pid:  # a child that was forked by the test may have come here too
            self._judge(item, problem)
        if problem is not None:
            raise problem
        return result

    def _judge(self, item: pytest.Item, problem: BaseException | None) -> None:
        """Raises the failure, if there is one; a skip, an expected failure and an interrupt stay what they are."""
        assert self._session is not None
        verdict = self._session.judge()
        self._phase = verdict.counts()
        if not verdict.text:
            return
        if not _is_open(problem) or (problem is not None and not verdict.hung):
            self._section = verdict.text  # it has failed, or not, for a reason of its own
        elif verdict.hung or verdict.on_risk == "fail":
            raise pytest.fail.Exception(verdict.text, pytrace=False) from problem
        elif verdict.on_risk == "warn":
            from forkproof import ForkRiskWarning

            path, line, _ = item.reportinfo()
            warnings.warn_explicit(verdict.text, ForkRiskWarning, str(path), (line or 0) + 1)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if self._phase:
            report.forkproof, self._phase = self._phase, {}  # type: ignore[attr-defined]
        if self._section:
            report.sections.append(("forkproof", self._section))
            self._section = ""
        return report

    def _open(self) -> Session:
        """Not before the first test: the process of xdist that only hands them out is left alone."""
        if self._session is None:
            from .session import Session

            self._session = Session(self._settings)
        return self._session

    # ------------------------------------------------------------------------------------------------------------------
    # The whole, in the process that has the terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        counts = getattr(report, "forkproof", None)
        if counts:
            self._add(counts)
            if counts.get("forks"):
                self._tests.add(report.nodeid)

    def _add(self, counts: dict[str, Any]) -> None:
        for name in self._totals:
            self._totals[name] += counts.get(name, 0)
        self._late += counts.get("late", ())

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._session is not None and os.getpid() == self._pid:
            counts = self._session.last()
            output = getattr(self._config, "workeroutput", None)
            if output is not None:
                output["forkproof"] = counts
            else:
                self._add(counts)
        if self._late and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """xdist: a worker has ended."""
        self._add(getattr(node, "workeroutput", {}).get("forkproof", {}))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        t = self._totals
        if self._late:
            terminalreporter.section("forkproof: after their tests had ended")
            for text in self._late:
                terminalreporter.write_line(text)
        allowed = f" ({t['allowed']} more allowed)" if t["allowed"] else ""
        forks = f"{t['forks']} fork{'' if t['forks'] == 1 else 's'}"
        tests = f"{len(self._tests)} test{'' if len(self._tests) == 1 else 's'}"
        text = f"forkproof: {forks} in {tests}, {t['at_risk']} at risk{allowed}, {t['hung']} hung"
        bad = t["hung"] or (t["at_risk"] and self._settings.on_risk == "fail")
        terminalreporter.write_line(text, **{"red" if bad else "yellow" if t["at_risk"] else "green": True})

    def pytest_unconfigure(self) -> None:
        if self._session is not None and os.getpid() == self._pid:
            self._session.close()
            self._session = None


def _is_open(problem: BaseException | None) -> bool:
    if isinstance(problem, (pytest.skip.Exception, pytest.xfail.Exception)):
        return False
    return problem is None or isinstance(problem, (Exception, pytest.fail.Exception))


def _settings(config: pytest.Config) -> Settings:
    from .session import Settings

    try:
        return Settings(
            policy=config.getini("forkproof_policy"),
            on_risk=config.getini("forkproof_on_risk"),
            hang_after=float(config.getini("forkproof_hang_after")),
            wait=float(config.getini("forkproof_wait")),
            child_limit=float(config.getini("forkproof_child_limit")),
            allow=tuple(config.getini("forkproof_allow")),
        )
    except ValueError as error:
        raise pytest.UsageError(f"forkproof: {error}") from None
