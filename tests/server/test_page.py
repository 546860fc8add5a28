"""The web page in Chromium: what it shows, live, of the past, and what it lets whom do."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

import interlock
from interlock.core.refusals import QUEUE
from interlock.core.requests import TakeTurn
from interlock.server.http.identity import SERVICE_RULES, SERVICE_SPACE, create_token
from tests.servers.service import Service

_numbers = count()
PATHS = ("", "/keys", "/key/booking/1", "/conflicts", "/agents", "/runs", "/streams", "/operate")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("Chromium for the tests is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service.start(tmp_path_factory.mktemp("service")) as running:
        yield running


@contextmanager
def looking(browser: Browser, service: Service, **options: Any) -> Iterator[Page]:
    """Open a page; what the browser complains of fails the test."""
    wrong: list[str] = []
    context = browser.new_context(base_url=service.url(), reduced_motion="reduce", **options)
    page = context.new_page()
    page.on("console", lambda said: wrong.extend([said.text] * (said.type == "error")))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    try:
        yield page
    finally:
        context.close()
    assert not wrong


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    with looking(browser, service) as opened:
        yield opened


@pytest.fixture
def team(service: Service) -> Iterator[interlock.Space]:
    """A space in which two agents met."""
    rules = {
        "booking/*": interlock.guarded(machine=interlock.BOOKING),
        "findings": interlock.merged("append"),
    }
    url, name = service.stores[0], f"team-{next(_numbers)}"
    with (
        interlock.open(url, name, "planner", rules=rules) as planner,
        interlock.open(url, name, "critic") as critic,
    ):
        old = planner.create("booking/1", {"status": "PENDING", "seat": None})
        critic.write(critic.read("booking/1"), {"status": "PENDING", "seat": "7C"})
        with pytest.raises(interlock.Conflict):
            planner.write(old, {"status": "PENDING", "seat": "12A"})
        with critic.transaction() as tx:
            tx.read("booking/1")
            tx.create("plan", "as booked")
        planner.append("findings", {"source": "web"})
        yield planner


def at(space: interlock.Space, path: str = "") -> str:
    return f"/ui/{quote(space.session.driver.backend.name)}{path}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_and_without_errors(
    scheme: Any, browser: Browser, service: Service, team: interlock.Space
) -> None:
    with looking(browser, service, color_scheme=scheme) as page:
        for path in PATHS if scheme == "light" else PATHS[:4]:  # one style sheet, other colours
            page.goto(at(team, path))
            found = Axe().run(page)
            assert not found.violations_count, (path, found.generate_report())


def test_no_page_is_wider_than_a_telephone(
    browser: Browser, service: Service, team: interlock.Space
) -> None:
    with looking(browser, service, viewport={"width": 390, "height": 800}) as page:
        for path in PATHS:
            page.goto(at(team, path))
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_a_large_screen_is_used(browser: Browser, service: Service, team: interlock.Space) -> None:
    with looking(browser, service, viewport={"width": 1920, "height": 1080}) as page:
        page.goto(at(team))
        brand, log = (page.locator(each).bounding_box() for each in (".brand", "#log"))
        assert brand is not None
        assert log is not None
        assert log["width"] > 1600
        assert abs(brand["x"] - log["x"]) < 3, "the head stands above the page"


def test_the_log_grows_while_one_looks(page: Page, team: interlock.Space) -> None:
    page.goto(at(team))
    rows = page.locator("#log tbody tr")
    before = rows.count()
    team.append("findings", {"source": "live"})
    expect(rows).to_have_count(before + 1)
    expect(rows.first).to_contain_text('{"source":"live"}')
    page.get_by_role("button", name="Pause").click()
    team.append("findings", {"source": "held"})
    team.create("unfiltered", 1)
    expect(page.locator("#hot")).to_contain_text("unfiltered")  # the minute goes on meanwhile
    expect(rows).to_have_count(before + 1)
    page.get_by_role("button", name="Go on").click()
    expect(rows).to_have_count(before + 3)
    expect(page.locator("#attempts")).to_have_text(re.compile(r"1\.\d+"))


def test_the_log_is_filtered_by_its_url(page: Page, team: interlock.Space) -> None:
    page.goto(at(team))
    page.get_by_label("Agent").fill("critic")
    page.get_by_role("button", name="Filter").click()
    expect(page).to_have_url(re.compile("agent=critic"))
    rows = page.locator("#log tbody tr")
    expect(rows).to_have_count(2)
    team.append("findings", "of another agent")
    team.create("later", 1)
    expect(page.locator("#hot")).to_contain_text("later")
    expect(rows).to_have_count(2)


def test_a_key_is_shown_as_it_was_and_with_what_changed(page: Page, team: interlock.Space) -> None:
    first, second = team.history("booking/1")
    page.goto(at(team, "/key/booking/1"))
    diff = page.get_by_label("Difference")
    expect(diff.locator(".removed")).to_have_text('-   "seat": null,')
    expect(diff.locator(".added")).to_have_text('+   "seat": "7C",')
    expect(page.locator(".machine .current strong")).to_have_text("PENDING")
    expect(page.get_by_text("plan", exact=True)).to_have_attribute("href", at(team, "/key/plan"))
    slider = page.get_by_label("Position")
    slider.focus()
    slider.press("Home")  # the oldest version
    expect(page.locator("#moment")).to_contain_text(f"At position {first.position}: version 1")
    expect(page.locator("#moment pre")).to_contain_text('"seat": null')
    page.get_by_label("From").select_option(label="nothing")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_label("Difference").locator(".added")).to_have_count(4)
    assert second.agent == "critic"


def test_a_conflict_names_both_sides(page: Page, team: interlock.Space) -> None:
    while not team.conflicts().refusals:  # half a second late
        threading.Event().wait(0.05)
    page.goto(at(team, "/conflicts"))
    heat = page.get_by_role("table", name="Refusals of agents")
    expect(heat.get_by_role("row", name="planner")).to_contain_text("1")
    refusal = page.get_by_role("region", name="The last refusals").locator("tbody tr")
    for said in ("planner", "Conflict", "booking/1", "critic"):
        expect(refusal).to_contain_text(said)


def test_text_of_agents_is_never_taken_for_html(page: Page, team: interlock.Space) -> None:
    attack = "<img src=x onerror=alert(1)>"
    team.create(attack, attack)
    for path in ("", "/keys", f"/key/{quote(attack)}"):
        page.goto(at(team, path))
        expect(page.get_by_text(attack).first).to_be_visible()
    page.goto(at(team))
    team.create(f"{attack}live", attack)
    expect(page.get_by_text(f"{attack}live").first).to_be_visible()


def test_a_run_gets_its_answer(page: Page, team: interlock.Space) -> None:
    answer = _started(team, "order-1", lambda run: run.wait_for("approval"))
    while not team.runs.list():
        threading.Event().wait(0.05)
    page.goto(at(team, "/runs/order-1"))
    _reloaded(page, "Answer (JSON)").fill('{"by": "anna"}')
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("status")).to_have_text("Sent approval.")
    assert answer.result(timeout=30) == {"by": "anna"}
    page.goto(at(team, "/runs"))
    expect(page.get_by_role("row", name="order-1")).to_contain_text("Completed")


def test_an_effect_in_doubt_is_settled(page: Page, team: interlock.Space) -> None:
    class Killed(BaseException):
        pass

    def charge(key: str) -> str:
        raise Killed

    def program(run: Any) -> Any:
        return run.effect("charge", charge)

    with pytest.raises(Killed):
        _run(team, "order-2", program)
    receipt = _started(team, "order-2", program)
    page.goto(at(team, "/runs/order-2"))
    _reloaded(page, "Result (JSON)").fill('"receipt 7"')
    page.get_by_role("button", name="It happened").click()
    expect(page.get_by_role("status")).to_have_text("Said that it happened.")
    assert receipt.result(timeout=30) == "receipt 7"


def _run(space: interlock.Space, name: str, program: Callable[[Any], Any]) -> Any:
    with space.run(name) as run:
        run.result = program(run)
    return run.result


def _started(space: interlock.Space, name: str, program: Callable[[Any], Any]) -> Future[Any]:
    """Begin a run in a thread that does not outlive the tests."""
    found: Future[Any] = Future()
    work = threading.Thread(
        target=lambda: found.set_result(_run(space, name, program)), daemon=True
    )
    work.start()
    return found


def _reloaded(page: Page, label: str) -> Locator:
    """Load a page again until the run waits for a person."""
    found = page.get_by_label(label)
    while not found.count():
        page.reload()
    return found


def test_a_past_value_is_restored_as_a_new_version(page: Page, team: interlock.Space) -> None:
    first = next(iter(team.history("booking/1")))
    page.goto(at(team, "/operate?key=booking/1"))
    page.get_by_label("Position").fill(str(first.position))
    page.get_by_role("button", name="Restore").click()
    expect(page.get_by_role("status")).to_contain_text("as version 3")
    record = team.read("booking/1")
    assert (record.version, record.value["seat"]) == (3, None)


def test_who_holds_a_key_and_who_waits_is_on_its_page(page: Page, team: interlock.Space) -> None:
    perform = team.session.driver.backend.perform
    for n, (name, key) in enumerate((("anna", QUEUE + "report"), ("bert", "report"))):
        perform(TakeTurn((key,), name=f"ticket {n}", agent=name, ttl=60.0))
        page.goto(at(team, "/key/report"))
        expect(page.get_by_role("region", name="Queue").locator("tbody tr")).to_have_count(n + 1)
    rows = page.get_by_role("region", name="Queue").locator("tbody tr")
    expect(rows.nth(0)).to_contain_text(re.compile("1.*anna.*the lease"))
    expect(rows.nth(1)).to_contain_text(re.compile("2.*bert.*it has the turn"))
    assert not Axe().run(page).violations_count
    with team.lease("plan", ttl=60):
        page.goto(at(team, "/key/plan"))
        expect(page.get_by_text("planner holds the lease at epoch 1, for")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="Lease and queue")).to_have_count(0)


def refused(service: Service, team: interlock.Space, key: str, change: Any) -> None:
    """Have somebody lose against the team's agent, through the service."""
    name = team.session.driver.backend.name
    with interlock.open(service.url(), name, "late") as late:
        old = late.read(key)
        team.update(key, lambda value: {**value, "status": "PENDING_PAYMENT"})
        with pytest.raises(interlock.Conflict):
            late.write(old, {**old.value, **change})


