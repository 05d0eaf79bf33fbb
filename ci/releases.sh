#!/bin/bash
# Fetches newer container runtimes than this system has, with all that they need to run.
#
#     ci/releases.sh DIR [RELEASE...]
#
# leaves DIR/RELEASE, the root of a small system, in which the tests run with
#
#     PODPAUSE_ROOT=$PWD/DIR/RELEASE cargo test --test runtimes
#
# A RELEASE is a name of one of Debian's; without one, all that are named below are fetched. What is there
# already is left as it is. See apt.sh for how they are fetched.
set -euo pipefail
. "$(dirname "$0")/apt.sh"

# trixie has containerd 1.7, podman 5.4, docker 26, crun 1.21; forky, which is to be the next release,
# has containerd 2.1 and runc 1.3 at least.
all="trixie forky"
# The runtimes; what containers execute; and what the tests call themselves.
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
    # Nothing is installed, only unpacked: first the links of / into /usr.
    for package in "$dir"/apt/cache/archives/{base-files_,}*.deb; do
        dpkg --extract "$package" "$root"
    done
    # What the packages' scripts would have done.
    cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
    cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
    ln -s iptables-nft "$root/usr/sbin/iptables"
    ln -s ip6tables-nft "$root/usr/sbin/ip6tables"
    # What an installed system has.
    mkdir -p "$root/usr/local/lib"
    echo '127.0.0.1 localhost' >"$root/etc/hosts"
    touch "$root/etc/resolv.conf"
    rm -rf "${dir:?}/$release"
    mv "$root" "$dir/$release"
    echo "$release: $(ls "$dir"/apt/cache/archives/{containerd,crun,docker.io,podman,runc}_*.deb |
        sed 's/.*\///; s/_[^_]*$//' | xargs)"
}

for release in ${*:-$all}; do
    # A root from before this package was in the list lacks it.
    [ -e "$dir/$release/usr/bin/runsc" ] || (fetch "$release")
done
