//! An adapter of any bytes is refused, or all that is said of it is sound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use translora_gguf::Gguf;
use translora_lora::{Lora, finite, limits::ALPHA_MAX};

fuzz_target!(|bytes: &[u8]| {
    let Ok(lora) = Lora::read(bytes) else { return };
    assert!(lora.alpha().is_finite() && lora.alpha() != 0.0 && lora.alpha().abs() <= ALPHA_MAX);
    assert!(lora.rank() > 0 && !lora.pairs().is_empty());
    let gguf = Gguf::parse(bytes).expect("a sound adapter is a GGUF file");
    for tensor in gguf.tensors() {
        assert!(matches!(finite(tensor.kind, gguf.data(tensor)), Ok(Ok(_))));
    }
});
