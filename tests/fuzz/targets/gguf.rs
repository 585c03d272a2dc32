//! A GGUF file of any bytes is refused, or is the same after it was written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use translora_gguf::{Gguf, Header, Writer, dequantize};

fuzz_target!(|bytes: &[u8]| {
    let start = &bytes[..bytes.len() / 2];
    let _ = Header::parse(start, bytes.len() as u64);
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    for tensor in gguf.tensors() {
        let data = gguf.data(tensor);
        assert_eq!(data.len() as u64, tensor.bytes);
        if let Ok(numbers) = dequantize(tensor.kind, data) {
            assert_eq!(numbers.len() as u64, tensor.elements());
        }
    }
    let Ok(again) = Writer::copy_of(&gguf).to_bytes() else {
        return;
    };
    let again = Gguf::parse(&again).expect("what was written is read");
    assert_eq!(again.tensors().len(), gguf.tensors().len());
    assert_eq!(again.metadata().count(), gguf.metadata().count());
});
