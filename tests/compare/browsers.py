"""Debian's chromium without a window and without a network; who imports this has looked for selenium."""

import os
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
MISSING = [name for name, found in (("chromium", BROWSER), ("chromedriver (chromium-driver)", DRIVER)) if not found]
needs_browser = pytest.mark.skipif(bool(MISSING), reason=f"not on this machine: {', '.join(MISSING)}")


def open_browser(profile):
    """Open a browser that keeps what it keeps in a folder of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("headless=new", "disable-dev-shm-usage", "disable-gpu", "no-proxy-server", "no-first-run"):
        options.add_argument(f"--{word}")
    options.add_argument(f"--user-data-dir={profile}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # chromium has none for root
    return webdriver.Chrome(options=options, service=Service(DRIVER))
