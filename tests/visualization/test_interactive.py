"""Interactive pages: names of files and classes are shown as text and never executed."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

BROWSER = next(filter(shutil.which, ["chromium", "chromium-browser", "google-chrome"]), None)
SCRIPT = "document.documentElement.setAttribute('owned', '')"
HOSTILE = [
    f"<img src=x onerror=\"{SCRIPT}\">",
    f"</script><script>{SCRIPT}</script>",
    f"</title><script>{SCRIPT}</script>",
    f"<a href=\"javascript:{SCRIPT}\">a</a>",
    f"';{SCRIPT};//",
    f"\";{SCRIPT};//",
    "<!--<script>",
    "\udcff\0\u2028",
]  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """Writes a page that shows names in all its places, one figure per name."""
    pytest.importorskip("plotly", reason="the extra `viz` is missing")
    from ccnn_geo.visualization.interactive import cloud_figure, write_page

    def write(*names: str) -> Path:
        figures = [
            cloud_figure(np.eye(3), np.arange(3.0), title=f"{name}\nsecond line", unit="m")
            for name in names
        ]
        write_page(tmp_path / "page.html", figures, title=" ".join(names), text="Words.")
        return tmp_path / "page.html"

    return write


class _Elements(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_adds_no_element(write, name):
    expected = _Elements(write("harmless").read_text()).tags
    assert _Elements(write(name).read_text()).tags == expected


@pytest.mark.skipif(BROWSER is None, reason="no browser (chromium, google-chrome)")
def test_hostile_names_are_not_executed_by_a_browser(write, tmp_path):
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
            "--dump-dom", write(*HOSTILE).as_uri(),
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    root = done.stdout[: done.stdout.index("<head>")]
    assert "owned" not in root
    # The figures were drawn, so the scripts of the page did run.
    assert done.stdout.count('class="gtitle"') == len(HOSTILE)


def test_a_title_is_plain_text():
    pytest.importorskip("plotly", reason="the extra `viz` is missing")
    from ccnn_geo.visualization.interactive import cloud_figure

    figure = cloud_figure(np.eye(3), np.arange(3.0), title="<b>a</b>\x1b\n& b", unit="m")
    assert figure.layout.title.text == "&lt;b&gt;a&lt;/b&gt;\\x1b<br>&amp; b"


def test_a_page_that_does_not_fit_on_the_disk_leaves_the_one_before(write, small_files):
    page = write("harmless")
    before = page.read_bytes()
    with small_files, pytest.raises(OSError, match="cannot write") as raised:
        write("another")
    assert raised.value.filename == str(page)
    assert page.read_bytes() == before
    assert list(page.parent.iterdir()) == [page]
