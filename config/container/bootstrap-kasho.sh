#!/usr/bin/env bash
# The bootstrap of the document: see "kasho bootstrap --help". WAIT_FOR_BOOTSTRAP=true goes
# through to STREAMING without asking.
exec kasho bootstrap "$@"
