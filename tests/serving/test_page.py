"""The chat page in a real browser, against a home that is really served."""

from __future__ import annotations

import json
import os
import re
import shutil

import httpx
import pytest

from ledger.roles import ROLES
from ledger.store import Ledger
from tests.ledger.builders import by_role, make_eval, make_trio
from tests.serving.builders import end_coordinator
from tests.trainers.builders import reward_labels
from trainers.curves import LossCurves

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need the Python package playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("the browser tests need Chromium or Chrome on the PATH", allow_module_level=True)

expect = sync_api.expect
pytestmark = [pytest.mark.ray, pytest.mark.slow]

MARKUP = '<b>bold</b><img src=x onerror="window.executed = 1"><script>window.executed = 2</script>\nsecond line'
WAIT = 60_000  # ms; the first answer of an engine that has just started takes longest


@pytest.fixture(scope="module")
def browser():
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def judged(served):
    """The served lineage with one generation more: rejected for its style, with scores and loss curves."""
    scores = (("recall", 0.97, 100), ("generalization", 0.9, 120), ("style_drift", 0.6, 10), ("agl_accuracy", 0.8, 50))
    end_coordinator()
    with Ledger.create(served.home) as ledger:
        number, head = ledger.next_gen_id(), ledger.head()
        parent = by_role(ledger.generation(head))
        changes = {
            "verdict": "rejected", "reason": "style drift 0.6 is not below 0.2", "eval_recall": 0.97,
            "eval_generalization": 0.9, "eval_style_drift": 0.6,
        }  # fmt: skip
        rows = make_trio(number, parent, base_sha=parent["logical"].base_sha, **changes)
        evals = [make_eval(role, name, value, n, number) for role in ROLES for name, value, n in scores]
        ledger.record_judgement(rows, evals, None, None)
    with LossCurves(served.home.run_dir(rows[0].run_id), ROLES, 0) as curves:
        for step in range(1, 30):
            curves.add(step, {role: 3 / step + i for i, role in enumerate(ROLES)})
    return number


@pytest.fixture
def page(browser, served):
    """A fresh visitor. Whatever a test does, nothing may leave the origin and no script may fail."""
    context = browser.new_context(base_url=served.url, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(WAIT)
    page = context.new_page()
    foreign, faults = [], []
    page.on("request", lambda request: request.url.startswith(served.url) or foreign.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    page.goto("/")
    yield page
    assert page.evaluate("window.executed") is None, "markup was executed"
    context.close()
    assert foreign == []
    # The browser reports every answer of 400 and above; the page shows those in its own words.
    assert [fault for fault in faults if not fault.startswith("Failed to load resource")] == []


def ask(page, message, voice=None, answers=1):
    """Send a message; returns the answers when they are stored."""
    if voice is not None:
        page.get_by_role("radio", name=voice, exact=True).check()
    page.get_by_label("Your message").fill(message)
    page.get_by_label("Your message").press("Enter")
    exchange = page.locator(".exchange").last
    expect(exchange.locator(".label")).to_have_count(answers, timeout=WAIT)
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    return exchange.locator("article")


def conversation(page):
    return page.url.partition("#c/")[2]


def stored(served, page):
    answer = httpx.get(f"{served.url}/conversations/{conversation(page)}", timeout=30)
    answer.raise_for_status()
    return answer.json()


def test_an_answer_streams_in_and_is_stored(page, served):
    with page.expect_response("**/generate") as response:
        answer = ask(page, "Hello.\nIs anybody there?")
    assert response.value.headers["content-type"].startswith("text/event-stream")
    [turn] = stored(served, page)
    assert (turn["role"], turn["message"]) == ("dialectical", "Hello.\nIs anybody there?")
    expect(answer.locator("h3")).to_have_text("Dialectical voice")
    expect(answer).to_contain_text(f"G{turn['generation']}")
    assert answer.locator(".text").text_content() == (turn["answer"] if turn["answer"].strip() else "An empty answer.")
    expect(page.locator("#announcer")).to_contain_text("Dialectical voice:")
    expect(page.locator("#conversations a[aria-current=page]")).to_contain_text("Hello.")


def test_any_voice_can_be_asked_in_one_conversation_and_the_choice_is_remembered(page, served):
    for voice in ("Creative", "Base"):
        ask(page, f"Dear {voice}.", voice)
    assert [(turn["role"], turn["message"]) for turn in stored(served, page)] == [
        ("creative", "Dear Creative."),
        ("base", "Dear Base."),
    ]
    page.reload()
    expect(page.get_by_role("radio", name="Base", exact=True)).to_be_checked()
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".exchange")).to_have_count(0)
    expect(page.locator("#log")).to_contain_text("Nothing said yet.")


