# Sourced by scripts/devices/cuda and scripts/devices/vulkan: builds a backend of ggml as a module,
# and runs the trainer's tests with it.
# shellcheck shell=bash

# The tests that run on every device.
device_tests=(devices trainer peft)

# build_device NAME CMAKE-OPTION…: sets `module` to the file.
build_device() {
    local name=$1 host source out extension=so
    shift
    # Of this platform only: what other systems need was never downloaded, and a box without a
    # network cannot.
    host=$(rustc -vV | sed -n 's/^host: //p')
    source=$(cargo metadata --format-version 1 --filter-platform "$host" |
        grep -o '"manifest_path":"[^"]*llama-cpp-sys-2[^"]*"' | head -n 1 | cut -d '"' -f 4)
    source=$(dirname "$source")/llama.cpp/ggml
    out=$PWD/target/devices/$name
    [ "$(uname -s)" = Darwin ] && extension=dylib
    module=$out/bin/libggml-$name.$extension
    echo "== building $module" >&2
    mkdir -p "$out"
    cmake -S scripts/devices -B "$out" -DCMAKE_BUILD_TYPE=Release -DGGML_SOURCE="$source" "$@" \
        >"$out.log" 2>&1 ||
        { tail -n 20 "$out.log" >&2 && return 2; }
    cmake --build "$out" --target "ggml-$name" -j"$(getconf _NPROCESSORS_ONLN)" >>"$out.log" 2>&1 ||
        { tail -n 40 "$out.log" >&2 && return 2; }
}

# install_device FOLDER: puts the module where the program translora that lies in FOLDER finds it;
# without FOLDER, beside one built here.
install_device() {
    local folder=${1:-$CARGO_TARGET_DIR/debug}
    [ -n "${1:-}" ] || cargo build -p translora
    cp -P "$(dirname "$module")"/libggml-* "$folder/"
    echo "the module lies in $folder" >&2
    "$folder/translora" inspect --list-devices
}

# test_program TEST: the path of a test program of the trainer, built now.
test_program() {
    cargo test -p translora-train --test "$1" --no-run 2>&1 |
        sed -n 's/.*Executable.*(\(.*\)).*/\1/p'
}

# run_tests PROGRAM DEVICE: each test in a process of its own, so that one that dies takes no other
# with it.
run_tests() {
    local program=$1 device=$2 name since
    if [ ! -x "$program" ]; then
        echo "there is no test program $program" >&2
        return 2
    fi
    for name in $("$program" --list 2>/dev/null | sed -n 's/: test$//p'); do
        since=$SECONDS
        TRANSLORA_DEVICE=$device "$program" --exact "$name" --nocapture --test-threads=1 \
            >"$log" 2>&1 && rc=0 || rc=$?
        grep -E "difference|error|predicted|operations|parts" "$log" || true
        if [ "$rc" = 0 ]; then
            passed=$((passed + 1))
            echo "ok      $name, $((SECONDS - since)) s"
        else
            failed=$((failed + 1))
            tail -n 20 "$log"
            echo "FAILED  $name ($rc), $((SECONDS - since)) s"
        fi
    done
}

finish() {
    rm -f "$log"
    echo "$passed tests passed on $1, $failed failed"
    [ "$failed" = 0 ]
}

# test_device DEVICE: with the module that was built.
test_device() {
    local device=$1 test program
    passed=0 failed=0 log=$(mktemp)
    export GGML_BACKEND_PATH=$module
    for test in "${device_tests[@]}"; do
        echo "== $test on $device"
        program=$(test_program "$test")
        run_tests "$PWD/${program#"$PWD/"}" "$device"
    done
    finish "$device"
}

# pack_device FOLDER: what `run_packed` needs. The tests look for their models where they were
# built.
pack_device() {
    local folder=$1 test program
    mkdir -p "$folder"
    cp -L "$(dirname "$module")"/libggml-* "$folder/"
    cargo build -p translora
    cp "$CARGO_TARGET_DIR/debug/translora" "$folder/"
    for test in "${device_tests[@]}"; do
        program=$(test_program "$test")
        cp "$program" "$folder/test-$test"
    done
    echo "carry $folder and this repository's folder (at the same path) to the machine with the GPU"
}

# run_packed FOLDER DEVICE
run_packed() {
    local folder=$1 device=$2 test
    passed=0 failed=0 log=$(mktemp)
    for test in "${device_tests[@]}"; do
        echo "== $test on $device"
        run_tests "$folder/test-$test" "$device"
    done
    finish "$device"
}
