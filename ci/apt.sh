# To be sourced: fetches packages of other Debian releases and architectures.
#
#     private_apt STATE "RELEASE ARCH..."...
#
# makes apt use a separate state in the directory STATE for the rest of the shell, with the packages of these
# releases for these architectures. The directory is removed when the shell ends.
#
# It installs nothing and does not touch the system's apt state, so any user can run it. apt uses the mirror of the
# system's sources and checks signatures with Debian's keys.
#
# apt does not check the expiry dates of Release files here. Those dates protect a system from a mirror that holds
# back security updates. The packages fetched here serve only the tests, and an outdated mirror still gives packages
# with valid signatures. With the check, the tests would fail when a mirror is a week behind.
# An expired Release file is reported on stderr.

private_apt() {
    local state=$1 archive archs
    local keys=/usr/share/keyrings/debian-archive-keyring.gpg
    shift
    # The system's mirror has all releases.
    archive=$(
        . /etc/os-release
        apt-get indextargets --format '$(CREATED_BY) $(CODENAME) $(REPO_URI)' |
            awk -v codename="$VERSION_CODENAME" '$1 == "Packages" && $2 == codename && !found++ { print $3 }'
    )
    [ -n "$archive" ] || { echo "$0: apt's sources do not have this system's release" >&2; exit 1; }

    rm -rf "$state"
    mkdir -p "$state"/{lists/partial,cache/archives/partial}
    trap "rm -rf '$state'" EXIT
    : >"$state/status"
    # One line per release: with a line for each architecture, apt would list packages of `Architecture: all` twice.
    printf '%s\n' "$@" | while read -r release archs; do
        echo "deb [arch=${archs// /,} signed-by=$keys] $archive $release main"
    done >"$state/sources.list"
    archs="$(dpkg --print-architecture) $(printf '%s\n' "$@" | cut -d ' ' -f 2- | xargs)"

    # Disables the system's hooks for this state. Settings for downloads, such as a proxy, stay.
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

# report_expired FILE...: reports expired Release files.
report_expired() {
    local file until
    for file in "$@"; do
        until=$(sed -n 's/^Valid-Until: //p' "$file")
        if [ -n "$until" ] && [ "$(date -d "$until" +%s)" -lt "$(date +%s)" ]; then
            echo "$0: the mirror is behind: its $(sed -n 's/^Codename: //p' "$file") expired on $until" >&2
        fi
    done
}
