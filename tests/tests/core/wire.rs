//! One value has one encoding, and everything else is refused: never guessed at, never a panic.

use std::fmt::Debug;

use keyfold_protocol::bytes::Bytes;
use keyfold_protocol::client::*;
use keyfold_protocol::host::*;
use keyfold_protocol::ids::*;
use keyfold_protocol::limits;
use keyfold_protocol::wire::{self, Items, Malformed, PADDING_HEADER};
use keyfold_tests::generate::{Generate, Source, Variants};
use keyfold_tests::samples::{self, encode};
use keyfold_tests::world::items;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// Refused, or the encoding of what was decoded.
#[track_caller]
fn assert_canonical(sample: &samples::Sample, bytes: &[u8]) {
    if let Some(again) = (sample.strict)(bytes) {
        assert_eq!(again, bytes, "{}: a second encoding", sample.name);
    }
}

#[test]
fn every_sample_survives_the_way() {
    for sample in samples::all() {
        assert_eq!((sample.strict)(&sample.bytes), Some(sample.bytes.clone()), "{}", sample.name);
    }
}

#[test]
fn trailing_bytes_are_refused() {
    for sample in samples::all() {
        for trailing in [&[0][..], &[0x80], &[0; 64]] {
            let longer = [&sample.bytes, trailing].concat();
            assert_eq!((sample.strict)(&longer), None, "{}", sample.name);
            // The control: postcard alone does not mind.
            assert_eq!((sample.lenient)(&longer), Some(sample.bytes.clone()), "{}", sample.name);
        }
    }
}

#[test]
fn every_cut_is_refused() {
    for sample in samples::all() {
        for length in 0..sample.bytes.len() {
            assert_eq!((sample.strict)(&sample.bytes[..length]), None, "{}", sample.name);
        }
    }
}

/// A longer form of the integer at each place that holds one: the same value to postcard.
#[test]
fn over_long_integers_are_refused_wherever_an_integer_stands() {
    let mut found = 0;
    for sample in samples::all() {
        let mut here = 0;
        for (at, byte) in sample.bytes.iter().enumerate().filter(|(_, byte)| **byte < 0x80) {
            let (before, after) = (&sample.bytes[..at], &sample.bytes[at + 1..]);
            for padding in [&[0][..], &[0x80, 0]] {
                let longer = [before, &[byte | 0x80], padding, after].concat();
                if (sample.lenient)(&longer).as_ref() == Some(&sample.bytes) {
                    here += 1;
                    assert_eq!((sample.strict)(&longer), None, "{} at {at}", sample.name);
                }
                assert_canonical(&sample, &longer);
            }
        }
        found += here;
        // Every sample has one at least: the variant, a length or a version.
        assert!(here > 0, "{}: no integer was found", sample.name);
    }
    assert!(found > 400, "{found} places");
}

#[test]
fn every_flipped_bit_gives_another_value_or_none() {
    for sample in samples::all() {
        for bit in 0..sample.bytes.len() * 8 {
            let mut flipped = sample.bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_canonical(&sample, &flipped);
        }
    }
}

#[test]
fn unknown_variants_are_refused() {
    fn check<'a, T: Variants + Serialize + Deserialize<'a> + Debug>() {
        let count = T::NAMES.len();
        for unknown in [count, count + 1, 0x7f] {
            // Zeros behind it: enough for any variant there is.
            let mut bytes = vec![0; 1024];
            bytes[0] = u8::try_from(unknown).expect("few variants");
            let bytes: &'static [u8] = bytes.leak();
            for length in 0..bytes.len() {
                assert!(wire::decode::<T>(&bytes[..length]).is_err(), "{:?}", T::NAMES);
            }
        }
    }
    check::<Class>();
    check::<KeyKind>();
    check::<Request>();
    check::<Algorithm>();
    check::<Action>();
    check::<Success>();
    check::<AuditKind>();
    check::<Refusal>();
    check::<HostRequest>();
    check::<FreshRead>();
    check::<KeyWrap>();
    check::<HostReply>();
    check::<HostRefusal>();
}

#[test]
fn booleans_and_options_have_two_values() {
    for tag in 2..=u8::MAX {
        let class = [3, tag];
        let class = [&class[..], &[0; 32]].concat();
        assert_eq!(wire::decode::<Class>(&class), Err(Malformed), "Put with option tag {tag}");
        let outcome = [tag, 0];
        assert!(wire::decode::<Outcome>(&outcome).is_err(), "outcome with tag {tag}");
    }
}

