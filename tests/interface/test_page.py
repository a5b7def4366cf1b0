"""The page in a browser, and 50 requests at once: `limssr app` in a process of its own."""

import os
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

pytest.importorskip("gradio", reason="the extra `app` is not installed")

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError

from tests.helpers.browser import find_browser, open_browser, serve_page

pytestmark = pytest.mark.slow
SIZES = {"desk": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def page(model_folder, tmp_path_factory):
    """Address and process of the page."""
    folder = tmp_path_factory.mktemp("page")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with serve_page(["-m", "limssr", "app", model_folder], folder, **environment) as served:
        yield served
    assert not list(folder.glob("limssr-app-*"))  # what was uploaded is gone with the process


@pytest.fixture(scope="module")
def address(page) -> str:
    return page[0]


@pytest.fixture(scope="module")
def browser():
    if find_browser() is None:
        pytest.skip("no Chromium is installed")
    with open_browser() as browser:
        yield browser


@pytest.mark.parametrize("size", SIZES)
def test_upload_score_untick_look_and_download(size, browser, address, dive):
    width, height = SIZES[size]
    tab = browser.new_page(viewport={"width": width, "height": height})
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)

    def press(name: str) -> None:
        tab.get_by_role("button", name=name, exact=True).click()

    def wait_for_change(before: str) -> str:
        tab.wait_for_function("text => document.querySelector('#results .limssr').innerText !== text", arg=before)
        return tab.locator("#results .limssr").inner_text()

    press("Score")
    assert "There is nothing to score" in tab.locator(".toast-body").inner_text()
    tab.locator(".toast-close").click()

    tab.locator("input[type=file]").first.set_input_files(dive)
    # The cell comes once the upload is done; until then its progress shows the name, for a moment only.
    tab.get_by_role("cell", name="dive.mp4").wait_for()
    press("Score")
    whole = tab.locator("#results .limssr").inner_text()
    tab.get_by_label("audio", exact=True).focus()
    tab.keyboard.press("Space")
    silent = wait_for_change(whole)
    scores, widths = zip(*map(read_result, (whole, silent)), strict=True)
    assert scores[0] != scores[1]
    assert widths[1] > widths[0]
    tab.keyboard.press("Space")
    assert wait_for_change(silent) == whole

    clips = tab.get_by_role("toolbar", name="Clips of video").get_by_role("button")
    clips.nth(1).click()
    tab.wait_for_function("() => Math.abs(document.querySelector('#recording video').currentTime - 0.32) < 0.05")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Enter")
    tab.wait_for_function("() => Math.abs(document.querySelector('#recording video').currentTime - 0.64) < 0.05")
    with tab.expect_download() as download:
        press("Download report")
    assert download.value.suggested_filename == "dive.html"
    assert "<!doctype html>" in download.value.path().read_text()
    assert tab.evaluate("document.documentElement.scrollWidth") <= width  # nothing to scroll sideways
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    tab.close()


def read_result(text: str) -> tuple[float, float]:
    """Score and width of its interval."""
    words = text.replace(".\n", "\n").split()
    place = words.index("between")
    return float(words[0]), float(words[place + 3]) - float(words[place + 1])


def test_fifty_requests_at_once_are_answered_or_told_that_the_queue_is_full(page, dive):
    address, process = page
    clients = [Client(address, verbose=False) for _ in range(2)]
    uploaded = handle_file(dive)

    def ask(number: int) -> str:
        try:
            if number % 2:
                return clients[0].predict(0.9, "score", uploaded, 0, 0, None, None, "", api_name="/score")[2]
            return clients[1].predict(0.9, "score", "first", api_name="/score_example")[2]
        except (AppError, QueueError) as error:
            return str(error)

    ask(1)
    before = psutil.Process(process.pid).memory_info().rss
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(50)))
    answered = [answer for answer in answers if "headline" in answer]
    told = [answer for answer in answers if "Queue is full" in answer]
    assert len(answered) + len(told) == 50, set(answers) - set(answered) - set(told)
    assert len(answered) >= 20
    assert psutil.Process(process.pid).memory_info().rss - before < 200 * 2**20


def test_performances_of_one_session_do_not_reach_another(address, dive):
    mine, other = Client(address, verbose=False), Client(address, verbose=False)
    mine.predict(0.9, "score", handle_file(dive), 0, 0, None, None, "", api_name="/score")
    with pytest.raises(AppError, match="Nothing is scored yet"):
        other.predict(0.9, "score", [], api_name="/score_again")
