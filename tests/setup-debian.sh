#!/bin/bash
# Installs what Asgard's tests and demo need on Debian 12 or 13, where it is missing.
#
# Run as root, or as a user who may use sudo. It can be run again at any time:
# when nothing is missing it changes nothing, and asks neither apt nor the network.
# On another system it only says what is missing.
set -euo pipefail

# The first Mesa whose gfxstream guest driver and lavapipe are good enough.
MESA_MIN=25.0.7
# Bookworm's own Mesa is 22.3; this file makes the newer one known to apt.
BACKPORTS_FILE=/etc/apt/sources.list.d/asgard-backports.sources

here=$(cd -- "$(dirname -- "$0")" && pwd)

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: error: %s\n' "$*" >&2; exit 1; }

# --- Rust -------------------------------------------------------------------

# rust_ok: cargo is there and is at least the version that the workspace asks for.
rust_ok() {
    rust_min=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' "$here/../Cargo.toml")
    rust_have=$(cargo --version 2>/dev/null | cut -d' ' -f2) || return 1
    printf '%s\n%s\n' "$rust_min" "${rust_have%%-*}" | sort -V -C
}

explain_rust() {
    cat >&2 <<TEXT
setup: error: Rust $rust_min or newer is needed, ${rust_have:+this is }${rust_have:-there is no cargo in PATH}.
setup: Debian's own rustc is too old. With rustup:
setup:     rustup update stable && rustup default stable
setup: Without it: on Debian 13 first \`apt-get install rustup\`; elsewhere follow
setup: https://www.rust-lang.org/tools/install, then open a new shell.
TEXT
    exit 1
}

# --- What is missing --------------------------------------------------------

have_library() { PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | grep -q "$1 "; }
have_program() { PATH="$PATH:/sbin:/usr/sbin" command -v "$1"; }
have_icd() { compgen -G "/usr/share/vulkan/icd.d/$1*.json" >/dev/null; }

mesa_ok() {
    have_icd lvp_icd && have_icd gfxstream_vk_icd || return 1
    # Drivers that came without a package are their owner's affair.
    ! dpkg-query -W mesa-vulkan-drivers || at_least_mesa_min mesa-vulkan-drivers
}

# at_least_mesa_min PACKAGE: it is installed, and new enough.
at_least_mesa_min() {
    local version
    version=$(dpkg-query -W -f '${Version}' "$1" 2>/dev/null) && [ -n "$version" ] || return 1
    dpkg --compare-versions "$version" ge "$MESA_MIN"
}

missing=()
# need PACKAGE REASON CHECK...: remembers PACKAGE unless CHECK succeeds.
need() {
    local package=$1 reason=$2
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        missing+=("$package")
        say "missing: $package ($reason)"
    fi
}

find_missing() {
    missing=()
    need make "runs the commands of the Makefile" command -v make
    need gcc "links Rust programs" command -v cc
    need libc6-dev "links Rust programs" test -e /usr/include/stdlib.h
    need libvulkan1 "the Vulkan loader" have_library libvulkan.so.1
    need mesa-vulkan-drivers "lavapipe, and the gfxstream guest driver, $MESA_MIN or newer" mesa_ok
    need libgl1-mesa-dri "OpenGL on Vulkan (zink), $MESA_MIN or newer" at_least_mesa_min libgl1-mesa-dri
    need libglx-mesa0 "OpenGL for X11, of the same version" at_least_mesa_min libglx-mesa0
    need libegl-mesa0 "EGL, which weston asks for, of the same version" at_least_mesa_min libegl-mesa0
    need vulkan-tools "vulkaninfo and vkcube, which the tests run" command -v vkcube
    need mesa-utils "programs of OpenGL" command -v glxinfo
    need glmark2-x11 "a benchmark of OpenGL that checks what it draws" command -v glmark2
    need vkd3d-demos "programs of Direct3D 12" command -v vkd3d-triangle
    need xvfb "a screen for vkcube" command -v Xvfb
    need libxkbcommon-x11-0 "keyboards of windows of X11" have_library libxkbcommon-x11.so.0
    need libxcursor1 "their pointers" have_library libXcursor.so.1
    need libxi6 "their keys and buttons" have_library libXi.so.6
    need weston "a Wayland compositor for vkcube" command -v weston-screenshooter
    need mmdebstrap "builds guests for virtual machines" command -v mmdebstrap
    need e2fsprogs "makes their disks" have_program mke2fs
    need cpio "makes what they start from" command -v cpio
    need xz-utils "unpacks their kernel's modules" command -v xz
    need valgrind "leaks of the guest driver" command -v valgrind
    need vulkan-validationlayers "misuse of Vulkan by the guest driver" test -e /usr/share/vulkan/explicit_layer.d/VkLayer_khronos_validation.json
}

# --- Installing -------------------------------------------------------------

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif [ -t 0 ]; then
        sudo "$@"
    else
        sudo -n "$@"
    fi
}

# apt_get ARGS...: without questions and without a terminal.
apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" </dev/null
}

# mesa_available: apt can see a Mesa that is new enough.
mesa_available() {
    local version
    for version in $(apt-cache madison mesa-vulkan-drivers | awk -F'|' '{ print $2 }'); do
        if dpkg --compare-versions "$version" ge "$MESA_MIN"; then
            return 0
        fi
    done
    return 1
}

# signed_by FILE SUITE: prints FILE's key for SUITE as a deb822 field, or nothing.
# It copes with both forms of a source file, and with a key inside the file.
signed_by() {
    case $1 in
    *.sources)
        awk -v suite="$2" '
            function flush() { if (found) { printf "%s", key; exit } key = ""; inside = 0 }
            /^[ \t]*$/ { flush(); next }
            /^#/ { next }
            /^[^ \t]/ { inside = 0 }
            tolower($1) == "suites:" { for (i = 2; i <= NF; i++) if ($i == suite) found = 1 }
            tolower($1) == "signed-by:" { inside = 1 }
            inside { key = key $0 "\n" }
            END { if (found) printf "%s", key }' "$1"
        ;;
    *)
        sed -n "/^deb .*[[:space:]]$2[[:space:]]/s/.*\[.*signed-by=\([^] ]*\).*\].*/Signed-By: \1/p" "$1" |
            head -n 1
        ;;
    esac
}

# Writes a source for bookworm-backports beside the configured ones: the same
# server and the same key as the source that bookworm's main comes from.
add_backports() {
    local uri='' entry='' suite='' target
    target=$(apt-get indextargets --format '$(REPO_URI)|$(SOURCESENTRY)|$(RELEASE)' \
        'Created-By: Packages' 'Codename: bookworm' 'Component: main' 'Origin: Debian' | head -n 1)
    IFS='|' read -r uri entry suite <<<"$target" || true
    [ -n "$uri" ] || die "no configured apt source has Debian bookworm's main; add bookworm-backports yourself"
    say "adding bookworm-backports from $uri to apt ($BACKPORTS_FILE)"
    {
        echo "# Mesa $MESA_MIN for Asgard: bookworm's own is too old. Nothing is taken from"
        echo "# here unless it is asked for by name."
        echo "Types: deb"
        echo "URIs: $uri"
        echo "Suites: bookworm-backports"
        echo "Components: main"
        signed_by "${entry%:*}" "$suite"
    } | as_root tee "$BACKPORTS_FILE" >/dev/null
}

install_missing() {
    local codename package packages=() mesa=()
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    case $codename in
    bookworm | trixie) ;;
    *) die "this script knows Debian 12 and 13 only; install the packages named above, then run it again" ;;
    esac
    if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
        die "run this as root: $0"
    fi

    for package in "${missing[@]}"; do
        case $package in
        mesa-vulkan-drivers | lib*-mesa*) mesa+=("$package") ;;
        *) packages+=("$package") ;;
        esac
    done

    say "asking apt what there is"
    apt_get update
    if [ ${#mesa[@]} != 0 ]; then
        if [ "$codename" = bookworm ]; then
            if ! mesa_available; then
                add_backports
                apt_get update
            fi
            # From backports come Mesa and, of what it depends on, only what
            # bookworm's own versions cannot satisfy (libdrm).
            mesa=("${mesa[@]/%//bookworm-backports}")
        fi
        mesa_available || die "apt knows no mesa-vulkan-drivers >= $MESA_MIN"
        packages+=("${mesa[@]}")
    fi
    say "installing: ${packages[*]}"
    apt_get install --no-install-recommends "${packages[@]}"
}

rust_ok || explain_rust
find_missing
if [ ${#missing[@]} = 0 ]; then
    say "all there: Rust $rust_have, Vulkan loader, Mesa, vulkan-tools, Xvfb, weston, programs of OpenGL and Direct3D, valgrind, validation layers"
    exit 0
fi
install_missing
find_missing
[ ${#missing[@]} = 0 ] || die "still missing: ${missing[*]}"
say "all installed"