def test_a_refused_write_is_applied_to_the_record_of_now(
    page: Page, service: Service, team: interlock.Space
) -> None:
    refused(service, team, "booking/1", {"seat": "1A"})
    page.goto(at(team, "/conflicts"))
    row = page.get_by_role("region", name="Refused writes").locator("tbody tr")
    expect(row).to_contain_text("late")
    row.get_by_role("link", name="Look and apply").click()
    diff = page.get_by_label("Difference")
    expect(diff.locator(".removed")).to_have_text('-   "seat": "7C",')
    expect(diff.locator(".added")).to_have_text('+   "seat": "1A",')
    assert not Axe().run(page).violations_count
    place = page.url
    page.get_by_role("button", name="Apply to version 3").click()
    expect(page.get_by_role("status")).to_have_text("Written as version 4.")
    assert team.read("booking/1").value == {"status": "PENDING_PAYMENT", "seat": "1A"}
    assert service.ask("GET", urlsplit(place).path).status == 404


def test_a_refused_write_that_was_shown_beside_an_older_record_is_not_applied(
    page: Page, service: Service, team: interlock.Space
) -> None:
    refused(service, team, "booking/1", {"seat": "1A"})
    page.goto(at(team, "/conflicts"))
    page.get_by_role("link", name="Look and apply").click()
    team.update("booking/1", lambda value: {**value, "seat": "9F"})
    page.get_by_role("button", name="Apply to version 3").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was written")
    assert team.read("booking/1").value["seat"] == "9F"
    expect(page.get_by_text("Left out, because it was changed since")).to_be_visible()
    expect(page.get_by_role("button", name="Apply")).to_have_count(0)


