#!/bin/sh
# Lends this device to a linguabus fleet: installs what a node needs, joins, and starts a node. In Termux the node stays; on
# other Linux (a Raspberry Pi, a laptop, a Debian inside Termux) it runs until its window is closed.
#
#   sh join.sh INVITATION    what `linguabus invite NAME --phone` prints pipes this file here. Again after an
#                            interruption: what is done already is left alone.
#   sh join.sh --uninstall   stops the node, and removes all that this has put here but the system's packages.
set -eu

# The orchestrator that gives this file out fills these in.
WHEEL=''
WHEEL_SHA256=''

SERVICE=linguabus-node
PACKAGES='python python-pip python-numpy python-onnxruntime python-psutil termux-services termux-api'
# Commands of Termux's apps wait for ever where the app is missing.
PATIENCE_S=${LINGUABUS_PATIENCE_S:-15}

say() { printf '==> %s\n' "$*"; }
fail() {
    printf 'linguabus: %s\n' "$*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# Where nobody reads it yet, then in its place: whole, or not at all.
put() { # put FILE MODE, the text on stdin
    mkdir -p "$(dirname "$1")"
    cat >"$1.new"
    chmod "$2" "$1.new"
    mv -f "$1.new" "$1"
}

check_device() {
    data=$HOME/.local/share/linguabus
    umask 077
    case ${PREFIX-} in
    */com.termux/files/usr)
        in_termux=yes
        services=$PREFIX/var/service
        boot=$HOME/.termux/boot/$SERVICE
        ;;
    *)
        in_termux=
        [ "$(uname -s)" = Linux ] || fail "this is neither Termux nor Linux: pip install 'linguabus[edge]', then 'linguabus join INVITATION'"
        [ ! -e "$data/fleet" ] || fail "this machine is the host of a fleet: for a node of its own, 'linguabus join INVITATION'"
        environment=$data/environment
        PATH=$environment/bin:$PATH
        ;;
    esac
}

