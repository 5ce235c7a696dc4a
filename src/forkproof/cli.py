"""The commands, and what they say to somebody who asks for help."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from forkproof.export import ExportError, Exports, sinks
from forkproof.lab.emulate import parse
from forkproof.launch.launcher import STRICT_STATUS, Options, run
from forkproof.launch.target import LaunchError, Target
from forkproof.report.command import ReportError, report


def main() -> int:
    """Run the command line; whatever is wrong with it is one line and exit status 2."""
    try:
        return commands.main(prog_name="forkproof", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "forkproof"
        click.echo(f"forkproof: {error.format_message().rstrip('.')}; see {command} --help", err=True)
    except click.ClickException as error:
        click.echo(f"forkproof: {error.format_message()}", err=True)
    except (ExportError, LaunchError, ReportError) as error:
        click.echo(f"forkproof: {error}", err=True)
    except click.Abort:
        return 130
    return 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="forkproof", message="forkproof %(version)s")
@click.pass_context
def commands(ctx: click.Context) -> None:
    """Make fork() safe in programs with threads.

    fork() copies one thread. What the others held at that moment, a lock or an import, stays held in the
    child for ever, and the child hangs on it. Forkproof says at each fork which thread held what and
    where, and waits for the moment at which nothing is held.

    \b
    Start here:
      forkproof demo                  the story of one such hang, on this machine
      forkproof run app.py            your own program, watched and made safe
      forkproof run --policy observe app.py
                                      only watched: nothing about it changes
      forkproof verify app.py         which change makes its hang come and go
      forkproof hunt app.py           again and again, until the rare hang comes
    """
    if ctx.invoked_subcommand == "run":
        return  # its streams are the program's, and to touch them would show what was written to them so far
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal cannot show is no reason to fail.
            stream.reconfigure(errors="backslashreplace")


_Function = TypeVar("_Function", bound=Callable[..., object])


class _Seconds(click.FloatRange):
    """A length of time; `nan` and `inf` are floats, and none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is not a length of time.", param, ctx)
        return seconds


def _seconds(name: str, above: _Seconds, default: float) -> Callable[[str], Callable[[_Function], _Function]]:
    """An option that several commands have, with the same default, and of which each says something else."""

    def option(help: str) -> Callable[[_Function], _Function]:
        return click.option(
            name, metavar="SECONDS", type=above, default=default, show_default=True, help=help
        )

    return option


_wait = _seconds("--wait", _Seconds(min=0), 1.0)
_hang_after = _seconds("--hang-after", _Seconds(min=0, min_open=True), 5.0)


def _page_options(command: _Function) -> _Function:
    """The options --html and --perfetto, which mean the same wherever they are."""
    html = click.option(
        "--html",
        metavar="FILE",
        help="Write a page for a browser: timeline, stacks side by side, source lines (docs/reports.md).",
    )
    perfetto = click.option("--perfetto", metavar="FILE", help="Write a trace for ui.perfetto.dev.")
    return html(perfetto(command))


def _export_options(command: _Function) -> _Function:
    """The options --otel and --sentry, which mean the same wherever they are."""
    otel = click.option(
        "--otel",
        is_flag=True,
        help="Send metrics and log records to OpenTelemetry, as OTEL_EXPORTER_OTLP_ENDPOINT and the like in the "
        "environment say (docs/how-to/telemetry.md).",
    )
    sentry = click.option("--sentry", is_flag=True, help="Send hangs to Sentry, to the DSN in SENTRY_DSN.")
    return otel(sentry(command))


