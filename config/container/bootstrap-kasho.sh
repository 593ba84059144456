#!/bin/sh
# Loads what is in the source database already, then lets its changes flow:
#
#   docker exec -it <pg-change-stream-container> ./bootstrap-kasho.sh
#   docker exec -it <pg-change-stream-container> env WAIT_FOR_BOOTSTRAP=true ./bootstrap-kasho.sh
#
#   1  a replication slot with a consistent snapshot
#   2  changes accumulate from there on
#   3  the tables are read at that snapshot: directly, or with --dump by way of a dump file
#   4  their rows go through the plugin chain to the bootstrap stream
#   5  clean up
#   6  to STREAMING: after a question, at once with WAIT_FOR_BOOTSTRAP=true; without a
#      terminal and without that, it says how to go on and leaves it at ACCUMULATING
#
# Whatever ends it, typed again it goes on where it was. Arguments are those of
# "kasho bootstrap": --dump, --compress, --jobs=4, --keep-dump, --yes, …
set -eu

command -v kasho >/dev/null || {
  echo "bootstrap-kasho.sh: there is no kasho on PATH; run this inside the pg-change-stream container" >&2
  exit 1
}
exec kasho bootstrap "$@"
