# What the scripts in tools/ share: words to the user, the cache folder, and apt with suites of its
# own. Sourced, not run.
# shellcheck shell=sh

# Where downloads are kept, outside the checkout.
# shellcheck disable=SC2034 # for those who source this
cache=${SCX_MANYLAND_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/scx_manyland}

say() { echo "==> $*" >&2; }

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# Runs a command as root.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "need root for: $* (run this as root, or install sudo)"
    fi
}

# A field of /etc/os-release.
os_release() { (. /etc/os-release && eval "echo \"\${$1:-}\""); }

# Copies the machine's own Debian source entry into folder $1 with its suites replaced by $2, so
# that the same mirror and the same keys are used. Fails if the machine has no such entry.
copy_debian_source() {
    [ "$(os_release ID)" = debian ] || return 1
    ours="$(os_release VERSION_CODENAME) stable testing unstable sid"
    mkdir -p "$1"
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -f "$file" ] || continue
        awk -v ours="$ours" -v suites="$2" '
            function flush() { if (mine && deb && !off) { print stanza; found = 1; exit } stanza = ""; mine = deb = off = 0 }
            BEGIN { split(ours, list, " "); for (i in list) wanted[list[i]] = 1 }
            /^[ \t]*$/ { flush(); next }
            /^#/ { next }
            /^[^ \t]/ { field = tolower($1) }
            field == "types:" && / deb( |$)/ { deb = 1 }
            field == "enabled:" && tolower($2) ~ /^(no|false|0)$/ { off = 1 }
            field == "suites:" {
                for (i = 1; i <= NF; i++) if ($i in wanted) mine = 1
                if (tolower($1) == "suites:") stanza = stanza "Suites: " suites "\n"
                next
            }
            { stanza = stanza $0 "\n" }
            END { if (!found) { flush() } exit !found }' "$file" >"$1/debian.sources" && return
    done
    rm -f "$1/debian.sources"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -f "$file" ] || continue
        awk -v ours="$ours" -v suites="$2" '
            BEGIN { split(ours, list, " "); for (i in list) wanted[list[i]] = 1; n = split(suites, new, " ") }
            $1 == "deb" {
                at = 2
                if ($2 ~ /^\[/) { while ($at !~ /\]$/ && at < NF) at++; at++ }
                if (!($(at + 1) in wanted)) next
                for (i = 1; i <= n; i++) { $(at + 1) = new[i]; print }
                found = 1
                exit
            }
            END { exit !found }' "$file" >"$1/debian.list" && return
    done
    rm -f "$1/debian.list"
    return 1
}

# Makes folder $1 a configuration for apt that knows only the machine's Debian mirror with the
# suites $2. The machine's own sources and lists are neither read nor changed by what runs with it.
# Fails if the machine has no Debian source.
private_apt_config() {
    copy_debian_source "$1/parts" "$2" || return
    mkdir -p "$1/lists/partial" "$1/cache/archives/partial"
    cat >"$1/apt.conf" <<END
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$1/parts";
Dir::State::Lists "$1/lists";
Dir::Cache "$1/cache";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
END
}