def _emulations(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> Any:
    try:
        return tuple(map(parse, values))
    except ValueError as error:
        raise click.BadParameter(f"{error}.", ctx, param) from None


class _ProgramCommand(click.Command):
    """From the script (or -m, or -c) on, everything is the program's, as it is with python."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = [param for param in self.params if isinstance(param, click.Option) and not param.is_flag]
        with_value = {name for option in options for name in option.opts}
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] not in ("-", "--"):
            if args[at][:2] in ("-m", "-c"):
                break
            at += 2 if args[at] in with_value else 1
        rest = super().parse_args(ctx, args[:at])
        ctx.params["program"] = tuple(args[at + 1 :] if args[at : at + 1] == ["--"] else args[at:])
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[OPTIONS]", "SCRIPT [ARGS]... | -m MODULE [ARGS]... | -c CODE [ARGS]..."]


@commands.command("run", cls=_ProgramCommand)
@click.option(
    "--policy",
    type=click.Choice(["observe", "wait", "raise"]),
    default="wait",
    show_default=True,
    help="At a fork at risk: observe only reports it, wait waits for a safe moment, raise refuses it.",
)
@_wait("How long one fork may wait for a safe moment.")
@click.option("--no-repair", is_flag=True, help="Leave the child as it is, whatever could not be waited for.")
@_hang_after("How long a thread of a child waits for what the fork left behind before that is called a hang.")
@click.option(
    "--on-hang",
    type=click.Choice(["report", "kill"]),
    default="report",
    show_default=True,
    help="What to do then; kill: end it with SIGABRT, be the hang proven or likely.",
)
@click.option("--events", metavar="FILE", help="Write every fork to FILE, as JSON lines (docs/events.md).")
@_page_options
@_export_options
@click.option(
    "--emulate",
    metavar="NAME[:DELAY_MS]",
    callback=_emulations,
    multiple=True,
    help="Behave as another platform does. getaddrinfo-lock: one lock of the process around name look-ups, as in "
    "CPython 2.7 to 2.7.11 and 3.0 to 3.5.1 on macOS, OpenBSD and NetBSD (Modules/socketmodule.c, lines 188-192 in "
    "v3.5.1; later and others: docs/emulate.md); held DELAY_MS longer.",
)
@click.option(
    "--trace-lookups",
    is_flag=True,
    help="Write each name look-up to stderr: getting lock, got lock, released.",
)
@click.option(
    "--keep-warnings",
    is_flag=True,
    help="Keep what CPython and libraries say about every fork with threads, also where nothing was at risk.",
)
@click.option(
    "--no-connections",
    is_flag=True,
    help="Leave children alone that use a connection which their parent has open too (docs/connections.md), and do not tell "
    "of output that two processes wrote (docs/workers.md).",
)
@click.option(
    "--strict",
    is_flag=True,
    help=f"For CI: exit with {STRICT_STATUS} if any fork was at risk, or a child used a connection of its parent's.",
)
def run_command(
    program: tuple[str, ...], no_repair: bool, keep_warnings: bool, no_connections: bool, **options: object
) -> None:
    """Run a Python program as python would, with every fork watched.

    Arguments, streams, signals and exit status are the program's own. The report goes to stderr, and there
    is none if there is nothing to say. Forkproof's options come first, then what python would be given:

    \b
      forkproof run app.py --port 80
      forkproof run --policy observe -m pytest -x tests
      forkproof run --strict --events forks.jsonl -c 'import app; app.main()'
      python -X dev -m forkproof run app.py      with options of python's own
    """
    switches = {
        "repair": not no_repair,
        "hide_moot_warnings": not keep_warnings,
        "connections": not no_connections,
    }
    run(Target(program), Options(**switches, **options))  # type: ignore[arg-type]  # click has checked


@commands.command("verify", cls=_ProgramCommand)
@click.option(
    "--runs",
    type=click.IntRange(2, 1000),
    help="Runs of each change. [default: 8, and up to 24 where those are too few]",
)
@click.option(
    "--limit",
    metavar="SECONDS",
    type=_Seconds(min=0.1),
    help="What has not ended by then hangs. [default: 10, or 10 times what the slowest good run took, from 3 on]",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="How many runs may work at once; 1 for programs that cannot run beside each other. [default: processors]",
)
@click.option(
    "--emulate",
    metavar="NAME[:DELAY_MS]",
    callback=_emulations,
    multiple=True,
    help="As of run, for all the runs.",
)
@click.option("--preload", metavar="MODULE", multiple=True, help="Import MODULE first, in all the runs.")
@click.option("--json", "as_json", is_flag=True, help="The table and the conclusion as JSON.")
def verify_command(program: tuple[str, ...], as_json: bool, jobs: int | None, **asked: Any) -> int:
    """Run a program again and again, one thing about its forks changed, and say what makes its hang come and go.

    As it is; only watched; forking 0.1 s later; made safe; then, from what was at risk at its forks,
    waiting for each hazard alone and for all but that; with the modules imported first that were being
    imported; with the getaddrinfo lock of other platforms (run --emulate); multiprocessing by forkserver
    and spawn.

    \b
      forkproof verify app.py
      forkproof verify --runs 20 --limit 5 -m package.module
      forkproof verify --emulate getaddrinfo-lock --preload encodings.idna app.py

    The program must end by itself. It gets no input; its output is not shown. A run counts as one that hangs
    or fails by how all of its processes end. Nothing is left running.

    Exit status: 0 no run hangs or fails as it is, 1 some do, 2 nothing can be said of this program.
    """
    try:
        from forkproof.lab.conclude import conclude
        from forkproof.lab.table import Watcher, print_json, print_report
        from forkproof.lab.verify import Asked, verify
    except ModuleNotFoundError as error:
        if error.name != "psutil":
            raise
        raise LaunchError("verify needs psutil; install it with: pip install 'forkproof[cli]'") from None
    if jobs is not None:
        asked["jobs"] = jobs
    with Watcher(as_json).watching() as watcher:
        lab = verify(Target(program), Asked(**asked), watcher.show)
    conclusion = conclude(lab)
    (print_json if as_json else print_report)(lab, conclusion, sys.stdout)
    return {"acquitted": 0, "impossible": 2}.get(conclusion.verdict, 1)


def _settings(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    from forkproof.lab.settings import Settings

    try:
        return None if value is None else str(Settings.parse(value))
    except ValueError as error:
        raise click.BadParameter(f"{error}.", ctx, param) from None


@commands.command("hunt", cls=_ProgramCommand)
@click.option("--runs", type=click.IntRange(1), help="At most so many runs.")
@click.option("--until-hang", is_flag=True, help="Without end, until a run hangs. [default, without --runs]")
@click.option("--keep-on", is_flag=True, help="Do not stop at the first hang: count them.")
@click.option(
    "--policy",
    type=click.Choice(["observe", "wait", "none"]),
    default="observe",
    show_default=True,
    help="As of run; wait: whether it still hangs where forks are made safe; none: without Forkproof inside.",
)
@_wait("How long one fork may wait for a safe moment, under policy wait.")
@click.option(
    "--limit",
    metavar="SECONDS",
    type=_Seconds(min=0.1),
    help="What stands still then hangs. [default: 10, or 10 times what the slowest good run took, from 3 on]",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="How many runs may work at once, on this machine. [default: processors]",
)
@click.option(
    "--seed", type=click.IntRange(0), help="Of what is drawn at random. [default: another each time]"
)
@click.option(
    "--settings",
    metavar="NAME=VALUE,...",
    callback=_settings,
    help="The same in all runs, as a hunt has printed them; '' changes nothing.",
)
@click.option(
    "--again",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Runs made then with the settings of the one that hung.",
)
@click.option(
    "--dask", metavar="ADDRESS", help="Make the runs on the workers of this scheduler (docs/hunt.md)."
)
@click.option("--events", metavar="FILE", help="Write the events of the run that hung to FILE.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def hunt_command(program: tuple[str, ...], **asked: Any) -> int:
    """Run a program again and again, its threads scheduled otherwise in each run, until it hangs, and explain that hang.

    Threads are switched more or less often; the program gets one processor, and company on it; forks, and
    lines at which a lock may be held, are held up for a moment. One run in five is left as it is. What hung
    is told as run tells it, with the settings that make it come again, and how often they do; what has not
    hung, with how rare a hang must be to have been missed.

    \b
      forkproof hunt app.py
      forkproof hunt --runs 5000 --limit 5 -m package.module
      forkproof hunt --settings seed=37,switch=1.2e-05,cores=1 --runs 100 --keep-on app.py
      forkproof hunt --dask tcp://10.0.0.5:8786 app.py

    The program must end by itself. It gets no input; its output is not shown. Nothing is left running.

    Exit status: 0 no run hung, 1 one did, 2 the program cannot be run, 130 interrupted.
    """
    try:
        from forkproof.lab.hunted import command
    except ModuleNotFoundError as error:
        if error.name != "psutil":
            raise
        raise LaunchError("hunt needs psutil; install it with: pip install 'forkproof[cli]'") from None
    return command(Target(program), **asked)


@commands.command("report")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@_page_options
@click.option(
    "--overview",
    is_flag=True,
    help="All files as one: which locks, in which programs, on which hosts, since when, how long the waits were "
    "(docs/overview.md).",
)
@click.option("--json", "as_json", is_flag=True, help="With --overview: the answer as JSON.")
@click.option(
    "--database",
    metavar="FILE",
    help="With --overview: keep the tables in FILE, a DuckDB database, for your SQL.",
)
def report_command(
    files: tuple[str, ...],
    html: str | None,
    perfetto: str | None,
    overview: bool,
    as_json: bool,
    database: str | None,
) -> int:
    """Show the events in FILE (from run --events) as run would have.

    FILE may be several, plain or gzip, a folder (with those below it) of *.jsonl and *.jsonl.gz, a pattern, or
    - for stdin. What is damaged, foreign or of a later version is left out, and a line says so.

    \b
      forkproof report forks.jsonl
      forkproof report --html forks.html forks.jsonl
      zcat forks.jsonl.gz | forkproof report -
      forkproof report --overview '/var/log/*/forks-*.jsonl.gz' /srv/logs

    Exit status: 0, or 2 if there was nothing to read.
    """
    if not overview:
        if as_json or database is not None:
            raise ReportError("--json and --database belong to --overview")
        return report(files, html=html, perfetto=perfetto)
    if html is not None or perfetto is not None:
        raise ReportError("--overview is text or JSON; --html and --perfetto show single forks")
    from forkproof.report.overview import overview as answer

    return answer(files, database=database, as_json=as_json)


@commands.command("doctor")
@click.argument("pid", type=click.IntRange(min=1), required=False)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object a process, on a line of its own (docs/doctor.md).",
)
@click.option("--tree", is_flag=True, help="Look at the process's descendants too.")
@click.option("--watch", is_flag=True, help="Look again and again, until one hangs or all have ended.")
@_hang_after("With --watch: how long a main thread stands still before the process is examined.")
@click.option(
    "--core",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Look at a core file instead.",
)
def doctor_command(pid: int | None, **options: Any) -> int:
    """Say what process PID waits for, who has it, and whether it will ever go on.

    Reads the process from outside, with or without forkproof in it, and changes nothing there. Exit status: 0 nothing is
    deadlocked, 1 something is (proven or likely), 2 the process could not be looked at.

    \b
      forkproof doctor 4243
      forkproof doctor --tree 4242
      forkproof doctor --tree --watch 4242 && echo all have ended
    """
    from forkproof.doctor.command import doctor

    return doctor(pid, **options)


@commands.command("watch")
@click.argument("pid", type=click.IntRange(min=1), required=False)
@click.option("--pid-file", metavar="FILE", help="Where the service has written its id.")
@_hang_after("How long a main thread stands still before its process is examined.")
@click.option(
    "--once",
    is_flag=True,
    help="For probes: watch for that long only, and say by the exit status whether one hangs.",
)
@click.option(
    "--end", is_flag=True, help="End a forked process that hangs: SIGABRT, and SIGKILL 5 seconds later."
)
@click.option("--events", metavar="FILE", help="Append each hang to FILE, as JSON lines (docs/events.md).")
@_export_options
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Show each as a JSON object, on a line of its own (docs/doctor.md).",
)
def watch_command(pid: int | None, pid_file: str | None, **options: Any) -> int:
    """Watch a service from beside it: process PID and its descendants, with the doctor's means.

    Says which process hangs, on what and why, and goes on. Made for systemd, Docker and Kubernetes (docs/watch.md).

    \b
      forkproof watch 4242
      forkproof watch --end --events /var/log/hangs.jsonl --pid-file /run/app.pid
      forkproof watch --once --hang-after 3 1

    Exit status: 0 the service has ended, or the watch was ended by SIGTERM or SIGINT; 2 the service could not be looked at.
    With --once: 0 nothing hangs, 1 something does (proven or likely), 2 the service could not be looked at.
    """
    if (pid is None) == (pid_file is None):
        raise click.UsageError("give either the id of a process or --pid-file.")
    if pid_file is not None:
        try:
            with open(pid_file) as file:
                pid = int(file.read())
        except OSError as error:
            raise click.UsageError(f"{pid_file}: {error.strerror}.") from None
        except ValueError:
            raise click.UsageError(f"{pid_file} has no process id in it.") from None
        if pid < 1:
            raise click.UsageError(f"{pid_file} has no process id in it.")
    assert pid is not None
    from forkproof.doctor.process import program_of
    from forkproof.doctor.service import watch

    service = program_of(pid) or "forkproof"
    exports = Exports(sys.stderr, sinks(service, otel=options.pop("otel"), sentry=options.pop("sentry")))
    return watch(pid, exports=exports, **options)


@commands.command("export")
@click.argument("file")
@_export_options
@click.option("--from-start", is_flag=True, help="Export what is in FILE already as well.")
@click.option("--until-end", is_flag=True, help="Stop at the end of FILE, instead of waiting for more.")
def export_command(file: str, otel: bool, sentry: bool, **options: Any) -> int:
    """Follow FILE, to which events are written, and send on what comes: to OpenTelemetry, to Sentry, or both.

    Made to run beside a service that has Forkproof inside it with events=FILE (docs/how-to/telemetry.md). FILE may come later, and
    be rotated.

    \b
      FORKPROOF=events=/var/log/app.jsonl gunicorn app:app
      forkproof export --otel --sentry /var/log/app.jsonl

    Exit status: 0 it was ended by SIGTERM or SIGINT, or --until-end; 2 nothing can be exported: one line on stderr says why.
    """
    if not (otel or sentry):
        raise click.UsageError("say where to: --otel, --sentry, or both.")
    from forkproof.export.command import export

    return export(file, otel=otel, sentry=sentry, **options)


@commands.command("demo")
@click.option("--act", "acts", type=click.IntRange(1, 6), multiple=True, help="Only this act (repeatable).")
@click.option("--fast", is_flag=True, help="PyMongo's 30 s become 3, and the experiments half as many runs.")
def demo_command(acts: tuple[int, ...], fast: bool) -> int:
    """Tell the story that Forkproof grew from, with real programs on this machine.

    \b
      1  a program of twelve lines hangs
      2  who held what
      3  the getaddrinfo lock that macOS and the BSDs had in 2015
      4  a MongoClient that finds no server for thirty seconds
      5  the experiments and their table
      6  the same programs under Forkproof

    Acts 4 and 6 use PyMongo and SecantusDB (pip install 'forkproof[lab]'), or the server in MONGODB_URI.
    """
    from forkproof.lab.demo import demo

    return demo(acts, fast=fast)