check_invitation() {
    case $1 in
    linguabus://*@*:*/node/*) ;;
    linguabus://*) fail 'that invitation is not for a node: linguabus invite NAME --phone' ;;
    *) fail 'paste the whole line that linguabus invite NAME --phone has printed' ;;
    esac
    hosts=${1#linguabus://*@}
    hosts=${hosts%%/*}
    port=${hosts##*:}
    hosts=${hosts%:*}
}

packages_are_there() {
    have python && have pip && have sv-enable && python -c 'import numpy, onnxruntime, psutil' >/dev/null 2>&1
}

install_packages() {
    packages_are_there && return
    say "packages of Termux: $PACKAGES"
    # Of a fresh Termux the libraries may be older than those that new packages were linked with.
    have python || DEBIAN_FRONTEND=noninteractive pkg upgrade -y -o Dpkg::Options::=--force-confold </dev/null ||
        fail "pkg upgrade failed: run it by hand ('termux-change-repo' chooses another mirror), then paste the line again"
    # shellcheck disable=SC2086  # a list
    DEBIAN_FRONTEND=noninteractive pkg install -y $PACKAGES </dev/null ||
        fail "pkg install failed: run 'pkg install $PACKAGES' by hand, then paste the line again"
    packages_are_there || fail "Python can't import numpy, onnxruntime and psutil: run 'pkg upgrade', then paste the line again"
}

# Of Debian's own Python nothing is changed: pip is told to leave it alone.
make_environment() {
    "$environment/bin/pip" --version >/dev/null 2>&1 && return
    python3 -c 'import ensurepip' >/dev/null 2>&1 || install_venv
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$(python3 --version) is too old: linguabus needs Python 3.11 or newer"
    say "an environment of its own: $environment"
    rm -f "$data/wheel.sha256"
    python3 -m venv --clear "$environment" || fail "python3 could not make $environment: see above"
}

install_venv() {
    say 'package of Debian: python3-venv'
    as_root=
    [ "$(id -u)" = 0 ] || as_root='sudo -n'
    apt="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0"
    # The lists of packages may be missing, or older than the packages.
    { $apt update && $apt install -y --no-install-recommends python3-venv; } </dev/null >/dev/null ||
        fail "Python with its venv module is missing: run 'sudo apt install python3-venv', then paste the line again"
}

fetch() { # fetch PATH FILE: from the first of the fleet's addresses that answers
    rest=$hosts,
    while [ -n "$rest" ]; do
        host=${rest%%,*}
        rest=${rest#*,}
        # Whoever answers: what comes is compared with a hash before it is used.
        curl -fsSk --connect-timeout "$PATIENCE_S" -o "$2" "https://$host:$port/$1" </dev/null && return
    done
    fail "the fleet's host gives no $1: is 'linguabus serve' running there, and this device in the same network?"
}

pip_install() { pip install --quiet --disable-pip-version-check --no-input "$@" </dev/null; }

install_linguabus() {
    mkdir -p "$data"
    if have linguabus && [ "$(cat "$data/wheel.sha256" 2>/dev/null)" = "$WHEEL_SHA256" ]; then
        return
    fi
    [ -n "$WHEEL" ] || fail 'this file comes from an orchestrator, whose linguabus it then installs'
    say "linguabus: $WHEEL"
    fetch "$WHEEL" "$data/$WHEEL"
    printf '%s  %s\n' "$WHEEL_SHA256" "$data/$WHEEL" | sha256sum -c - >/dev/null 2>&1 ||
        fail "$WHEEL is not what the fleet's host has announced: do not trust this network"
    set -- "$data/$WHEEL"
    # What Termux has as packages; with wheels alone, nothing is compiled.
    [ -n "$in_termux" ] || set -- --only-binary=:all: "$data/${WHEEL}[edge]" psutil
    # First what it needs; then itself, though the version may be the same.
    { pip_install "$@" && pip_install --force-reinstall --no-deps "$data/$WHEEL"; } ||
        fail "pip could not install $WHEEL: is there a way to the Internet? Then paste the line again"
    hash -r # another linguabus, further back in PATH, may be the one that this shell remembers
    rm -f "$data/$WHEEL"
    printf '%s\n' "$WHEEL_SHA256" | put "$data/wheel.sha256" 600
}

join_fleet() {
    printf '%s\n' "$1" | put "$data/invitation" 600
    # The line stays on no command line longer than this script runs.
    linguabus --home "$data" join --no-run "@$data/invitation" </dev/null || {
        rm -f "$data/invitation"
        fail 'this device has not joined: see above; a new invitation is a new line'
    }
    rm -f "$data/invitation"
}

start() {
    if linguabus --home "$data" service install --timeout "$PATIENCE_S" node -v </dev/null; then
        say "what is wrong, if something is: linguabus doctor; to remove all: sh $data/install.sh --uninstall"
        return
    fi
    run_here
}

run_here() {
    say "the node runs here, until this window is closed; to run it again: $(command -v linguabus) node"
    exec linguabus --home "$data" node </dev/null
}

keep_this_file() {
    # What was read from a pipe is gone; the one of the wheel, whose hash was compared, can remove all.
    python -c 'import importlib.resources as r; print(r.files("edge_node").joinpath("android/install.sh").read_text(), end="")' |
        put "$data/install.sh" 600
}

uninstall() {
    left="all is removed but the system's packages"
    if [ -n "$in_termux" ]; then
        say 'stopping the node'
        timeout 90 linguabus --home "$data" service remove node </dev/null || rm -rf "${services:?}/$SERVICE" "$boot"
    fi
    timeout 60 linguabus-node --home "$data/node" leave --yes </dev/null || left="$left; on the fleet's host: linguabus revoke NAME"
    if [ -n "$in_termux" ]; then
        ! have pip || pip uninstall --quiet --yes linguabus </dev/null || true
        timeout "$PATIENCE_S" termux-wake-unlock </dev/null >/dev/null 2>&1 || true
    fi
    rm -rf "$data"
    say "$left"
}

main() {
    check_device
    case ${1-} in
    --uninstall) uninstall ;;
    '') fail "usage: sh join.sh INVITATION | --uninstall" ;;
    *)
        check_invitation "$1"
        if [ -n "$in_termux" ]; then install_packages; else make_environment; fi
        install_linguabus
        join_fleet "$1"
        keep_this_file
        [ -n "$in_termux" ] || run_here
        start
        ;;
    esac
}

# Nothing above does anything: who gets half of this file runs nothing.
main "$@"
exit
