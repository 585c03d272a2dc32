//! Adapters that are folders, in the exchange of a host.

use serde_json::{Value, json};
use translora_abi::Status;

use super::noting;
use crate::toy::World;

/// A folder as PEFT saves it, for a base of one matrix.
fn peft_folder(world: &World) {
    let mut base = translora_gguf::Writer::new();
    base.set("general.type", "model")
        .set("general.architecture", "llama");
    base.tensor_f32("blk.0.ffn_up.weight", &[8, 6], &[0.5; 48]);
    let bytes = base.to_bytes().expect("it is whole");
    std::fs::write(world.path("up.gguf"), bytes).expect("writable");
    let folder = world.path("peft");
    std::fs::create_dir(&folder).expect("writable");
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 4 });
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).expect("writable");
    let half = |shape: [u64; 2], from: u64, to: u64| json!({ "dtype": "F32", "shape": shape, "data_offsets": [from, to] });
    let module = "base_model.model.model.layers.0.mlp.up_proj";
    let mut header = serde_json::Map::new();
    header.insert(format!("{module}.lora_A.weight"), half([2, 8], 0, 64));
    header.insert(format!("{module}.lora_B.weight"), half([6, 2], 64, 112));
    let header = Value::from(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    let data = 0.25_f32.to_le_bytes().repeat(28);
    let file = [length.as_slice(), header.as_bytes(), &data].concat();
    std::fs::write(folder.join("adapter_model.safetensors"), file).expect("writable");
}

/// A host that knows GGUF only exchanges a folder of PEFT.
#[test]
fn a_folder_of_peft_reaches_a_host_as_gguf() {
    let world = World::new();
    peft_folder(&world);
    let text = |name: &str| world.path(name).to_str().expect("UTF-8").to_owned();
    let (host, instance) = noting();
    let adapters = instance.adapters().expect("it has them");
    let swaps = instance.hotswap().expect("it has them");
    adapters.base(&text("up.gguf")).expect("it is a model");
    for path in ["peft", "peft/adapter_model.safetensors"] {
        let swap = swaps.prepare("task", &text(path)).expect("it fits");
        swaps.commit(swap).expect("the host takes it");
        let file = host.loaded.lock().expect("nobody panicked").clone();
        let bytes = std::fs::read(&file).expect("it was written");
        let lora = translora_lora::Lora::read(&bytes).expect("it is GGUF");
        assert_eq!(lora.pairs()[0].matrix, "blk.0.ffn_up.weight", "{path}");
        assert_eq!((lora.rank(), lora.alpha()), (2, 4.0), "{path}");
    }
    let weights = world.path("peft/adapter_model.safetensors");
    std::fs::rename(weights, world.path("peft/adapter_model.bin")).expect("writable");
    let failure = swaps.prepare("task", &text("peft")).expect_err("a pickle");
    assert_eq!(failure.status, Status::Input);
    assert!(failure.message.contains("pickle"), "{failure:?}");
}
