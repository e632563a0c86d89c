#!/usr/bin/env bash
# Makes the reference with doxygen, in build/docs/html/index.html: all that is public in include/, and the pages. What is
# not documented, and a link that leads nowhere, is an error. Installs doxygen where it is missing, as tools/setup.sh does.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools/setup.sh docs
html=build/docs/html
rm -rf build/docs
mkdir -p build/docs
LOCKSTEP_VERSION=$(sed -nE 's/^#define LOCKSTEP_VERSION_(MAJOR|MINOR|PATCH) ([0-9]+)$/\2/p' include/lockstep/core/version.h | paste -s -d .)
export LOCKSTEP_VERSION
doxygen docs/Doxyfile || { echo "docs.sh: doxygen found what stands above" >&2; exit 1; }
# Files that pages link to and that are no pages themselves.
while read -r file; do
  [[ -f $file ]] || { echo "docs.sh: a page has a link to $file, which is not there" >&2; exit 1; }
  install -D -m 644 "$file" "$html/files/$file"
done < <(grep -ohE 'href="files/[^"#]+' "$html"/*.html | sed 's#^href="files/##' | sort -u)
python3 tools/check_links.py "$html"/index.html "$html"/page_*.html
echo "docs.sh: $html/index.html"
