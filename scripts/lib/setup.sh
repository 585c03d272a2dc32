# Sourced by the other scripts: installs what the build needs and this machine lacks, and says so.
# Debian and Ubuntu: apt-get (with sudo where needed). macOS: says which command to run for Xcode's
# tools, and uses brew for cmake. Rust: rustup.
# shellcheck shell=bash

have() { command -v "$1" >/dev/null 2>&1; }

# bindgen loads libclang at build time.
have_libclang() {
    local file
    for file in /usr/lib/{llvm-*/lib,*,}/libclang*.so* /usr/lib64/libclang*.so*; do
        [ -e "$file" ] && return 0
    done
    return 1
}

apt_install() {
    local sudo=()
    if [ "$(id -u)" != 0 ]; then
        if ! have sudo; then
            echo "setup: please install as root: apt-get install $*" >&2
            return 2
        fi
        sudo=(sudo)
    fi
    echo "setup: installing with apt-get: $*" >&2
    "${sudo[@]}" apt-get update -qq >&2
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@" >&2
}

setup_linux() {
    local missing=()
    have cmake || missing+=(cmake)
    have make || missing+=(make)
    have g++ || missing+=(g++)
    have clang || missing+=(clang)
    have_libclang || missing+=(libclang-dev)
    have curl || missing+=(curl ca-certificates)
    [ ${#missing[@]} -eq 0 ] && return 0
    if have apt-get; then
        apt_install "${missing[@]}"
    else
        echo "setup: please install these (the names are Debian's): ${missing[*]}" >&2
        return 2
    fi
}

setup_macos() {
    if ! xcode-select -p >/dev/null 2>&1; then
        echo "setup: the compiler is missing; run  xcode-select --install  and start again" >&2
        return 2
    fi
    have cmake && return 0
    if ! have brew; then
        echo "setup: cmake is missing; install Homebrew and start again, or put cmake into PATH" >&2
        return 2
    fi
    echo "setup: installing with brew: cmake" >&2
    brew install cmake >&2
}

setup_rust() {
    if ! have cargo && [ -r "$HOME/.cargo/env" ]; then
        # shellcheck disable=SC1091
        . "$HOME/.cargo/env"
    fi
    if ! have cargo; then
        echo "setup: installing Rust with rustup, into ~/.cargo and ~/.rustup" >&2
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y --profile minimal -c clippy -c rustfmt >&2
        # shellcheck disable=SC1091
        . "$HOME/.cargo/env"
    fi
    local wanted version
    wanted=$(sed -n 's/^rust-version = "1\.\([0-9]*\).*/\1/p' Cargo.toml)
    version=$(cargo --version | sed -n 's/^cargo 1\.\([0-9]*\).*/\1/p')
    if [ "${version:-0}" -lt "$wanted" ]; then
        echo "setup: this is $(cargo --version), but 1.$wanted is needed" >&2
        echo "setup: run  rustup update stable  and start again" >&2
        return 2
    fi
}

case "$(uname -s)" in
Darwin) setup_macos || return ;;
Linux) setup_linux || return ;;
*) echo "setup: $(uname -s) is not a system these scripts know; see CONTRIBUTING.md for what the build needs" >&2 ;;
esac
setup_rust || return
