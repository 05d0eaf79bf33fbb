#!/bin/bash
# Fetches what `cargo test --test kernels` boots: Debian's kernels, a busybox for each architecture, and
# the emulators.
#
#     ci/kernels.sh DIR [--weekly | ID...]
#
# creates DIR/ID/vmlinuz for each kernel, DIR/ARCH.busybox for each architecture, DIR/uml and DIR/qemu. ID is a kernel
# in tests/kernels/machines.toml. Without an ID, this fetches the kernels that the tests boot by default; with
# --weekly, every kernel in that file. It keeps what is in DIR, and needs no network if nothing is missing.
#
# It installs nothing, so any user can run it: see apt.sh. DIR/qemu has the emulators with the libraries of their own
# release, so they run on any Debian release, and an installed qemu stays as it is:
#
#     DIR/qemu/run qemu-system-x86_64 -L DIR/qemu/usr/share/qemu ...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
machines=$here/../tests/kernels/machines.toml
. "$here/apt.sh"

# The releases to take the emulators from, in order of preference.
emulators_from=trixie,forky,bookworm-backports

usage() {
    sed -n '2,/^set /{/^#/{s/^# \{0,1\}//;p}}' "$0"
    exit 2
}

case ${1-} in '' | -*) usage ;; esac
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift

# A line for each kernel: its ID, architecture, releases, package, and whether it is booted by default or weekly.
table=$(awk '
    /^\[/ { end_of_item(); kind = $1 }
    $2 == "=" { gsub(/"/, "", $3); item[$1] = $3 }
    END {
        end_of_item()
        for (i = 1; i <= count; i++) print kernel[i], ids[i] in by_default ? "default" : "weekly"
    }
    function end_of_item() {
        if (kind == "[[kernel]]") {
            ids[++count] = item["id"]
            kernel[count] = item["id"] " " item["arch"] " " item["release"] " " item["package"]
        }
        if (kind == "[[machine]]" && item["weekly"] != "true") by_default[item["kernel"]]
        delete item
    }
' "$machines")

case ${1-} in
    '') wanted=$(awk '$5 == "default" { print $1 }' <<<"$table") ;;
    --weekly) wanted=$(awk '{ print $1 }' <<<"$table") ;;
    -*) usage ;;
    *) wanted=$* ;;
esac