def test_all_three_voices_are_shown_each_under_its_part(page, served):
    answers = ask(page, "What is a question?", "All three", answers=3)
    assert answers.locator("h3").all_text_contents() == ["Thesis", "Antithesis", "Synthesis"]
    turns = stored(served, page)
    assert [turn["role"] for turn in turns] == ["creative", "logical", "dialectical"]
    page.reload()
    expect(page.locator(".exchange")).to_have_count(1)
    expect(page.locator("article h3")).to_have_text(["Thesis", "Antithesis", "Synthesis"])


def test_a_label_and_a_correction_are_saved_at_once_and_shown_after_a_reload(page, served):
    answer = ask(page, "Label me.")
    answer.get_by_role("radio", name="+1, good").check()
    expect(answer.get_by_role("status")).to_have_text("Saved")
    answer.get_by_text("More labels and correction").click()
    answer.get_by_role("group", name=re.compile("^Arousal")).get_by_role("radio", name="high").check()
    answer.get_by_role("group", name=re.compile("^Social broadcast")).get_by_role("radio", name="low").check()
    answer.get_by_label("What it should have said").fill("Hello,\nyou.")
    with page.expect_response(lambda reply: "Hello" in (reply.request.post_data or "")) as saved:
        answer.get_by_role("button", name="Save correction").click()
    assert saved.value.status == 200
    expect(answer.get_by_role("status")).to_have_text("Saved")

    label = stored(served, page)[0]["label"]
    assert {name: value for name, value in label.items() if name != "at" and value is not None} == {
        "valence": 1,
        "arousal": "high",
        "broadcast": "low",
        "correction": "Hello,\nyou.",
    }
    page.reload()
    answer = page.locator("article")
    expect(answer.get_by_role("radio", name="+1, good")).to_be_checked()
    expect(answer.locator(".label summary")).to_contain_text("arousal high, social broadcast low, corrected")
    answer.locator(".label summary").click()
    expect(answer.get_by_role("group", name=re.compile("^Arousal")).get_by_role("radio", name="high")).to_be_checked()
    expect(answer.get_by_label("What it should have said")).to_have_value("Hello,\nyou.")


def test_a_label_in_a_second_tab_keeps_the_correction_of_the_first(page, served):
    ask(page, "Label me twice.")
    second = page.context.new_page()
    second.goto(page.url)
    other = second.locator("article")
    expect(other.locator(".label")).to_be_visible()
    answer = page.locator("article")
    answer.get_by_text("More labels and correction").click()
    answer.get_by_label("What it should have said").fill("Hello.")
    answer.get_by_role("button", name="Save correction").click()
    expect(answer.get_by_role("status")).to_have_text("Saved")
    other.get_by_role("radio", name="+1, good").check()
    expect(other.get_by_role("status")).to_have_text("Saved")
    expect(other.locator(".label summary")).to_contain_text("corrected")
    label = stored(served, page)[0]["label"]
    assert (label["correction"], label["valence"]) == ("Hello.", 1)


def test_an_answers_reward_is_shown_once_it_is_scored(page, served):
    for number in range(5):  # random weights may give an empty answer, which nobody scores
        answer = ask(page, f"How are you, {number}?").last
        if stored(served, page)[-1]["answer"].strip():
            break
    reward = answer.locator(".reward")
    expect(reward.locator("summary")).to_have_text(re.compile(r"Reward [+-]?\d\.\d\d, karma [+-]?\d\.\d\d"))
    reward.locator("summary").click()
    rows = reward.get_by_role("row")
    expect(rows).to_have_count(9)
    score = stored(served, page)[-1]["score"]
    shown = rows.filter(has_text="Empathy").get_by_role("cell").first
    assert float(shown.text_content()) == pytest.approx(score["empathy"], abs=0.0051)
    page.reload()
    expect(page.locator("article .reward").last).to_be_visible()


