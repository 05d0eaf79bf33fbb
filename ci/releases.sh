#!/bin/bash
# Fetches container runtimes of newer Debian releases, with their dependencies.
#
#     ci/releases.sh DIR [RELEASE...]
#
# creates DIR/RELEASE, the root directory of a small system. To run tests in it:
#
#     PODPAUSE_ROOT=$PWD/DIR/RELEASE cargo test --test runtimes
#
# RELEASE is the name of a Debian release; the default is trixie and forky. An existing DIR/RELEASE is kept. apt.sh
# says how packages are fetched.
set -euo pipefail
. "$(dirname "$0")/apt.sh"

# trixie has containerd 1.7, podman 5.4, docker 26 and crun 1.21. forky, the next release, has at least
# containerd 2.1 and runc 1.3.
all="trixie forky"
# The runtimes, the programs for containers, and the tools that the tests call.
packages="
containerd crun docker-cli docker.io podman runc runsc
aardvark-dns containernetworking-plugins iptables netavark nftables slirp4netns uidmap
busybox-static catatonit
base-files base-passwd coreutils dash mount procps tar util-linux
"

case ${1-} in '' | -*) sed -n '2,/^set /{/^#/{s/^# \{0,1\}//;p}}' "$0"; exit 2 ;; esac
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift

fetch() {
    local release=$1 root=$dir/apt/root package
    private_apt "$dir/apt" "$release $(dpkg --print-architecture)"
    # shellcheck disable=SC2086 # one word for each package
    apt-get -qq --yes --no-install-recommends --download-only install $packages
    # Unpacks base-files first, which has the links from / to /usr.
    for package in "$dir"/apt/cache/archives/{base-files_,}*.deb; do
        dpkg --extract "$package" "$root"
    done
    # Normally, the packages' scripts do this.
    cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
    cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
    ln -s iptables-nft "$root/usr/sbin/iptables"
    ln -s ip6tables-nft "$root/usr/sbin/ip6tables"
    # An installed system has these.
    mkdir -p "$root/usr/local/lib"
    echo '127.0.0.1 localhost' >"$root/etc/hosts"
    touch "$root/etc/resolv.conf"
    rm -rf "${dir:?}/$release"
    mv "$root" "$dir/$release"
    echo "$release: $(ls "$dir"/apt/cache/archives/{containerd,crun,docker.io,podman,runc}_*.deb |
        sed 's/.*\///; s/_[^_]*$//' | xargs)"
}

for release in ${*:-$all}; do
    # Fetches a system again if it was made before the list had runsc.
    [ -e "$dir/$release/usr/bin/runsc" ] || (fetch "$release")
done
