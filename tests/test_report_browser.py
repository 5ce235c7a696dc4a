"""The page in a real browser: it shows, runs and fetches what it should and nothing else, for hands, keys, phones and paper."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_model import SHARED
from test_report import HAZARD, LOOKUP, WAITED
from test_report_pages import BORN, FORK, HANG, SAFE, SCRIPT, USE, at, page

from forkproof.model import Event, Frame, Thread

try:
    from playwright.sync_api import Browser, Page, expect, sync_playwright
except ImportError:
    pytest.skip("needs playwright: pip install playwright", allow_module_level=True)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("needs a Chromium on PATH (Debian: apt-get install chromium)", allow_module_level=True)

LOCK = replace(
    HAZARD,
    kind="held-lock",
    what="self._lock of shop.Metrics",
    thread=Thread("metrics", 3, 4250),
    stack=(Frame("/usr/lib/python3/site-packages/prometheus_client/core.py", 7, "collect"),),
    advice="fork first",
)
SEVERAL = [
    FORK,
    BORN,
    HANG,
    replace(WAITED, time=at(3), fork=2, child=4300, hazards=(replace(LOCK, cleared=True),)),
    replace(FORK, time=at(4), fork=3, child=4301, risk="none", hazards=(), outcome="clear"),
    replace(FORK, time=at(5), fork=4, child=4302, hazards=(LOCK,)),
    replace(FORK, time=at(6), pid=9000, fork=1, child=9001, hazards=(LOCK,)),
]

Show = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Show]:
    """Open a page of these events. At the end: it fetched nothing, and nothing went wrong in it."""
    contexts = []
    asked: list[str] = []
    wrong: list[str] = []

    def show(*told: Event, wait: bool = True, innocent: bool = True, **options: Any) -> Page:
        file = tmp_path / "page.html"
        file.write_text(page(*told), encoding="utf-8")
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        shown = context.new_page()
        shown.set_default_timeout(60_000)
        if innocent:
            shown.on("request", lambda request: asked.append(request.url))
            shown.on("pageerror", lambda error: wrong.append(str(error)))
            shown.on("console", lambda message: wrong.append(message.text))
        shown.goto(file.as_uri())
        if wait:
            shown.wait_for_selector("#lanes .tick, #detail .quiet")
        return shown

    yield show
    for context in contexts:
        context.close()
    assert {url.partition("#")[0] for url in asked} <= {(tmp_path / "page.html").as_uri()}
    assert wrong == []


def test_holder_and_waiter_stand_side_by_side(show: Show) -> None:
    shown = show(*SEVERAL)
    detail = shown.locator("#detail")
    assert "Fork 1: 4242 → 4243" in detail.inner_text()
    holder, waiter = detail.locator(".holder"), detail.locator(".waiter")
    assert "Thread-1 (lookup) held import of encodings.idna" in holder.inner_text()
    assert "/srv/app/names.py:4" in holder.inner_text()
    assert "MainThread waits for import of encodings.idna" in waiter.inner_text()
    assert "/srv/app/main.py:12" in waiter.inner_text()
    assert "import encodings.idna before the first thread starts" in detail.locator(".advice").inner_text()
    left, right = holder.bounding_box(), waiter.bounding_box()
    assert left
    assert right
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    assert holder.locator(".matters .line").inner_text().startswith(str(LOOKUP[1].line))


def test_a_click_on_a_fork_and_on_what_recurs(show: Show) -> None:
    shown = show(*SEVERAL)
    shown.locator("#lanes path.fork.bad").nth(1).click()
    assert "Fork 4: 4242 → 4302" in shown.locator("#detail").inner_text()
    assert "collect /usr/lib" in shown.locator("#detail .holder").inner_text()
    shown.get_by_role("button", name="import of encodings.idna").click()
    assert "Fork 1: 4242 → 4243" in shown.locator("#detail").inner_text()
    shown.locator("#lanes .span.hang").first.click()
    assert "waits for" in shown.locator("#detail").inner_text()


def test_a_shared_connection_is_marked_and_told_beside_its_fork(show: Show) -> None:
    shown = show(FORK, BORN, USE, replace(SAFE, time=at(5), fork=2, child=4300))
    shown.get_by_role("button", name="TCP connection to 127.0.0.1:5432").click()
    detail = shown.locator("#detail")
    assert "Fork 1: 4242 → 4243" in detail.inner_text()
    assert "worker writes to TCP connection to 127.0.0.1:5432" in detail.locator(".user").inner_text()
    assert "proven, by both-used: process 4242 has it open too" in detail.locator(".user").inner_text()
    assert SHARED.advice in detail.locator(".advice").inner_text()
    assert "its child uses a connection that both have" in detail.locator(".top").inner_text()
    shown.locator("#lanes [data-use]").hover()
    assert "worker of 4243 writes to TCP connection" in shown.locator("#tip").inner_text()
    shown.get_by_role("button", name="import of encodings.idna").click()
    assert detail.locator(".sides .user").count() == 0
    shown.locator("#lanes [data-use]").click()
    assert detail.locator(".sides .user").count() == 1
    shown.get_by_role("button", name="shares a connection").click()
    assert shown.locator("#groups .group").count() == 2


def test_all_of_it_works_by_keyboard(show: Show) -> None:
    shown = show(*SEVERAL)
    heading = shown.locator("#detail h2")
    shown.get_by_role("button", name="self._lock of shop.Metrics").focus()
    shown.keyboard.press("Enter")
    first = heading.inner_text()
    shown.keyboard.press("j")
    second = heading.inner_text()
    assert first != second
    shown.keyboard.press("k")
    assert heading.inner_text() == first
    shown.locator("#timeline").focus()
    shown.keyboard.press("End")
    assert heading.inner_text() == "Fork 1: 9000 → 9001"
    shown.keyboard.press("+")
    expect(shown.locator("#range")).to_contain_text(" of ")
    shown.keyboard.press("0")
    expect(shown.locator("#range")).not_to_contain_text(" of ")
    shown.keyboard.press("/")
    shown.keyboard.type("encodings")
    expect(shown.locator("#groups .group")).to_have_count(1)
    assert heading.inner_text() == "Fork 1: 4242 → 4243"


def test_filters_by_outcome_kind_library_and_process(show: Show) -> None:
    shown = show(*SEVERAL)

    def left() -> list[str]:
        return shown.locator("#groups .what").all_inner_texts()

    everything = ["import of encodings.idna", "self._lock of shop.Metrics", "Nothing"]
    assert left() == everything
    shown.get_by_role("button", name="held-lock").first.click()
    assert left() == ["self._lock of shop.Metrics"]
    shown.click("#reset")
    expect(shown.locator("#groups .group")).to_have_count(3)
    shown.select_option("#library", "prometheus_client")
    assert left() == ["self._lock of shop.Metrics"]
    assert "3 forks" in shown.locator("#groups").inner_text()
    shown.fill("#process", "9000")
    assert "1 fork" in shown.locator("#groups").inner_text()
    shown.click("#reset")
    expect(shown.locator("#groups .group")).to_have_count(3)
    shown.get_by_role("button", name="hung").first.click()
    assert left() == ["import of encodings.idna"]
    shown.fill("#find", "nowhere")
    assert shown.locator("#none").is_visible()


def test_a_script_for_a_name_is_shown_and_not_run(show: Show) -> None:
    hazard = replace(
        HAZARD, what=f"import of {SCRIPT}", thread=Thread(SCRIPT, 1, 2), stack=(Frame(SCRIPT, 1, SCRIPT),)
    )
    shown = show(
        replace(FORK, hazards=(hazard,), where=Frame(SCRIPT, 1, SCRIPT)), BORN, replace(HANG, hazard=hazard)
    )
    assert f"import of {SCRIPT}" in shown.locator("#groups").inner_text()
    assert f"{SCRIPT} held import of {SCRIPT}" in shown.locator("#detail .holder .lead").inner_text()
    assert shown.title() == "forks.jsonl: forkproof"
    assert shown.locator("img").count() == 0


def test_the_pages_own_policy_stops_what_would_get_in(show: Show) -> None:
    """The second wall: even markup that reached the page could neither run nor fetch anything."""
    shown = show(FORK, innocent=False)
    refused = shown.evaluate("""() => new Promise(done => {
        const kinds = [];
        document.addEventListener('securitypolicyviolation', event => {
            kinds.push(event.effectiveDirective);
            if (kinds.length === 2) done(kinds.sort());
        });
        document.body.insertAdjacentHTML('beforeend', '<img src="http://127.0.0.1:9/x.png">');
        const script = document.createElement('script');
        script.textContent = 'window.ran = true';
        document.body.append(script);
    })""")
    assert refused == ["img-src", "script-src-elem"]
    assert not shown.evaluate("window.ran")


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone_nothing_sticks_out(show: Show, width: int) -> None:
    shown = show(*SEVERAL, viewport={"width": width, "height": 800}, has_touch=True, is_mobile=True)
    assert shown.evaluate("document.documentElement.scrollWidth") == width
    holder, waiter = shown.locator(".holder").bounding_box(), shown.locator(".waiter").bounding_box()
    assert holder
    assert waiter
    assert holder["y"] + holder["height"] <= waiter["y"]
    shown.locator("#lanes path.fork.bad").first.tap()


def test_in_the_dark_it_is_dark_and_can_be_read(show: Show) -> None:
    for scheme, dark in (("light", False), ("dark", True)):
        shown = show(*SEVERAL, color_scheme=scheme)
        contrasts = shown.evaluate("""() => {
            const light = colour => {
                const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(n => n / 255)
                    .map(n => n <= .03928 ? n / 12.92 : ((n + .055) / 1.055) ** 2.4);
                return .2126 * r + .7152 * g + .0722 * b;
            };
            const behind = element => {
                for (; element; element = element.parentElement) {
                    const colour = getComputedStyle(element).backgroundColor;
                    if (colour !== 'rgba(0, 0, 0, 0)' && colour !== 'transparent') return light(colour);
                }
            };
            const found = {'': light(getComputedStyle(document.body).backgroundColor)};
            for (const one of ['h1', '.mark span', '.totals .bad', '.pill.bad', '.facts', '.lead .bad', '.place', '.advice', '.matters .line', '.group .kind', '.legend']) {
                const element = document.querySelector(one);
                const [a, b] = [light(getComputedStyle(element).color), behind(element)].sort((p, q) => q - p);
                found[one] = (a + .05) / (b + .05);
            }
            return found;
        }""")
        assert (contrasts.pop("") < 0.2) == dark
        assert {name: ratio for name, ratio in contrasts.items() if ratio < 4.5} == {}  # WCAG 2, AA


def test_on_paper_the_stacks_are_there_without_a_click(show: Show) -> None:
    shown = show(*SEVERAL)
    shown.evaluate(
        """addEventListener('beforeprint', () => { window.printed = document.getElementById('paper').innerText; })"""
    )
    assert shown.pdf().startswith(b"%PDF")
    assert "Thread-1 (lookup) held import of encodings.idna" in shown.evaluate("window.printed")
    assert "metrics held self._lock of shop.Metrics" in shown.evaluate("window.printed")
    assert shown.locator("#paper").inner_text() == ""


def test_without_scripts_it_says_what_it_can(show: Show) -> None:
    shown = show(*SEVERAL, wait=False, java_script_enabled=False)
    assert "Process 4243 hangs" in shown.locator("h1").inner_text()
    assert "self._lock of shop.Metrics" in shown.locator("noscript").inner_text()


def test_ten_thousand_events_are_drawn_as_few(show: Show) -> None:
    """What is drawn is what can be told apart, and a step to the next fork draws no more than that."""
    told: list[Event] = []
    for number in range(1, 5001):
        pid = 10_000 + number
        time = f"2026-11-24T{number // 250:02}:{number % 60:02}:00Z"
        fork = replace(FORK, time=time, fork=number, child=None, hazards=(LOCK,) if number % 9 == 0 else ())
        told.append(replace(fork, risk="certain" if number % 9 == 0 else "none"))
        told.append(replace(BORN, time=time, pid=pid, fork=number))
        if number % 45 == 0:
            told.append(replace(HANG, time=time, pid=pid, fork=number, hazard=LOCK))
    shown = show(*told)
    assert "5000 forks" in shown.locator(".totals").inner_text()
    assert shown.evaluate("document.querySelectorAll('*').length") < 6000
    shown.get_by_role("button", name="self._lock of shop.Metrics").click()
    assert "of 555" in shown.locator(".pager").inner_text()
    shown.keyboard.press("j")
    shown.keyboard.press("+")
    assert shown.evaluate("document.querySelectorAll('*').length") < 6000


def test_nothing_to_show_is_said(show: Show) -> None:
    assert "No fork was recorded." in show().locator("#detail").inner_text()
