"""A browser that tests steer, and the page that it looks at."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


def find_browser() -> str | None:
    """Path of an installed Chromium."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def open_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def serve_page(words: list[str | Path], folder: Path, **environment: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Run `python WORDS ...`, which serves a page, and give its address and process; a port is added to the words."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder / "page.log").open("w+")
    variables = {**environment, "GRADIO_SERVER_PORT": str(port), "TMPDIR": str(folder)}
    process = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, env=variables, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, process, log.name)
        yield address, process
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


def _wait_for(address: str, process: subprocess.Popen, log: str) -> None:
    for _ in range(600):
        assert process.poll() is None, Path(log).read_text()
        try:
            urlopen(address, timeout=5).close()  # noqa: S310 (our own address)
            return
        except (URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"no page at {address}: {Path(log).read_text()}")
