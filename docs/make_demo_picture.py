"""Makes docs/demo.png, the page of `uniformer demo` as a browser shows it: python docs/make_demo_picture.py

Needs Debian's chromium and chromium-driver, and selenium.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, LAST = 1160, "#cards"  # pixels; nothing below this part is shown
FLAGS = "headless no-sandbox disable-gpu disable-dev-shm-usage hide-scrollbars force-device-scale-factor=1"


def picture(page: Path) -> Image.Image:
    """The page from its top to the end of `LAST`."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    program, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (program and driver):  # selenium would look for them on the network
        sys.exit("expected a browser: apt-get install chromium chromium-driver")
    options.binary_location = program
    for flag in FLAGS.split():
        options.add_argument(f"--{flag}")
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        browser.set_window_size(WIDTH, 1000)
        browser.get(page.as_uri())
        end = browser.execute_script(f"return document.querySelector('{LAST}').getBoundingClientRect().bottom + 14")
        browser.set_window_size(WIDTH, int(end) + 200)
        whole = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    return whole.crop((0, 0, WIDTH, int(end)))


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("demo.png")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "demo.html"
        subprocess.run([sys.executable, "-m", "uniformer.cli", "demo", "--no-amounts", "--out", str(page)], check=True)
        picture(page).quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)
