# Sourced by the other scripts: picks the instruction set of this machine and a target folder that
# carries its name.
# shellcheck shell=bash
if [ "$(uname -m)" = x86_64 ] && [ -r /proc/cpuinfo ]; then
    flags=" $(sed -n 's/^flags[^:]*: //p' /proc/cpuinfo | head -n 1) "
    has() { case "$flags" in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
    if ! has avx2 || ! has fma || ! has f16c || ! has bmi2; then
        echo "this processor has no AVX2: translora needs an x86-64-v3 machine (or Arm)" >&2
        return 2
    fi
    isa=x86-64-v3 features=
    if has avx512f && has avx512bw && has avx512cd && has avx512dq && has avx512vl; then
        isa=x86-64-v4
        has avx512_vnni && features="-C target-feature=+avx512vnni" && isa=x86-64-v4-vnni
    fi
    export RUSTFLAGS="${RUSTFLAGS:--C target-cpu=${isa%-vnni} $features}"
else
    isa=$(uname -m)
fi
# As the program does for itself (src/bin/translora/job.rs): tests and examples do not.
export GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target/$isa}"

# toy_cargo COMMAND WORDS...: cargo for the crates that need no C, in a target folder of their own.
toy_cargo() {
    local command=$1 crates=(-p translora -p translora-abi -p translora-gguf -p translora-lora)
    shift
    CARGO_TARGET_DIR=target/toy cargo "$command" --no-default-features "${crates[@]}" "$@"
}