/// Each length at its limit, and one past it.
#[test]
fn lengths_past_their_limits_are_refused() {
    fn check<'a, T: Serialize + Deserialize<'a> + Debug>(what: &str, limit: usize, item: &[u8]) {
        let encoded = |length: usize| -> &'static [u8] {
            [&encode(&length)[..], &item.repeat(length)].concat().leak()
        };
        wire::decode::<T>(encoded(limit)).unwrap_or_else(|_| panic!("{what} at its limit"));
        assert!(wire::decode::<T>(encoded(limit + 1)).is_err(), "{what} past its limit");
    }
    let device = encode(&DeviceView {
        id: DeviceId([1; 16]),
        name: Name::try_from("laptop").expect("short"),
    });
    check::<Name>("name", limits::NAME, b"a");
    check::<RpId>("rp id", limits::RP_ID, b"a");
    check::<UserHandle>("user handle", limits::USER_HANDLE, b"a");
    check::<Label>("label", limits::LABEL, b"a");
    check::<heapless::Vec<i32, { limits::ALGORITHMS }>>("algorithms", limits::ALGORITHMS, &[13]);
    check::<heapless::Vec<DeviceView, { limits::DEVICES }>>("devices", limits::DEVICES, &device);
}

/// A length that promises more than there is, up to all of memory.
#[test]
fn lengths_past_the_end_are_refused() {
    for length in [1, 2, 127, 128, 1 << 20, u64::from(u32::MAX), u64::MAX] {
        let bytes = encode(&length);
        assert!(wire::decode::<&[u8]>(&bytes).is_err());
        assert!(wire::decode::<Name>(&bytes).is_err());
        assert!(wire::decode::<UserHandle>(&bytes).is_err());
        assert!(wire::decode::<Items<Event>>(&bytes).is_err());
    }
}

#[test]
fn integers_past_their_type_are_refused() {
    let too_large = encode(&(u64::from(u32::MAX) + 1));
    assert!(wire::decode::<u32>(&too_large).is_err());
    assert!(wire::decode::<u32>(&encode(&u32::MAX)).is_ok());
    // Ten bytes hold 70 bits; a u64 has 64.
    assert!(wire::decode::<u64>(&[[0xff; 9].as_slice(), &[1]].concat()).is_ok());
    assert!(wire::decode::<u64>(&[[0xff; 9].as_slice(), &[2]].concat()).is_err());
    assert!(wire::decode::<u64>(&[[0xff; 10].as_slice(), &[1]].concat()).is_err());
}

#[test]
fn names_are_utf_8() {
    let bad: [&[u8]; 6] = [
        b"\xff",
        b"\xc3",
        b"a\x80",
        b"\xc0\x80",         // over-long NUL
        b"\xed\xa0\x80",     // a surrogate
        b"\xf4\x90\x80\x80", // past the last character
    ];
    for bytes in bad {
        let encoded = [&encode(&bytes.len())[..], bytes].concat();
        assert!(wire::decode::<Name>(&encoded).is_err(), "{bytes:02x?}");
        assert!(wire::decode::<RpId>(&encoded).is_err(), "{bytes:02x?}");
        assert!(wire::decode::<Label>(&encoded).is_err(), "{bytes:02x?}");
    }
    assert!(wire::decode::<Name>(b"\x02\xc3\xbc").is_ok());
}

#[test]
fn padding_is_zeros_of_the_right_length() {
    let request = SignedRequest {
        device: DeviceId([1; 16]),
        key: KeyKind::Presence,
        guard_seen: 3,
        signature: Bytes([5; 64]),
        request: &[10],
    };
    let mut padded = [0; limits::REQUEST_STEP];
    wire::encode_padded(&request, &mut padded).expect("it fits");
    assert_eq!(wire::decode_padded::<SignedRequest>(&padded), Ok(request.clone()));
    let length = encode(&request).len();

    for at in PADDING_HEADER + length..padded.len() {
        for value in [1, 0x80, 0xff] {
            let mut bad = padded;
            bad[at] = value;
            assert_eq!(wire::decode_padded::<SignedRequest>(&bad), Err(Malformed), "byte {at}");
        }
    }
    for claimed in (0..=padded.len() + 8).chain([usize::MAX >> 33, usize::MAX >> 32]) {
        let mut bad = padded;
        bad[..4].copy_from_slice(&u32::try_from(claimed).expect("32 bits").to_be_bytes());
        let decoded = wire::decode_padded::<SignedRequest>(&bad);
        assert_eq!(decoded.is_ok(), claimed == length, "a claimed length of {claimed}");
    }
    for cut in 0..PADDING_HEADER + length {
        assert!(wire::decode_padded::<SignedRequest>(&padded[..cut]).is_err());
    }
    // One byte too few to hold it.
    assert!(wire::encode_padded(&request, &mut padded[..PADDING_HEADER + length - 1]).is_err());
    assert!(wire::encode_padded(&request, &mut padded[..PADDING_HEADER + length]).is_ok());
}