def test_markup_is_shown_as_text_and_never_executed(page, served):
    def say_markup(route):
        """The stored answer's text replaced; everything else is what the server sent."""
        events = route.fetch()
        text = re.sub(r'"answer": ?"(?:[^"\\]|\\.)*"', lambda _: f'"answer": {json.dumps(MARKUP)}', events.text())
        route.fulfill(response=events, body=text)

    page.route("**/generate", say_markup)
    answer = ask(page, MARKUP)
    page.unroute("**/generate")
    assert page.locator(".said .text").text_content() == MARKUP
    assert answer.locator(".text").text_content() == MARKUP
    answer.locator(".label summary").click()
    answer.get_by_label("What it should have said").fill(MARKUP)
    answer.get_by_role("button", name="Save correction").click()
    expect(answer.get_by_role("status")).to_have_text("Saved")

    page.reload()
    expect(page.locator(".said .text")).to_have_text(MARKUP, use_inner_text=True)
    assert page.locator(".said .text").text_content() == MARKUP
    expect(page.get_by_label("What it should have said")).to_have_value(MARKUP)
    assert page.locator("main img, main script, main b, nav img, nav script, nav b").count() == 0
    assert page.evaluate("window.executed") is None


def test_the_keyboard_alone_is_enough(page, served):
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    for _ in range(3):  # the conversation, the voices, the message
        page.keyboard.press("Tab")
    expect(page.get_by_label("Your message")).to_be_focused()
    page.keyboard.type("First line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second line")
    page.keyboard.press("Enter")
    expect(page.locator("article .label")).to_be_visible()
    assert page.locator(".said .text").text_content() == "First line\nsecond line"

    expect(page.get_by_label("Your message")).to_be_focused()
    for _ in range(8):  # back to the label of the answer
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.name?.startsWith('valence')"):
            break
    page.keyboard.press("Space")
    chosen = page.locator("article .label > fieldset input:checked")
    expect(chosen).to_be_focused()
    expect(page.locator("article").get_by_role("status")).to_have_text("Saved")
    assert stored(served, page)[0]["label"]["valence"] == int(chosen.get_attribute("value"))


def test_the_lineage_shows_every_generation_with_its_gates(page, served, judged):
    lineage = httpx.get(f"{served.url}/lineage", timeout=30).json()
    page.get_by_role("link", name="Lineage", exact=True).click()
    nodes = page.locator("#tree a")
    expect(nodes).to_have_count(len(lineage["generations"]))
    for generation in lineage["generations"]:
        number = generation["generation"]
        node = page.locator(f'#tree a[href="#lineage/{number}"]')
        expect(node).to_contain_text(generation["verdict"])
        node.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#generation h2")).to_contain_text(f"G{number}: {generation['verdict']}")
        expect(node).to_be_focused()
        rows = page.locator(".evals tbody")
        expect(rows).to_have_count(len(generation["roles"]))
        for role in generation["roles"]:
            part = rows.filter(has=page.locator("th", has_text=re.compile(f"^{role['role']}")))
            for score in role["evals"]:
                name = score["eval"].replace("_", " ")
                row = part.locator("tr", has=page.get_by_role("rowheader", name=name, exact=True))
                expect(row).to_contain_text(f"{score['value']:.3f}")
                said = {None: "not judged", True: "passed", False: "failed"}[score["passed"]]
                expect(row.locator(".result")).to_have_text(said)
        if number != judged:
            expect(page.locator(".curves")).to_contain_text(f"The curves of G{number} are gone")
    expect(page.locator("#tree a", has_text="head")).to_have_count(1)


