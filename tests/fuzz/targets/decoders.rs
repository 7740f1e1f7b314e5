//! Any bytes, as every message: decoded to a value with exactly this encoding, or refused.
#![no_main]

use keyfold_protocol::client::{
    AuditEvent, Class, Envelope, Outcome, Request, SignedRequest, SyncedEvent,
};
use keyfold_protocol::host::{AttachedEvent, Config, Event, HostReply, HostRequest};
use keyfold_protocol::wire::{self, Items};
use keyfold_tests::samples;
use libfuzzer_sys::fuzz_target;

macro_rules! decode_as {
    ($bytes:expr, $($ty:ident)*) => {$(
        if let Ok(value) = wire::decode::<$ty>($bytes) {
            assert_eq!(samples::encode(&value), $bytes, "a second encoding: {value:?}");
        }
    )*};
}

fuzz_target!(init: keyfold_fuzz::write_seeds(seeds()), |bytes: &[u8]| {
    decode_as!(bytes, Envelope SignedRequest Request Outcome SyncedEvent AuditEvent Class);
    decode_as!(bytes, HostRequest HostReply AttachedEvent Config Event);
    if let Ok(value) = wire::unpad(bytes) {
        assert!(value.len() + wire::PADDING_HEADER <= bytes.len());
    }
    if let Ok(signed) = wire::decode_padded::<SignedRequest>(bytes) {
        let mut again = vec![0xee; bytes.len()];
        wire::encode_padded(&signed, &mut again).expect("it fitted before");
        assert_eq!(again, bytes);
    }
    let items: Vec<_> = Items::<Event>::new(bytes).collect();
    let good = items.iter().flatten().flat_map(samples::encode);
    assert!(bytes.iter().copied().zip(good).all(|(was, is)| was == is));
    Items::<AttachedEvent>::new(bytes).for_each(drop);
});

fn seeds() -> Vec<Vec<u8>> {
    samples::all().into_iter().map(|sample| sample.bytes).collect()
}