def test_a_form_of_another_page_changes_nothing(service: Service, team: interlock.Space) -> None:
    form = b"do=erase&key=plan&sure=yes&csrf="
    answer = service.ask("POST", at(team, "/operate"), form)
    assert answer.status == 403
    elsewhere = service.ask("POST", at(team, "/operate"), form, Origin="http://evil.example")
    assert elsewhere.status == 403
    assert team.read("plan").value == "as booked"


def test_two_roles_see_what_is_theirs(browser: Browser, tmp_path: Path) -> None:
    with Service.start(tmp_path, "--tokens") as service:
        with interlock.open(
            service.stores[0], SERVICE_SPACE, "admin", rules=SERVICE_RULES
        ) as tokens:
            reader, _ = create_token(tokens, "rita", role="reader", keys=["team/**"])
            operator, _ = create_token(tokens, "olaf", role="operator")
        with interlock.open(service.stores[0], "main", "planner") as space:
            space.create("team/plan", 1)
            space.create("secret", 2)
        with looking(browser, service) as page:
            page.goto("/ui/main/keys")
            expect(page).to_have_url(re.compile("/ui/sign-in"))
            page.get_by_label("Token").fill(reader)
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("link", name="team/plan")).to_be_visible()
            expect(page.get_by_text("secret")).to_have_count(0)
            expect(page.get_by_role("link", name="Operate")).to_have_count(0)
            (cookie,) = page.context.cookies()
            assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
            page.get_by_role("button", name="Sign out").click()
            page.get_by_label("Token").fill(operator)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("link", name="Operate").click()
            expect(page.get_by_role("heading", name="Restore a key")).to_be_visible()
        cookie_of = f"interlock-token={reader}"
        for path in ("/ui/main/operate", "/ui/main/key/secret"):
            assert service.ask("GET", path, Cookie=cookie_of).status == 403
        wrong = service.ask("POST", "/ui/sign-in", b"token=ilk_1_2&to=//evil.example")
        assert wrong.status == 401
        live = service.ask("GET", "/ui/main/live")
        assert live.status == 401