def test_reward_vectors_are_drawn_by_category(page, served):
    labels = served.home.data_dir / "teacher" / "page" / "labels.jsonl"
    labels.parent.mkdir(parents=True)
    labels.write_text("\n".join(label.model_dump_json() for label in reward_labels(prompts=4)), encoding="utf-8")
    plotted = httpx.get(f"{served.url}/lineage/rewards", timeout=30).json()
    assert len(plotted["points"]) == 12
    page.goto("/#lineage")
    expect(page.locator(".reward-plot .point")).to_have_count(12)
    expect(page.locator(".plot-key li")).to_have_text(["agency"])
    expect(page.locator(".reward-plot figcaption")).to_contain_text("12 judgements by category")


def test_the_lineage_draws_loss_curves_and_says_them_in_words(page, judged):
    page.goto(f"/#lineage/{judged}")
    expect(page.locator("#generation h2")).to_have_text(f"G{judged}: rejected")
    expect(page.locator(".evals tr.failed")).to_have_count(3)
    chart = page.get_by_role("img", name="Loss over steps")
    expect(chart.locator("polyline")).to_have_count(3)
    expect(chart).to_have_accessible_name(re.compile("logical from 4.000 at step 1 to 1.103 at step 29"))
    page.get_by_text("The same as a table").click()
    expect(page.get_by_role("row", name="29 0.1034 1.1034 2.1034")).to_be_visible()


def test_the_header_says_what_the_server_says(page, served):
    lineage = httpx.get(f"{served.url}/lineage", timeout=30).json()
    expect(page.locator("#answering")).to_have_text(f"G{lineage['served']['current']} answers")
    expect(page.locator("#age")).to_contain_text(lineage["age"]["name"])
    expect(page.locator("#karma")).to_contain_text(f"of {lineage['karma']['threshold']}")
    assert page.locator("#karma-bar").evaluate("bar => bar.value") == pytest.approx(lineage["karma"]["progress"])
    expect(page.locator("#connection")).to_have_text("connected")


def test_the_dark_theme_is_remembered(page):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Dark").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate(ground) == dark
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(ground) == light


def test_on_a_phone_nothing_scrolls_sideways(page):
    page.set_viewport_size({"width": 360, "height": 740})
    ask(page, "a" * 300, "All three", answers=3)
    page.locator("summary").last.click()
    wide = "document.documentElement.scrollWidth > innerWidth || document.body.scrollWidth > innerWidth"
    log = "document.getElementById('log').scrollWidth > document.getElementById('log').clientWidth"
    assert not page.evaluate(wide)
    assert not page.evaluate(log)
    page.get_by_role("link", name="Lineage", exact=True).click()
    expect(page.locator("#generation h2")).to_be_visible()
    assert not page.evaluate(wide)
    page.get_by_role("button", name="Earlier").click()
    page.locator("#conversations a").first.click()
    expect(page.locator("article")).to_have_count(3)
    assert not page.evaluate(wide)


def endless(served):
    """A voice and a question whose greedy answer goes on; random weights may end one at any word."""
    for number in range(20):
        for role in ROLES:
            body = {"message": f"Talk until I stop you, {number}.", "role": role, "max_tokens": 500, "temperature": 0}
            turn = httpx.post(f"{served.url}/generate", json=body, timeout=60).json()
            begins = turn["answer"][:8]  # bytes that make no letter yet are held back; letters are seen at once
            if turn["finish_reason"] == "length" and begins.strip() and begins.isascii():
                return role, body["message"]
    raise AssertionError("no answer is long enough")


STOP_AT_THE_FIRST_WORD = """
    new MutationObserver((_, watch) => {
        if (!document.querySelector("article .text")?.textContent) return;
        watch.disconnect();
        document.getElementById("stop").click();
    }).observe(document.body, { childList: true, subtree: true, characterData: true })
"""
"""In the page itself: a tiny model has said it all before the test could see the first word and press the button."""


TRIES = 12
"""On a busy machine the tiny model may have said it all before the browser reads the first word."""


