# shellcheck shell=bash
# What the scripts of deploy/local share: how they speak, and where their downloads live. To be sourced, after
# `program` has been set to the name that stands before every message.
#
# Messages go to stderr; stdout belongs to the result. Not here: anything that only one script needs.

say() { printf '%s: %s\n' "${program:?}" "$*" >&2; }

# Ends the script as failed.
fail() {
  say "$*"
  exit 1
}

# Ends the script as wrongly called.
wrong_usage() {
  say "$* (try --help)"
  exit 2
}

# Fails unless the command is there, naming the Debian package that brings it.
need() { command -v "$1" >/dev/null || fail "$1 is not installed${2:+ (Debian: apt-get install $2)}"; }

# Prints chatledger's cache directory for NAME. Works without HOME, as some runners of checks have it.
cache_dir() {
  local home cache
  home=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
  cache=${XDG_CACHE_HOME:-$home/.cache}
  [[ $cache == /* ]] || fail "no place for the cache: set HOME or XDG_CACHE_HOME to an absolute path"
  printf '%s/chatledger/%s\n' "$cache" "$1"
}

# Prints a short name for the content of a file: what is made from it carries that name.
digest_of() { sha256sum "$1" | cut -c1-12; }
