#!/bin/bash
# Fetches what `cargo test --test kernels` boots: Debian's kernels, and a busybox for each.
#
#     ci/kernels.sh DIR [ARCH...]
#     ci/kernels.sh --packages
#
# leaves DIR/ARCH/vmlinuz and DIR/ARCH/busybox. An ARCH is Debian's name of an architecture; without
# one, all of the table below are fetched. What is there already is left as it is, and if all is
# there, nothing is asked of the network.
#
# Nothing is installed, and any user can run this: see apt.sh.
#
# The second form prints the packages that the tests need, which are these and no other:
#
#     apt-get install --no-install-recommends $(ci/kernels.sh --packages)
set -euo pipefail
. "$(dirname "$0")/apt.sh"

packages="qemu-system-arm qemu-system-misc qemu-system-ppc qemu-system-x86 opensbi"

# Debian's name of the architecture, the release, or several to be tried in turn where a mirror is not
# in step with itself, and the kernel package, which depends on the one that has the newest kernel of
# its kind. Debian 12 is the last release with a kernel for i386, and
# Debian 13 the first with one for riscv64. loong64 is in no release yet: the package lists of what
# is to be one expire within days, and apt is right not to take them.
table="
amd64    bookworm  linux-image-amd64
arm64    bookworm  linux-image-arm64
armhf    bookworm  linux-image-armmp
i386     bookworm  linux-image-686-pae
ppc64el  bookworm  linux-image-powerpc64le
s390x    bookworm  linux-image-s390x
riscv64  trixie,forky  linux-image-riscv64
"

usage() {
    sed -n '2,/^set /{/^#/{s/^# \{0,1\}//;p}}' "$0"
    exit 2
}

case ${1-} in
    --packages) echo "$packages"; exit ;;
    '' | -*) usage ;;
esac
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
all=$(awk 'NF { print $1 }' <<<"$table")

missing=()
for arch in ${*:-$all}; do
    grep -qx "$arch" <<<"$all" || { echo "$0: no kernel for $arch in the table" >&2; exit 2; }
    [ -e "$dir/$arch/vmlinuz" ] && [ -e "$dir/$arch/busybox" ] || missing+=("$arch")
done
[ ${#missing[@]} -gt 0 ] || exit 0

fetch() {
    local release=$1 arch=$2 image=$3 state=$dir/apt kernel binary
    private_apt "$state" "$release $arch"
    kernel=$(apt-cache depends --important "$image:$arch" |
        awk '$1 == "Depends:" && /linux-image-/ { sub(/:.*/, "", $2); print $2; exit }')
    [ -n "$kernel" ] || { echo "$0: $image:$arch depends on no kernel" >&2; exit 1; }
    # Newer releases have the kernel itself in a package that this one depends on.
    binary=$(apt-cache depends --important "$kernel:$arch" |
        awk '$1 == "Depends:" && /linux-binary-/ { sub(/:.*/, "", $2); print $2; exit }')
    kernel=${binary:-$kernel}

    mkdir -p "$dir/$arch" "$state/downloads"
    (cd "$state/downloads" && apt-get -qq download "$kernel:$arch" "busybox-static:$arch")
    # Of some 60 MB, mostly modules, only the kernel itself is wanted. Its name may end with its
    # version, and starts with vmlinux where it is not compressed.
    dpkg --fsys-tarfile "$state/downloads/$kernel"_*.deb |
        tar -x -O --wildcards './*/vmlinu[xz]*' >"$state/downloads/vmlinuz"
    dpkg --fsys-tarfile "$state/downloads"/busybox-static_*.deb |
        tar -x -O --wildcards './*bin/busybox' >"$state/downloads/busybox"
    chmod +x "$state/downloads/busybox"
    mv "$state/downloads/busybox" "$dir/$arch/busybox"
    mv "$state/downloads/vmlinuz" "$dir/$arch/vmlinuz"
    echo "$arch: $kernel of $release"
}

for arch in "${missing[@]}"; do
    read -r _ releases image < <(awk -v arch="$arch" '$1 == arch' <<<"$table")
    for release in ${releases//,/ }; do
        # In a condition, the shell would go on after an error.
        set +e
        (set -e; fetch "$release" "$arch" "$image")
        status=$?
        set -e
        [ "$status" -ne 0 ] || break
    done
    [ "$status" -eq 0 ] || exit "$status"
done
