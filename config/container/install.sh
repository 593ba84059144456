#!/usr/bin/env bash
# Installs Kasho from a built binary and this repository's configuration: the image and a
# bare machine are made by the same lines.
#
#   config/container/install.sh BINARY [PLUGIN.wasm…]
#
# DESTDIR  a folder to install into, instead of the root (packages, tests)
# PREFIX   where programs go (/usr/local)
# APP      where the bootstrap script goes, beside the programs' names in the document
#          ($PREFIX/share/kasho; /app in the image)
#
# May be run again: programs are replaced, a configuration that is there stays as it is and
# the new one is put beside it as kasho.toml.new.
set -euo pipefail

[ $# -ge 1 ] && [ -x "$1" ] || {
  echo "usage: install.sh BINARY [PLUGIN.wasm…]; BINARY is made by: cargo build --release --bin kasho" >&2
  exit 2
}
binary=$1
shift
here=$(cd "$(dirname "$0")" && pwd)
config=$(dirname "$here")
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr/local}
APP=${APP:-$PREFIX/share/kasho}
etc=$DESTDIR/etc/kasho
state=$DESTDIR/var/lib/kasho

# One program; the other names are the ones of the document.
install -D -m 0755 "$binary" "$DESTDIR$PREFIX/bin/kasho"
for name in pg-change-stream pg-bootstrap-sync pg-translicator; do
  ln -sfn kasho "$DESTDIR$PREFIX/bin/$name"
done
install -D -m 0755 "$here/bootstrap-kasho.sh" "$DESTDIR$APP/bootstrap-kasho.sh"
for script in setup.sql ddl.sql; do
  install -D -m 0644 "$config/sql/$script" "$DESTDIR$PREFIX/share/kasho/$script"
done

install -d -m 0755 "$etc" "$etc/plugins"
# Below /etc nothing is written while the service runs: what it keeps goes to its state.
sed 's|^#store = "store"|store = "/var/lib/kasho/store"|' "$config/kasho.toml" >"$etc/kasho.toml.new"
chmod 0640 "$etc/kasho.toml.new"
if [ ! -e "$etc/kasho.toml" ] || cmp -s "$etc/kasho.toml" "$etc/kasho.toml.new"; then
  mv "$etc/kasho.toml.new" "$etc/kasho.toml"
else
  echo "kept $etc/kasho.toml; the new one is beside it as kasho.toml.new"
fi
for plugin in "$@"; do
  install -m 0644 "$plugin" "$etc/plugins/"
done

unit=$DESTDIR$PREFIX/lib/systemd/system/kasho.service
install -d -m 0755 "${unit%/*}"
sed "s|/usr/local/bin/|$PREFIX/bin/|" "$config/kasho.service" >"$unit"
chmod 0644 "$unit"

install -d -m 0700 "$state"
if [ -z "$DESTDIR" ] && [ "$(id -u)" = 0 ]; then
  id -u kasho >/dev/null 2>&1 ||
    useradd --system --home-dir /var/lib/kasho --no-create-home --shell /usr/sbin/nologin kasho
  chown kasho: "$state"
  chgrp kasho "$etc/kasho.toml" "$etc/kasho.toml.new" 2>/dev/null || true
fi
echo "installed $DESTDIR$PREFIX/bin/kasho"