def stopped_in_time(page, message):
    """Ask and stop at the first word; False if the whole answer was there by then."""
    page.get_by_label("Your message").fill(message)
    page.evaluate(STOP_AT_THE_FIRST_WORD)
    page.get_by_label("Your message").press("Enter")
    expect(page.locator("article .label")).to_be_visible(timeout=WAIT)
    return "Stopped." in page.locator(".exchange").text_content()


def test_stop_ends_the_answer_and_the_conversation_goes_on_from_there(page, served):
    role, message = endless(served)

    def ask_for_more(route):
        """The page's own request, but for an answer long enough to be stopped."""
        long = {"role": role, "max_tokens": 500, "temperature": 0}
        route.continue_(post_data=json.dumps(route.request.post_data_json | long))

    page.route("**/generate", ask_for_more)
    for _ in range(TRIES):
        if stopped_in_time(page, message) and stored(served, page)[0]["finish_reason"] == "aborted":
            break
        page.goto("about:blank")
        page.goto("/")
    expect(page.locator("article[aria-busy]")).to_have_count(0)
    expect(page.get_by_label("Your message")).to_be_focused()
    page.unroute("**/generate")
    ask(page, "And go on.", "Logical")
    first, second = stored(served, page)
    assert first["finish_reason"] == "aborted"
    assert first["answer_tokens"] < 500
    assert second["message"] == "And go on."


def test_a_talk_of_sixty_exchanges_goes_on_and_says_what_is_no_longer_read(page, served):
    for number in range(60):
        ask(page, f"Question {number}: what comes after everything that was said before it?", "Logical")
        expect(page.get_by_role("alert")).to_have_count(0)
    turns = stored(served, page)
    assert [turn["message"].partition(":")[0] for turn in turns] == [f"Question {number}" for number in range(60)]
    told = page.locator(".exchange").last.locator(".unread").text_content()
    dropped = int(re.search(r"The (\d+) oldest exchanges are no longer read", told)[1])
    assert 30 < dropped < 59
    expect(page.locator(".exchange").first.locator(".unread")).to_have_count(0)
    body = {"message": "And then?", "role": "logical", "conversation": conversation(page), "max_tokens": 2}
    answer = httpx.post(f"{served.url}/generate", json=body, timeout=60)
    assert int(answer.headers["x-luna-context-dropped"]) in (dropped, dropped + 1, dropped + 2)


def test_an_error_is_shown_in_the_servers_words_and_can_be_retried(page, served):
    message = "word " * 8000
    refused = httpx.post(f"{served.url}/generate", json={"message": message.strip()}, timeout=60)
    assert refused.status_code >= 400
    page.get_by_label("Your message").fill(message)
    page.get_by_label("Your message").press("Enter")
    expect(page.get_by_role("alert")).to_contain_text(refused.json()["error"]["message"])
    expect(page.locator(".exchange")).to_have_count(1)
    with page.expect_request("**/generate"):
        page.get_by_role("button", name="Retry").click()
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator(".exchange")).to_have_count(1)
    ask(page, "Short.")


def test_a_conversation_that_does_not_exist_is_said_to_be_missing(page):
    page.goto("/#c/nothing-here")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.locator("article")).to_have_count(0)


def test_both_views_load_whole_from_their_own_origin(page, served):
    """The content policy of the server is in force, and nothing breaks it (a breach is an error on the console)."""
    errors, answers = [], {}
    page.on("console", lambda message: errors.append(message.text) if message.type in ("error", "warning") else None)
    page.on("response", lambda answer: answers.update({answer.url.removeprefix(served.url): answer.status}))
    policy = page.goto("/").headers["content-security-policy"]
    assert re.search("(default|script)-src .self.(;|$)", policy)
    assert "unsafe" not in policy
    ask(page, "Hello.")
    page.get_by_role("link", name="Lineage", exact=True).click()
    expect(page.locator(".curves > *").first).to_be_visible()
    page.wait_for_load_state("networkidle")
    failed = {path: status for path, status in answers.items() if status >= 400}
    assert all(re.fullmatch(r"/lineage/\d+/loss", path) and status == 404 for path, status in failed.items()), failed
    assert len(errors) == len(failed), errors
