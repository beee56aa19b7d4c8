#!/bin/sh
# Builds the program of another commit, to upgrade from: previous.sh COMMIT [--release].
# Says on standard output where it is. Dependencies are shared with the build of this checkout.
set -eu
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
commit=$(git rev-parse --short --verify "$1^{commit}")
profile=debug
if [ "${2:-}" = --release ]; then profile=release; fi
built=$target/previous/$commit-$profile
if [ ! -x "$built" ]; then
    src=$target/previous/src
    rm -rf "$src"
    mkdir -p "$src"
    git archive "$commit" | tar -x -C "$src"
    # A version of its own, so that its crates are not taken for those of this checkout.
    sed -i "/^\[workspace.package\]/,/^\[/ s/^version = \"\(.*\)\"/version = \"\1-g$commit\"/" "$src/Cargo.toml"
    # shellcheck disable=SC2086
    (cd "$src" && ${CARGO:-cargo} build --quiet ${2:-} -p qkm --bin qkm --target-dir "$target" >&2)
    # A link would change when this checkout is built.
    cp "$target/$profile/qkm" "$built"
fi
echo "$built"
