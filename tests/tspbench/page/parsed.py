"""The tables of a page and of Markdown as lists of texts."""

from html.parser import HTMLParser


class Tables(HTMLParser):
    """Collects every table of a page: caption → rows of texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, list[list[str]]]] = []
        self._text: list[str] | None = None
        self._quiet = 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.found.append(("", []))
        elif tag == "tr":
            self.found[-1][1].append([])
        elif tag in ("td", "th", "caption"):
            self._text = []

    def handle_data(self, data):
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.found[-1][1][-1].append(" ".join("".join(self._text).split()))
        elif tag == "caption":
            self.found[-1] = ("".join(self._text), self.found[-1][1])
        if tag in ("td", "th", "caption"):
            self._text = None


def page_tables(page: str) -> list[tuple[str, list[list[str]]]]:
    return Tables(page).found


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a Markdown text, without their rules."""
    tables: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if not line.startswith("|"):
            tables.append([])
        elif not line.startswith("|---"):
            cells = line.replace("\\|", "\0")[2:-2].split(" | ")
            tables[-1].append([" ".join(cell.replace("\0", "|").split()) for cell in cells])
    return [table for table in tables if table]
