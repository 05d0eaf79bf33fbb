# To be sourced: packages of other releases and architectures of Debian, from its own archive.
#
#     private_apt STATE "RELEASE ARCH..."...
#
# gives apt a state of its own in the folder STATE, for the rest of the shell, with the packages of these
# releases for these architectures. The folder is removed when the shell ends.
#
# Nothing is installed, and the system's own apt state stays as it is. apt uses the mirror of the system's
# sources, and checks the signatures with Debian's keys. Any user can do this.
#
# The dates of Release files are not checked, whatever the system's own setting is. They protect a system
# from a mirror that holds back security updates. These packages are only objects of tests: they run in
# emulators, or with containers of our own. A mirror that lags behind gives an older package, with a
# valid signature. Without this, a test would fail once a mirror has been behind for a week. Where a Release
# file has expired, this says so on stderr.

private_apt() {
    local state=$1 archive archs
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    shift
    # Where this system has its release from, all releases are.
    archive=$(
        . /etc/os-release
        apt-get indextargets --format '$(CREATED_BY) $(CODENAME) $(REPO_URI)' |
            awk -v codename="$VERSION_CODENAME" '$1 == "Packages" && $2 == codename { print $3; exit }'
    )
    [ -n "$archive" ] || { echo "$0: apt's sources do not have this system's release" >&2; exit 1; }

    rm -rf "$state"
    mkdir -p "$state"/{lists/partial,cache/archives/partial}
    trap "rm -rf '$state'" EXIT
    : >"$state/status"
    # A line for each release: the packages for all architectures would be listed twice otherwise.
    printf '%s\n' "$@" | while read -r release archs; do
        echo "deb [arch=${archs// /,} signed-by=$keys] $archive $release main"
    done >"$state/sources.list"
    archs="$(dpkg --print-architecture) $(printf '%s\n' "$@" | cut -d ' ' -f 2- | xargs)"

    # The system's own hooks must not run for a state that is not the system's. Its settings for
    # downloads, such as a proxy, are kept.
    apt-config dump Acquire >"$state/apt.conf"
    cat >>"$state/apt.conf" <<END
Acquire::Check-Date "false";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
APT::Architectures { $(printf '"%s"; ' $archs) };
APT::Sandbox::User "";
Dir::Cache "$state/cache";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "$state/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "$state";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
END
    export APT_CONFIG=$state/apt.conf
    apt-get -qq update
    report_expired "$state"/lists/*Release
}

# report_expired FILE...: says which of these Release files have expired.
report_expired() {
    local file until
    for file in "$@"; do
        until=$(sed -n 's/^Valid-Until: //p' "$file")
        if [ -n "$until" ] && [ "$(date -d "$until" +%s)" -lt "$(date +%s)" ]; then
            echo "$0: the mirror is behind: its $(sed -n 's/^Codename: //p' "$file") expired on $until" >&2
        fi
    done
}
