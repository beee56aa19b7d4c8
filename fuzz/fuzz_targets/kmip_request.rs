#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| qkm_fuzz::kmip_request(data));
