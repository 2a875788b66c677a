#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bildkante_gpu_node::fuzzing::model_config(data));