/// Items are decoded as strictly as messages, one at a time; the first bad one ends the list.
#[test]
fn items_are_strict() {
    let event = samples::event(Action::Put);
    let good = items([event, event].iter());
    assert_eq!(Items::<Event>::new(&good).collect::<Vec<_>>(), [Ok(event), Ok(event)]);
    let cut = Items::<Event>::new(&good[..good.len() - 1]).collect::<Vec<_>>();
    assert_eq!(cut, [Ok(event), Err(Malformed)]);
    // The version, 301, is 0xad 0x02; this is the same, over-long.
    assert_eq!(good[..2], [0xad, 0x02]);
    let long = [&[0xad, 0x82, 0x00], &good[2..]].concat();
    assert_eq!(Items::<Event>::new(&long).collect::<Vec<_>>(), [Err(Malformed)]);
}

/// Encodes, decodes, compares; then checks that no other bytes near by give the same value.
fn survives<'a, T>(source: &mut Source<'a>) -> Result<(), TestCaseError>
where
    T: Generate<'a> + Serialize + for<'de> Decodes<'de> + Debug,
{
    let value = T::generate(source).expect("the source does not fail");
    let bytes = encode(&value);
    let debug = format!("{value:?}");
    prop_assert_eq!(<T as Decodes>::debug(&bytes), Some(debug.clone()));
    prop_assert_eq!(<T as Decodes>::again(&bytes), Some(bytes.clone()));
    prop_assert_eq!(<T as Decodes>::debug(&[&bytes[..], &[0]].concat()), None);
    Ok(())
}

/// Decoding of a type that may borrow, without its lifetime.
trait Decodes<'de> {
    fn debug(bytes: &'de [u8]) -> Option<String>;
    fn again(bytes: &'de [u8]) -> Option<Vec<u8>>;
}

macro_rules! messages {
    ($($test:ident $name:ident $(<$l:lifetime>)?,)*) => {
        $(
            impl<'a, 'de> Decodes<'de> for messages!(@ty $name 'a $($l)?) {
                fn debug(bytes: &'de [u8]) -> Option<String> {
                    wire::decode::<$name>(bytes).ok().map(|value| format!("{value:?}"))
                }
                fn again(bytes: &'de [u8]) -> Option<Vec<u8>> {
                    wire::decode::<$name>(bytes).ok().map(|value| encode(&value))
                }
            }
        )*
        proptest! {
            #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
            $(
                #[test]
                fn $test(source in proptest::collection::vec(any::<u8>(), 0..1500)) {
                    survives::<$name>(&mut Source::new(&source))?;
                }
            )*
        }
        /// Any bytes at all, decoded as every message.
        fn decode_as_everything(bytes: &[u8]) {
            $(
                if let Some(again) = <$name as Decodes>::again(bytes) {
                    assert_eq!(again, bytes, "a second encoding of a {}", stringify!($name));
                }
            )*
        }
    };
    (@ty $name:ident $a:lifetime) => { $name };
    (@ty $name:ident $a:lifetime $l:lifetime) => { $name<$a> };
}

messages! {
    envelope_survives Envelope<'a>,
    signed_request_survives SignedRequest<'a>,
    request_survives Request,
    outcome_survives Outcome<'a>,
    synced_event_survives SyncedEvent,
    audit_event_survives AuditEvent,
    class_survives Class,
    host_request_survives HostRequest<'a>,
    host_reply_survives HostReply<'a>,
    attached_event_survives AttachedEvent<'a>,
    config_survives Config,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        decode_as_everything(&bytes);
        let _ = wire::unpad(&bytes);
        Items::<AttachedEvent>::new(&bytes).for_each(drop);
        Items::<SyncedEvent>::new(&bytes).for_each(drop);
        Items::<&[u8]>::new(&bytes).for_each(drop);
    }

    /// Bytes that are nearly a message get further into the decoder.
    #[test]
    fn near_messages_are_decoded_or_refused(
        which in any::<prop::sample::Index>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let samples = samples();
        let mut bytes = samples[which.index(samples.len())].bytes.clone();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        decode_as_everything(&bytes);
    }

    #[test]
    fn padded_requests_survive(source in proptest::collection::vec(any::<u8>(), 0..900)) {
        let request = SignedRequest::generate(&mut Source::new(&source)).expect("no failure");
        let mut padded = [0xee; 2048];
        wire::encode_padded(&request, &mut padded).expect("it fits");
        prop_assert_eq!(wire::decode_padded::<SignedRequest>(&padded), Ok(request));
    }
}

fn samples() -> &'static [samples::Sample] {
    static SAMPLES: std::sync::OnceLock<Vec<samples::Sample>> = std::sync::OnceLock::new();
    SAMPLES.get_or_init(samples::all)
}
