#!/bin/sh
# What `make deb` does: a copy of the tree in build/deb, a source and a binary package from it, and what lintian says to them.
# The sources are the files that git knows, as they are now, or all where there is no git.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^#define WSSD_VERSION "\(.*\)"/\1/p' ws.h)
epoch=$(git log -1 --format=%ct 2>/dev/null || date +%s)
out=build/deb
tree=$out/wssd-$version
rm -rf "$out"
mkdir -p "$out"

# The tarball is the same for everybody who has the same files.
if git rev-parse --git-dir >/dev/null 2>&1; then
	git ls-files -z
else
	find . -type f ! -path './build/*' ! -name '*.o' ! -path ./wssd ! -path ./wssd-selfsign -printf '%P\0'
fi | grep -zv '^dist/debian/' |
	tar -c --null -T - --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" \
		--mode=u+w,go=rX --transform "s:^:wssd-$version/:" | gzip -n9 >"$out/wssd_$version.orig.tar.gz"
tar -xf "$out/wssd_$version.orig.tar.gz" -C "$out"
cp -R dist/debian "$tree/debian"

(cd "$tree" && dpkg-buildpackage -us -uc)
rm -rf "$tree"
lintian --allow-root --info --fail-on error,warning "$out"/wssd_*.changes
ls "$out"/*.deb