# in_turn RELEASE,RELEASE... COMMAND...: runs the command with one release after the other, until it succeeds.
in_turn() {
    local releases=$1 release status=1
    shift
    for release in ${releases//,/ }; do
        # `set -e` has no effect inside a condition.
        set +e
        (set -e; "$@" "$release")
        status=$?
        set -e
        [ "$status" -ne 0 ] || return 0
    done
    return "$status"
}

fetch_emulators() {
    local root=$dir/apt/root loader program package
    private_apt "$dir/apt" "$1 $(dpkg --print-architecture)"
    apt-get -qq --yes --no-install-recommends --download-only install \
        qemu-system-{arm,misc,ppc,riscv,s390x,x86} zstd
    mkdir "$root"
    for package in "$dir"/apt/cache/archives/*.deb; do
        dpkg --extract "$package" "$root"
    done
    # Of some 500 MB, keeps only the libraries, the firmware and the programs that are needed.
    mkdir -p "$root/kept/usr/bin" "$root/kept/usr/share"
    for program in $(sed -n 's/^qemu = \["\(qemu-system-[^"]*\)".*/\1/p' "$machines") zstd; do
        mv "$root/usr/bin/$program" "$root/kept/usr/bin/"
    done
    mv "$root/usr/lib" "$root/kept/usr/"
    mv "$root"/usr/share/{qemu,seabios} "$root/kept/usr/share/"
    loader=$(cd "$root/kept" && echo usr/lib/*-linux-gnu/ld-linux*.so.*)
    cat >"$root/kept/run" <<END
#!/bin/sh
# run PROGRAM ARGUMENT...: runs a program of usr/bin with the loader and the libraries of its own release.
root=\$(cd "\$(dirname "\$0")" && pwd)
program=\$root/usr/bin/\$1
shift
exec "\$root/$loader" --library-path "\$root/${loader%/*}" "\$program" "\$@"
END
    chmod +x "$root/kept/run"
    mv "$root/kept" "$dir/qemu"
    echo "emulators: $("$dir/qemu/run" qemu-system-x86_64 --version | head -n 1), of $1"
}

# Writes the kernel in a file to stdout. For some architectures, the kernel is compressed inside an EFI program (a
# zboot image). The third word of that program's header is the offset of the compressed kernel, the fourth its size.
#
# Every command that reads from a pipe in this function and in fetch_kernels reads to the end. Otherwise, SIGPIPE would
# sometimes kill the command that writes to the pipe, and with `pipefail` the script would end without a message.
unpack_kernel() {
    local header
    read -r -a header < <(od -A n -t u4 -N 16 "$1")
    if [ "$(od -A n -t x1 -j 4 -N 4 "$1")" = ' 7a 69 6d 67' ]; then # "zimg"
        head -c "$((header[2] + header[3]))" "$1" | tail -c "${header[3]}" | "$dir/qemu/run" zstd -d
    else
        cat "$1"
    fi
}

# fetch_kernels LINE... RELEASE: fetches the kernels in these lines of the table. All are for one architecture.
fetch_kernels() {
    local release=${*: -1} line id arch image kernel binary downloads=$dir/apt/downloads
    read -r _ arch _ <<<"$1"
    private_apt "$dir/apt" "$release $arch"
    mkdir "$downloads"
    for line in "${@:1:$#-1}"; do
        read -r id _ _ image _ <<<"$line"
        kernel=$(apt-cache depends --important "$image:$arch" |
            awk '$1 == "Depends:" && /linux-image-/ && !found++ { sub(/:.*/, "", $2); print $2 }')
        [ -n "$kernel" ] || { echo "$0: $release has no $image:$arch" >&2; exit 1; }
        # In newer releases, the kernel itself is in another package, on which this one depends.
        binary=$(apt-cache depends --important "$kernel:$arch" |
            awk '$1 == "Depends:" && /linux-binary-/ && !found++ { sub(/:.*/, "", $2); print $2 }')
        kernel=${binary:-$kernel}
        (cd "$downloads" && apt-get -qq download "$kernel:$arch")
        # Of some 60 MB, mostly modules, only the kernel itself is needed. Its name may end with its
        # version, and starts with vmlinux if it is not compressed.
        dpkg --fsys-tarfile "$downloads/$kernel"_*.deb |
            tar -x -O --wildcards './*/vmlinu[xz]*' >"$downloads/vmlinuz"
        mkdir -p "$dir/$id"
        unpack_kernel "$downloads/vmlinuz" >"$downloads/kernel"
        mv "$downloads/kernel" "$dir/$id/vmlinuz"
        echo "$id: $kernel of $release"
    done
}

fetch_busybox() {
    local arch=$1 downloads=$dir/apt/downloads
    private_apt "$dir/apt" "$2 $arch"
    mkdir "$downloads"
    (cd "$downloads" && apt-get -qq download "busybox-static:$arch")
    dpkg --fsys-tarfile "$downloads"/*.deb | tar -x -O --wildcards './*bin/busybox' >"$downloads/busybox"
    chmod +x "$downloads/busybox"
    mv "$downloads/busybox" "$dir/$arch.busybox"
}

# User-mode Linux, a kernel that runs as a program.
fetch_uml() {
    private_apt "$dir/apt" "$1 amd64"
    mkdir "$dir/apt/downloads"
    (cd "$dir/apt/downloads" && apt-get -qq download user-mode-linux:amd64)
    mkdir -p "$dir/uml"
    dpkg --fsys-tarfile "$dir"/apt/downloads/*.deb | tar -x -O ./usr/bin/linux.uml >"$dir/uml/part"
    chmod +x "$dir/uml/part"
    mv "$dir/uml/part" "$dir/uml/linux.uml"
    echo "uml: $("$dir/uml/linux.uml" --version) of $1"
}

[ "$(dpkg --print-architecture)" != amd64 ] || [ -e "$dir/uml/linux.uml" ] || in_turn bookworm fetch_uml
[ -e "$dir/qemu" ] || in_turn "$emulators_from" fetch_emulators

# Missing kernels, grouped by release and architecture.
declare -A missing
for id in $wanted; do
    line=$(awk -v id="$id" '$1 == id' <<<"$table")
    [ -n "$line" ] || { echo "$0: $machines has no kernel $id" >&2; exit 2; }
    read -r _ arch releases _ <<<"$line"
    [ -e "$dir/$id/vmlinuz" ] || missing["$releases $arch"]+="$line"$'\n'
    if [ ! -e "$dir/$arch.busybox" ]; then
        in_turn "$(awk -v arch="$arch" '$2 == arch { print $3; exit }' <<<"$table")" fetch_busybox "$arch"
    fi
done
for group in "${!missing[@]}"; do
    mapfile -t lines < <(printf %s "${missing["$group"]}")
    in_turn "${group% *}" fetch_kernels "${lines[@]}"
done
