#!/bin/bash
# ci/cross-toolchain.sh DIR TARGET...
#
# Creates DIR/rustc, a compiler with libcore for each TARGET. Build the program with:
#
#     RUSTC=DIR/rustc RUSTFLAGS=-Clinker=rust-lld cargo build --target TARGET
#
# For a *-musl target, use RUSTFLAGS="-Clinker=rust-lld -Clink-self-contained=no". No C toolchain is needed.
#
# If rustup can fetch the targets, this adds them to the current toolchain. Otherwise it unpacks Debian's rustc-web
# to DIR and builds libcore for each target from that compiler's source. It installs no package. It keeps what is in
# DIR, so you can run it again for more targets.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 DIR TARGET..." >&2
    exit 2
fi
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
work=$dir/work
tree=$dir/toolchain                            # in the layout that rustc expects
host=$(rustc -vV | sed -n 's/^host: //p')
rustup=$(rustc --print sysroot)                # the current toolchain: both methods use its rust-lld

# Creates DIR/rustc, which runs the command in the arguments.
leave_rustc() {
    { echo '#!/bin/sh'; printf 'exec'; printf ' %q' "$@"; echo ' "$@"'; } > "$dir/rustc.new"
    chmod +x "$dir/rustc.new"
    mv "$dir/rustc.new" "$dir/rustc" # atomically
}

# The first dependency of package $1 whose name starts with $2.
dependency() {
    apt-cache depends "$1" | awk -v name="^$2" '$1 == "Depends:" && $2 ~ name && !found++ { print $2 }'
}

unpack_debian_rustc() {
    [ "$(id -u)" != 0 ] || apt-get -qq update
    local std llvm package what
    std=$(dependency libstd-rust-web-dev 'libstd-rust-web-[0-9]') # the name has the version
    llvm=$(dependency "$std" 'libllvm[0-9]')
    rm -rf "$work" "$tree"
    mkdir -p "$work/root" "$tree/bin" "$tree/lib/rustlib/src/rust"
    (cd "$work" && apt-get -qq -o APT::Sandbox::User=root download \
        rustc-web rust-web-src libstd-rust-web-dev "$std" "$llvm")
    for package in "$work"/*.deb; do
        case $package in
            */rust-web-src_*) what='./usr/src/rustc-*/library' ;; # the only directory needed of many
            *) what='./usr/*' ;;
        esac
        dpkg --fsys-tarfile "$package" | tar -x -C "$work/root" --wildcards "$what"
    done
    mv "$work"/root/usr/bin/rustc "$tree/bin/"
    mv "$work"/root/usr/lib/*/librustc_driver-*.so "$work"/root/usr/lib/*/libLLVM* "$tree/lib/"
    mv "$work/root/usr/lib/rustlib/$host" "$tree/lib/rustlib/"
    mv "$work"/root/usr/src/rustc-*/library "$tree/lib/rustlib/src/rust/"
    mkdir -p "$tree/lib/rustlib/$host/bin"
    ln -sf "$rustup/lib/rustlib/$host/bin/rust-lld" "$tree/lib/rustlib/$host/bin/"
    rm -rf "$work"
    leave_rustc env "LD_LIBRARY_PATH=$tree/lib" "$tree/bin/rustc"
}

# Builds libcore for these targets, by compiling an empty crate: libcore is its only dependency.
build_libcore() {
    local target flags=()
    for target in "$@"; do
        flags+=(--target "$target")
    done
    rm -rf "$work"
    mkdir -p "$work/src"
    printf '[package]\nname = "empty"\nedition = "2024"\n[profile.release]\npanic = "abort"\n[workspace]\n' \
        > "$work/Cargo.toml"
    echo '#![no_std]' > "$work/src/lib.rs"
    # Unstable features are enabled only to build libcore.
    (cd "$work" && RUSTC=$dir/rustc RUSTC_BOOTSTRAP=1 RUSTFLAGS='' CARGO_TARGET_DIR=$work/target \
        cargo build --quiet --release -Zbuild-std=core "${flags[@]}")
    for target in "$@"; do
        mkdir -p "$tree/lib/rustlib/$target/lib.new"
        cp "$work/target/$target"/release/deps/lib{core,compiler_builtins}-*.rlib \
            "$tree/lib/rustlib/$target/lib.new/"
        mv "$tree/lib/rustlib/$target/lib.new" "$tree/lib/rustlib/$target/lib"
    done
    rm -rf "$work"
}

# If rustup fails, the targets that it has fetched by then stay in its toolchain, unused.
if [ ! -d "$tree" ] && command -v rustup > /dev/null; then
    if RUST_BACKTRACE=0 rustup target add "$@"; then
        leave_rustc "$rustup/bin/rustc"
        echo "$dir/rustc: $("$dir/rustc" -V), with targets of rustup"
        exit
    fi
    echo "rustup could not add all targets: using Debian's rustc-web"
fi
[ -d "$tree" ] && [ -x "$dir/rustc" ] || unpack_debian_rustc
missing=()
for target in "$@"; do
    [ -d "$tree/lib/rustlib/$target/lib" ] || missing+=("$target")
done
[ ${#missing[@]} -eq 0 ] || build_libcore "${missing[@]}"
echo "$dir/rustc: $("$dir/rustc" -V) of Debian, libcore built for ${#missing[@]} targets of $#"
