#!/bin/sh
# Installs what a Debian machine lacks; says nothing when all is there.
#   scripts/setup.sh         what `make demo` needs
#   scripts/setup.sh tests   also what `make test` needs
# Rust itself is not installed here: https://rustup.rs
set -eu
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"

packages="softhsm2 build-essential"
[ "${1:-demo}" = tests ] && packages="$packages opensc python3-venv gdb curl \
    systemd libssl-dev libclang-dev pkg-config"

missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing="$missing $package"
done
if [ -n "$missing" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "setup: this is no Debian; install the equivalents of:$missing" >&2
        exit 1
    fi
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo"
    echo "setup: installing$missing"
    apt="$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300"
    # shellcheck disable=SC2086
    $apt install -y --no-install-recommends $missing >/dev/null 2>&1 ||
        { $apt update >/dev/null && $apt install -y --no-install-recommends $missing >/dev/null; }
fi
[ "${1:-demo}" = tests ] || exit 0

# Other people's clients, pinned, and what PyKMIP's own tests need.
clients="pykmip==0.11.0 etsi-qkd-014-client==0.9.0 pytest==9.2.0 testtools==2.9.1"
venv="$target/venv"
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$clients" ]; then
    echo "setup: making $venv with $clients"
    mkdir -p "$target"
    python3 -m venv --clear "$venv"
    # shellcheck disable=SC2086
    "$venv/bin/pip" install -q --disable-pip-version-check $clients
    printf '%s\n' "$clients" >"$venv/installed"
fi

# PyKMIP's own integration tests are in its source distribution only. The hash is PyPI's.
pykmip="$target/pykmip-0.11.0"
if [ ! -d "$pykmip" ]; then
    echo "setup: unpacking PyKMIP's own tests into $pykmip"
    hash=eb42e2d9674e470935d98474b8502e675894cc8489362d8419fdd957319f2b3e
    printf 'pykmip==0.11.0 --hash=sha256:%s\n' "$hash" >"$target/pykmip.txt"
    "$venv/bin/pip" download -q --disable-pip-version-check --no-deps --no-binary :all: \
        --require-hashes -r "$target/pykmip.txt" -d "$target"
    tar -xzf "$pykmip.tar.gz" -C "$target"
fi

# Kryoptic, the second token of the conformance suite (about 100 s of one processor, once).
kryoptic="$target/tools/kryoptic"
[ -e "$kryoptic/release/libkryoptic_pkcs11.so" ] || echo "setup: building Kryoptic in $kryoptic"
"${CARGO:-cargo}" build -q --release --locked --manifest-path testkit/kryoptic/Cargo.toml \
    --target-dir "$kryoptic"

# promtool alone: the package would also start a Prometheus server.
if ! command -v promtool >/dev/null && [ ! -x "$target/tools/usr/bin/promtool" ]; then
    echo "setup: unpacking promtool into $target/tools"
    mkdir -p "$target/tools"
    (cd "$target/tools" && { apt-get -q download prometheus >/dev/null 2>&1 ||
        { sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"; $sudo apt-get -q update >/dev/null &&
            apt-get -q download prometheus >/dev/null; }; } &&
        dpkg -x prometheus_*.deb . && rm prometheus_*.deb)
fi

# etcd and its client: the package would also start a service.
if [ ! -x "$target/tools/usr/bin/etcdctl" ]; then
    echo "setup: unpacking etcd into $target/tools"
    mkdir -p "$target/tools"
    (cd "$target/tools" && { apt-get -q download etcd-server etcd-client >/dev/null 2>&1 ||
        { sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"; $sudo apt-get -q update >/dev/null &&
            apt-get -q download etcd-server etcd-client >/dev/null; }; } &&
        for package in etcd-*.deb; do dpkg -x "$package" .; done && rm etcd-*.deb)
fi

# What sets the clock of one process.
if ! ls "$target"/tools/usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1; then
    echo "setup: unpacking libfaketime into $target/tools"
    (cd "$target/tools" && { apt-get -q download libfaketime >/dev/null 2>&1 ||
        { sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo"; $sudo apt-get -q update >/dev/null &&
            apt-get -q download libfaketime >/dev/null; }; } &&
        dpkg -x libfaketime_*.deb . && rm libfaketime_*.deb)
fi
