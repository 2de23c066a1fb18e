"""What is wrong with the HTML of a site: links that lead nowhere, and what a browser would load from elsewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
LOADED |= {"embed": "src", "object": "data", "link": "href"}
IN_STYLES = re.compile(r"(?:url\(\s*['\"]?|@import\s+['\"])((?:https?:)?//[^'\")\s]+)")


class _Page(HTMLParser):
    """The links, the loaded files and the anchors of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set(IN_STYLES.findall(text))
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.anchors |= {attributes[name] for name in ("id", "name") if name in attributes}
        if tag == "a" and "href" in attributes:
            self.links.add(attributes["href"])
        if tag in LOADED and (address := attributes.get(LOADED[tag])) and attributes.get("rel") != "canonical":
            self.loaded.add(address)
        self.loaded |= {part.split()[0] for part in attributes.get("srcset", "").split(",") if part.strip()}


def problems(site: Path) -> list[str]:
    """One sentence for each problem of the site in this folder."""
    files = [file for file in sorted(site.rglob("*.html")) if file.parent.name != "_static"]  # templates of the theme
    pages = {file: _Page(file.read_text(encoding="utf-8")) for file in files}
    sentences = []
    for file, page in pages.items():
        name = file.relative_to(site)
        for address in sorted(page.links | page.loaded):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in page.loaded and parts.scheme != "data":
                    sentences.append(f"{name} loads {address} from elsewhere")
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not target.is_file():
                sentences.append(f"{name} links to {address}, which does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                sentences.append(f"{name} links to {address}, which is no place of that page")
    for file in sorted(site.rglob("*.css")):
        for address in IN_STYLES.findall(file.read_text(encoding="utf-8")):
            sentences.append(f"{file.relative_to(site)} loads {address} from elsewhere")
    return sentences
