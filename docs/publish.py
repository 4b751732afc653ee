"""Add the built site of a version to a folder with the sites of all versions.

``python docs/publish.py SITE FOLDER VERSION URL``: copies the site to ``FOLDER/VERSION``, lists all
versions in ``versions.json`` for the version selector, and leads from the first page to the newest
release. The workflow ``docs.yml`` runs it for each tag.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

REDIRECT = """<!doctype html>
<meta charset="utf-8">
<title>vis4d_jax_loss</title>
<meta http-equiv="refresh" content="0; url=./{version}/index.html">
<a href="./{version}/index.html">Documentation of version {version}</a>
"""


def publish(site: Path, folder: Path, version: str, url: str) -> None:
    """Add a site, or replace the one of the same version."""
    shutil.rmtree(folder / version, ignore_errors=True)
    shutil.copytree(
        site, folder / version, ignore=shutil.ignore_patterns(".doctrees", ".buildinfo")
    )
    names = [path.parent.name for path in folder.glob("*/index.html")]
    versions = sorted(names, key=_order, reverse=True)
    entries = [
        dict(version=name, url=f"{url}/{name}/", preferred=name == versions[0]) for name in versions
    ]
    (folder / "versions.json").write_text(json.dumps(entries, indent=1))
    (folder / "index.html").write_text(REDIRECT.format(version=versions[0]))
    (folder / ".nojekyll").touch()  # GitHub Pages would leave out folders such as _static


def _order(version: str) -> tuple[bool, list[int], str]:
    """Sort 0.10.0 after 0.9.0, and releases after release candidates, such as 1.0.0rc1."""
    numbers, rest = re.fullmatch(r"([\d.]*)(.*)", version).groups()
    return not rest, [int(number) for number in numbers.split(".") if number], rest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("site", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("version")
    parser.add_argument("url", help="address of the folder, without a slash at its end")
    options = parser.parse_args()
    publish(options.site, options.folder, options.version, options.url)


if __name__ == "__main__":
    main()
