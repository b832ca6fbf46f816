"""Hooks of mkdocs: the decisions' pages, and links to files outside docs, which lead to GitHub.

test/docs checks that the files exist.
"""
import os
import re

LINK = re.compile(r"(\]\()(\.\./[^)#\s]*)")


def on_config(config):
    """Puts all pages of docs/adr into the part of the navigation that names the folder."""
    pages = sorted(name for name in os.listdir("docs/adr") if name.endswith(".md"))
    for part in config.nav:
        for entry in part.get("Contributors", []):
            if entry.get("Decisions") == "adr/":
                entry["Decisions"] = [f"adr/{name}" for name in pages]
    return config


def on_page_markdown(markdown, page, config, files):
    folder = os.path.dirname(page.file.src_uri)

    def outside(match):
        path = os.path.normpath(os.path.join("docs", folder, match[2]))
        if path.startswith("docs/"):
            return match[0]
        return f"{match[1]}{config.repo_url}/blob/main/{path}"

    return LINK.sub(outside, markdown)
