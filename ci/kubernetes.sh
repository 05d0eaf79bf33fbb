#!/bin/bash
# Builds Kubernetes 1.20.2 from the source package of Debian 12, and fetches etcd.
#
#     ci/kubernetes.sh DIR
#
# creates DIR/etcd, DIR/kube-apiserver, DIR/kube-controller-manager, DIR/kube-scheduler and DIR/kubelet. It does nothing
# if all of them exist. The build takes about five minutes of CPU time. These tests start a node from the programs:
#
#     PODPAUSE_KUBERNETES=$PWD/DIR cargo test -p kubernetes
#
# The script needs Go 1.19 of Debian 12 (package golang-go). It installs nothing, so any user can run it. apt checks the
# signatures of source and package: see apt.sh.
set -euo pipefail
. "$(dirname "$0")/apt.sh"

release=bookworm
version=1.20.2
servers="kube-apiserver kube-controller-manager kube-scheduler kubelet"

case ${1-} in '' | -*) sed -n '2,/^set /{/^#/{s/^# \{0,1\}//;p}}' "$0"; exit 2 ;; esac
mkdir -p "$1"
dir=$(cd "$1" && pwd)

is_complete() {
    local name
    for name in etcd $servers; do [ -x "$dir/$name" ] || return 1; done
}
is_complete && exit

work=$dir/work
rm -rf "$work"
# The trap below replaces the one of private_apt. It removes $work, and with it apt's state.
private_apt "$work/apt" "$release $(dpkg --print-architecture)"
trap 'rm -rf "$work"' EXIT
sed -i 's/^deb \(.*\)/&\ndeb-src \1/' "$work/apt/sources.list"
apt-get -qq update

cd "$work"
apt-get -qq download etcd-server
apt-get -qq --download-only source kubernetes
[ -e kubernetes_*really"$version".orig.tar.gz ] ||
    { echo "$0: the source package of $release is not version $version: $(ls ./*.orig.tar.gz)" >&2; exit 1; }

# Builds in GOPATH mode, because this source of 2021 lacks the list of vendored modules that Go 1.19 requires.
# Debian's patches are not applied: they concern only kubectl.
export GO111MODULE=off GOPATH=$work/go GOCACHE=$work/cache GOFLAGS= CGO_ENABLED=0
tree=$GOPATH/src/k8s.io/kubernetes
mkdir -p "$tree" bin
tar -xzf kubernetes_*.orig.tar.gz -C "$tree" --strip-components 1
rm kubernetes_*.orig.tar.gz
cd "$tree"

# Generates the one file that the source lacks, as its Makefile.generated_files would: from every package in which at
# least one file has the tag `+k8s:openapi-gen`. If such a package is left out, the API server exits immediately.
go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
packages=$(
    grep -rl --include='*.go' '^// *+k8s:openapi-gen=' pkg cmd staging/src/k8s.io |
        grep -vE '/(code-generator|sample-[a-z]*)/' |
        xargs -n 1 dirname | LC_ALL=C sort -u |
        sed 's,^staging/src/,k8s.io/kubernetes/vendor/,; t; s,^,k8s.io/kubernetes/,' | paste -sd ,
)
"$work/openapi-gen" -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
    -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$work/violations"

# Builds without cloud providers and dockershim. Two packages contain the version.
flags="-s -w"
for package in component-base/version client-go/pkg/version; do
    package=k8s.io/kubernetes/vendor/k8s.io/$package
    flags+=" -X $package.gitVersion=v$version -X $package.gitMajor=1 -X $package.gitMinor=20"
done
# shellcheck disable=SC2046,SC2086 # one word for each program
go build -tags providerless,dockerless -ldflags "$flags" -o "$work/bin/" $(printf './cmd/%s ' $servers)
dpkg --fsys-tarfile "$work"/etcd-server_*.deb | tar -x -O ./usr/bin/etcd >"$work/bin/etcd"
chmod +x "$work/bin/etcd"
for name in $servers; do
    [ "$("$work/bin/$name" --version)" = "Kubernetes v$version" ]
done
mv "$work"/bin/* "$dir/"
echo "$dir: Kubernetes $version, $("$dir/etcd" --version | head -n 1)"
