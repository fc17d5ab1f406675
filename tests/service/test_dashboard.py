from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from gro.service.access.keys import KeySettings, KeyStore
from gro.service.core import Role
from gro.service.guard import Guard
from gro.service.playbook import State

Service = Any
BROWSER = "chromium"
HOSTILE = "<img/src=x/onerror=document.title='owned'>"
REFUSED = "Failed to load resource"
"""How the browser's console notes an answer that is no success, as the one to a wrong key."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which(BROWSER)
    if path is None:
        pytest.fail("chromium is not installed: apt-get install chromium (or: brew install --cask chromium)")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path)


@pytest.fixture
def page(browser: Browser, client: httpx.Client) -> Iterator[Page]:
    """The page as it is opened; nothing on it may ever be complained about by the browser."""
    with browser.new_context(base_url=str(client.base_url), viewport={"width": 1280, "height": 900}) as context:
        context.set_default_timeout(10_000)
        page, complaints = context.new_page(), list[str]()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.goto("/guard/dashboard")
        yield page
        assert [complaint for complaint in complaints if not complaint.startswith(REFUSED)] == []


@pytest.fixture
def operator(service: Service) -> str:
    key: str = service.key("otto", Role.OPERATE, Role.AUDIT)
    return key


def enter(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")


def account(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name, exact=True))


def steal(service: Service, client: httpx.Client, name: str) -> None:
    """Ask as a thief does, until the account is suspended."""
    key, world = {"X-API-Key": service.key(name)}, service.world
    history, answer = [world.anything()], client.post("/rank", json={"histories": [[1]]}, headers=key)
    while answer.status_code == 200:
        listed = answer.json()["lists"][0]
        history = [world.anything()] if len(history) == 50 else [*history, int(world.rng.choice(listed))]
        answer = client.post("/rank", json={"histories": [history]}, headers=key)
    assert answer.json()["error"] == "account_suspended"


def hold(client: httpx.Client, key: str, **order: object) -> None:
    answer = client.post("/guard/hold", json={"state": "watch", "why": "a test", **order}, headers={"X-API-Key": key})
    assert answer.status_code == 200


@pytest.mark.parametrize("key", ["gro_x_y", "gro_000000000000_" + "0" * 49, "ключ"])
def test_a_wrong_key_is_refused_and_shows_nothing(page: Page, key: str) -> None:
    enter(page, key)
    expect(page.get_by_role("alert")).to_have_text(re.compile("refused|no key"))
    expect(page.get_by_label("API key")).to_be_focused()
    expect(page.get_by_label("API key")).to_have_value("")
    expect(page.get_by_role("heading", name="Accounts")).to_be_hidden()


def test_a_thief_appears_by_itself_and_is_released_by_the_button(
    service: Service, guard: Guard, client: httpx.Client, page: Page, operator: str
) -> None:
    enter(page, operator)
    expect(page.get_by_text("No account stands out.")).to_be_visible()
    expect(page.get_by_text("No trouble")).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("Answered calls.*at most 0 a second"))).to_be_visible()
    steal(service, client, "thief")

    row = account(page, "thief")
    expect(row).to_contain_text("suspend by rule long alarm, until")
    assert guard.watchman is not None
    judged = guard.watchman.judgement("thief")
    assert judged is not None
    assert judged.reasons
    for reason in judged.reasons:
        expect(row).to_contain_text(str(reason))
    expect(row).to_contain_text(f"{100 * judged.score / judged.threshold:.0f} %")
    expect(page.get_by_role("img", name=re.compile("Answered calls.*at most (?!0 )"))).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("account_suspended"))).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("Alarms.*at most (?!0 )"))).to_be_visible()
    alarm = page.get_by_role("listitem").filter(has_text="account-alarm").first
    expect(alarm).to_contain_text("high")
    expect(alarm).to_contain_text("thief")
    expect(page.get_by_text("Alarm: thief.")).to_be_attached()

    row.get_by_role("button", name="Release thief").press("Enter")
    expect(page.get_by_role("dialog", name="Release thief")).to_be_visible()
    page.keyboard.type("a colleague's test")
    page.get_by_role("dialog").get_by_role("button", name="Release").press("Enter")
    expect(row).to_have_count(0)
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert guard.responses.response("thief").state is State.NORMAL
    released = page.get_by_role("listitem").filter(has_text="operator-release")
    expect(released).to_contain_text("thief, by otto")
    expect(released).to_contain_text("a colleague's test")
    assert [event["event"]["reason"] for event in service.events("operator-release")] == ["a colleague's test"]


def test_an_account_is_held_by_the_button(guard: Guard, client: httpx.Client, page: Page, operator: str) -> None:
    hold(client, operator, account="anna")
    enter(page, operator)
    expect(account(page, "anna")).to_contain_text("watch by operator otto, until it is released")
    account(page, "anna").get_by_role("button", name="Hold anna").click()
    dialog = page.get_by_role("dialog", name="Hold anna")
    dialog.get_by_label("State").select_option("challenge")
    dialog.get_by_label("Why").fill("asks at night")
    dialog.get_by_role("button", name="Hold").click()
    expect(dialog.get_by_role("alert")).to_contain_text("the application registered no hook")
    dialog.get_by_label("State").select_option("throttle")
    dialog.get_by_label("For", exact=True).select_option("an hour")
    dialog.get_by_role("button", name="Hold").click()
    expect(account(page, "anna")).to_contain_text("throttle to 10 %")
    (held,) = guard.responses.holds("anna")
    assert (held.state, held.by, held.why) == (State.THROTTLE, "otto", "asks at night")
    assert held.until == pytest.approx(guard.now() + 3600, abs=60)


def test_what_callers_chose_is_text_on_every_screen(client: httpx.Client, page: Page, operator: str) -> None:
    names = (HOSTILE, "x" * 255)
    for name in names:
        hold(client, operator, account=name, why=f"<script>document.title='owned'</script>{name}")
    enter(page, operator)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        for name in names:
            expect(account(page, name)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == width
    page.get_by_role("button", name=f"Release {HOSTILE}").click()
    expect(page.get_by_role("dialog")).to_contain_text(f"Release {HOSTILE}")
    assert page.locator("main img, main script, dialog img").count() == 0
    assert page.title() == "Guard"


def test_a_key_that_may_not_read_events_is_told_so_and_asks_once(
    service: Service, client: httpx.Client, page: Page
) -> None:
    enter(page, service.key("otto", Role.OPERATE))
    expect(page.get_by_text("This key may not read events.")).to_be_visible()
    hold(client, service.key("olga", Role.OPERATE), account="anna")
    expect(account(page, "anna")).to_be_visible()
    assert len(service.events("access-denied")) == 1


def test_a_service_that_goes_and_comes_back_is_seen(client: httpx.Client, page: Page, operator: str) -> None:
    enter(page, operator)
    expect(page.get_by_text("No trouble")).to_be_visible()
    page.context.set_offline(True)
    expect(page.get_by_text(re.compile("No news since .*: the service does not answer"))).to_be_visible()
    hold(client, operator, account="anna")
    page.context.set_offline(False)
    expect(account(page, "anna")).to_be_visible()
    expect(page.get_by_text("No news since")).to_have_count(0)


def test_a_key_is_in_the_open_page_and_nowhere_else(client: httpx.Client, page: Page, operator: str) -> None:
    hold(client, operator, account="anna")
    enter(page, operator)
    expect(account(page, "anna")).to_be_visible()
    assert page.context.storage_state() == {"cookies": [], "origins": []}
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    assert operator not in page.url + page.content()
    page.reload()
    expect(page.get_by_label("API key")).to_have_value("")
    expect(page.get_by_label("API key")).to_be_focused()


@pytest.mark.parametrize("end", ["forgotten", "revoked"])
def test_nothing_is_left_on_the_page_without_the_key(
    service: Service, client: httpx.Client, page: Page, operator: str, end: str
) -> None:
    hold(client, operator, account="anna")
    enter(page, operator)
    account(page, "anna").get_by_role("button", name="Hold anna").click()
    if end == "revoked":
        KeyStore(KeySettings(path=service.folder / "keys.json")).revoke(operator.split("_")[1], time.time())
    else:
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Forget the key").click()
    expect(page.get_by_label("API key")).to_be_focused()
    expect(page.get_by_role("alert")).to_contain_text("revoked" if end == "revoked" else re.compile("^$"))
    assert "anna" not in page.content()
