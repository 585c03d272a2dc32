# Sourced by scripts/devices/vulkan: which Mesa computes on a software device.
# shellcheck shell=bash

# Processes die now and then in the software device of Mesa 22.3 (Debian 12). The thread that runs
# command buffers releases a buffer that llvmpipe's compute state still names, but whose memory was
# freed before. Cores show either free() that refuses, or a call through what the memory holds
# meanwhile. What makes the count of its users wrong is not known.
mesa_dies() {
    command -v dpkg-query >/dev/null 2>&1 || return 1
    case "$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null)" in
    22.*) return 0 ;;
    *) return 1 ;;
    esac
}

# The Mesa of Debian 12's backports, unpacked under target/devices/mesa and not installed. Sets
# VK_ICD_FILENAMES.
newer_mesa() {
    local folder=$PWD/target/devices/mesa system library driver
    system=$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
    library=$folder/root/usr/lib/$system/libvulkan_lvp.so
    if [ ! -e "$library" ]; then
        echo "vulkan: this system's Mesa dies now and then (scripts/devices/mesa.sh says why)" >&2
        echo "vulkan: taking that of bookworm-backports" >&2
        mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
        local keys=/usr/share/keyrings/debian-archive-keyring.gpg
        echo "deb [signed-by=$keys] http://deb.debian.org/debian bookworm-backports main" \
            >"$folder/sources.list"
        local apt=(apt-get -qq
            -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null
            -o "Dir::State::lists=$folder/lists" -o "Dir::Cache=$folder/cache"
            -o "APT::Sandbox::User=$(id -un)")
        driver=mesa-vulkan-drivers/bookworm-backports
        if ! "${apt[@]}" update >&2 || ! (cd "$folder" && "${apt[@]}" download "$driver" >&2); then
            echo "vulkan: it cannot be had; going on with the Mesa of this system" >&2
            echo "vulkan: a test that dies of a signal there says little" >&2
            return 0
        fi
        dpkg -x "$folder"/mesa-vulkan-drivers_*.deb "$folder/root"
    fi
    cat >"$folder/icd.json" <<JSON
{"file_format_version": "1.0.0", "ICD": {"api_version": "1.3.0", "library_path": "$library"}}
JSON
    export VK_ICD_FILENAMES=$folder/icd.json
}

# Where there is no GPU the software device computes.
if [ -z "${VK_ICD_FILENAMES:-}" ] && mesa_dies &&
    ! ls /dev/dri/renderD* /dev/nvidia[0-9]* >/dev/null 2>&1; then
    newer_mesa
fi
